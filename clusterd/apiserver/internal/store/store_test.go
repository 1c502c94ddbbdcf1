package store_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		m := store.NewMemory()
		t.Cleanup(func() { m.Close() })
		return m
	})
}

func TestEtcd(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openEtcd(t, t.TempDir()) })
}

// TestMemoryInBubble: a watch of Memory blocks durably, so virtual time passes.
func TestMemoryInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := store.NewMemory()
		var seen []int64
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for b := range m.Watch(ctx, "/", 0) {
				seen = append(seen, b.Revision)
			}
		})
		wg.Go(func() {
			for range m.Leading(ctx) {
			}
		})
		synctest.Wait()
		for range 3 {
			time.Sleep(time.Hour)
			if _, err := m.Commit(ctx, store.Txn{Then: []store.Op{store.Put("/a", nil)}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if len(seen) != 4 {
			t.Errorf("watch saw %v", seen)
		}
		cancel()
		wg.Wait()
	})
}

// etcdConfig returns the configuration of a cluster of one, with its peers'
// certificates.
func etcdConfig(t testing.TB, dir string) store.EtcdConfig {
	cert, key := selfSigned(t)
	log := hclog.New(&hclog.LoggerOptions{Name: "etcd", Level: hclog.Error, Output: testWriter{t}})
	return store.EtcdConfig{Dir: dir, Name: "s1", PeerCert: cert, PeerKey: key, PeerCA: cert, Log: log}
}

func openEtcd(t testing.TB, dir string) *store.Etcd {
	t.Helper()
	s, err := store.OpenEtcd(t.Context(), etcdConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// testWriter fails the test on an error. Warnings are no failure: on a busy
// machine etcd has reasons of its own to warn.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Errorf("etcd logs: %s", b)
	return len(b), nil
}

func selfSigned(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server:s1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", raw)
}

// crashDir tells this test binary to be the writer that TestEtcdSurvivesKill kills.
const crashDir = "CLUSTERD_TEST_CRASH_DIR"

// TestEtcdSurvivesKill: what was acknowledged before kill -9 is there after.
func TestEtcdSurvivesKill(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeForever(t, dir)
	}
	dir := t.TempDir()
	acked := map[string]int64{}
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestEtcdSurvivesKill$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir, "TMPDIR="+t.TempDir()) // who is killed removes nothing
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, before := bufio.NewScanner(out), len(acked)
		for lines.Scan() {
			var key string
			var rev int64
			if n, _ := fmt.Sscanf(lines.Text(), "acked %s %d", &key, &rev); n == 2 {
				acked[key] = rev
			}
			if len(acked) == before+200 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if len(acked) < before+200 {
			t.Fatalf("round %d: the writer ended after %d writes", round, len(acked)-before)
		}
	}
	s := openEtcd(t, dir)
	for key, rev := range acked {
		e, err := s.Get(t.Context(), key)
		if err != nil || e.Revision != rev || string(e.Value) != key {
			t.Fatalf("%s was acknowledged at revision %d and is %+v: %v", key, rev, e, err)
		}
	}
	t.Logf("%d acknowledged writes survived three kills", len(acked))
}

// writeForever writes from four goroutines, and prints what was acknowledged.
func writeForever(t *testing.T, dir string) {
	s, err := store.OpenEtcd(t.Context(), etcdConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	var out sync.Mutex
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/c/%d/%d/%d", os.Getpid(), w, i)
				rev, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(key, []byte(key))}})
				if err != nil {
					t.Error(err)
					return
				}
				out.Lock()
				fmt.Printf("acked %s %d\n", key, rev)
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestEtcdReopens(t *testing.T) {
	dir := t.TempDir()
	s := openEtcd(t, dir)
	rev, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("/a", []byte("1"))}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openEtcd(t, dir)
	e, err := s.Get(t.Context(), "/a")
	if err != nil || e.Revision != rev {
		t.Fatalf("got %+v, %v", e, err)
	}
}

// TestEtcdClientIsPrivate: nobody else can reach the client side.
func TestEtcdClientIsPrivate(t *testing.T) {
	dir := t.TempDir()
	openEtcd(t, dir)
	st, err := os.Stat(filepath.Join(dir, "client"))
	if err == nil && st.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory has mode %v", st.Mode())
	}
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	s := openEtcd(t, deep)
	if _, err := s.Revision(t.Context()); err != nil {
		t.Error(err)
	}
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "clusterd-store-*"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	now, _ := filepath.Glob(filepath.Join(os.TempDir(), "clusterd-store-*"))
	if len(now) >= len(left) {
		t.Errorf("Close left %v", now)
	}
}

func TestEtcdWantsPeerCertificates(t *testing.T) {
	if _, err := store.OpenEtcd(t.Context(), store.EtcdConfig{Dir: t.TempDir()}); err == nil {
		t.Fatal("opened without")
	}
}

func BenchmarkCommit(b *testing.B) {
	value := make([]byte, 1000)
	for name, open := range map[string]func() store.Store{
		"memory": func() store.Store { return store.NewMemory() },
		"etcd":   func() store.Store { return openEtcd(b, b.TempDir()) },
	} {
		b.Run(name, func(b *testing.B) {
			s := open()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Commit(b.Context(), store.Txn{Then: []store.Op{store.Put("/k", value)}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
