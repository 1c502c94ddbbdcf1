package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// start runs a server with its data in dir until stop is called.
func start(t *testing.T, dir string, change ...func(*Config)) (s *Server, stop func()) {
	t.Helper()
	cfg := Config{Name: "s1", DataDir: dir, Listen: "127.0.0.1:0", Gossip: "127.0.0.1:0", InMemory: true}
	for _, f := range change {
		f(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended with: %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("server ended with: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("server does not become ready")
	}
	return s, stop
}

func admin(t *testing.T, s *Server, dir string) *client.Client {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := pki.LoadRoots(filepath.Join(dir, CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Addresses: []string{"https://" + s.Addr()}, Token: strings.TrimSpace(string(token)), TLS: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func etcd(c *Config) { c.InMemory, c.NoSync = false, true }

func TestFirstStartFoundsAClusterAndARestartKeepsIt(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, dir, etcd)
	c := admin(t, s, dir)
	me, err := client.Of(c, api.Servers).Get(t.Context(), "", "s1")
	if err != nil {
		t.Fatal(err)
	}
	if me.Spec.Address != s.Addr() || me.Spec.Gossip == "" {
		t.Errorf("registered as %+v", me.Spec)
	}
	for _, f := range []string{AdminTokenFile, keysFile, filepath.Join(identityDir, "identity.pem")} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, st, err)
		}
	}
	if _, err := client.Of(c, api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: "shop"}}); err != nil {
		t.Fatal(err)
	}
	stop()

	s, _ = start(t, dir, etcd)
	c = admin(t, s, dir) // the same token, the same CA
	if _, err := client.Of(c, api.Namespaces).Get(t.Context(), "", "shop"); err != nil {
		t.Error(err)
	}
	tokens, _, err := client.Of(c, api.Tokens).List(t.Context(), "", nil)
	if err != nil || len(tokens) != 1 {
		t.Errorf("%d tokens after a restart: %v", len(tokens), err)
	}
}

// TestOneAdminToken: who has deleted the file has no new one after a restart.
// Where one is due, since the cluster was restored or its founder's first start
// came to an end too early, it replaces what servers made, and not what people did.
func TestOneAdminToken(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, dir, etcd)
	first := admin(t, s, dir)
	own := pki.NewUserToken()
	if _, err := client.Of(first, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: own.ID}, Spec: api.TokenSpec{Role: api.RoleAdmin, Hash: own.Hash()}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, AdminTokenFile)
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	admins := func(s *Server, want ...string) {
		t.Helper()
		tokens, _, err := client.Of(s.system, api.Tokens).List(t.Context(), "", nil)
		var got []string
		for _, tok := range tokens {
			got = append(got, tok.Meta.Name)
		}
		slices.Sort(want)
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("tokens are %v, want %v: %v", got, want, err)
		}
	}
	id := func() string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := pki.ParseUserToken(string(b))
		if err != nil {
			t.Fatal(err)
		}
		return tok.ID
	}
	old := id()
	stop()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s, stop = start(t, dir, etcd)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file that was deleted: %v", err)
	}
	admins(s, old, own.ID)

	for _, there := range []string{"", string(was), pki.NewUserToken().Reveal(), "no token"} {
		stop()
		if err := errors.Join(os.WriteFile(path, []byte(there), 0o600), os.WriteFile(filepath.Join(dir, tokenDueFile), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		s, stop = start(t, dir, etcd)
		if _, err := client.Of(admin(t, s, dir), api.Servers).Get(t.Context(), "", "s1"); err != nil {
			t.Error(err)
		}
		if id() == old {
			t.Error("the token of before was not replaced")
		}
		admins(s, id(), own.ID)
	}
	stop()
	valid := id()
	if err := os.WriteFile(filepath.Join(dir, tokenDueFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, stop = start(t, dir, etcd)
	if admins(s, valid, own.ID); id() != valid {
		t.Error("a token that is valid was replaced")
	}
	stop()
	s, _ = start(t, dir, etcd)
	admins(s, valid, own.ID)
}

func TestNobodyWithoutTLSAndToken(t *testing.T) {
	dir := t.TempDir()
	s, _ := start(t, dir)
	if resp, err := http.Get("http://" + s.Addr() + "/v1/nodes"); err == nil && resp.StatusCode < 400 {
		t.Errorf("plain HTTP was answered with %s", resp.Status)
	}
	insecure := &tls.Config{InsecureSkipVerify: true}
	for name, cfg := range map[string]client.Config{
		"no token":    {TLS: insecure},
		"wrong token": {TLS: insecure, Token: pki.NewUserToken().Reveal()},
	} {
		cfg.Addresses = []string{"https://" + s.Addr()}
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = client.Of(c, api.Nodes).List(t.Context(), "", nil); !api.Is(err, api.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	if _, err := tls.Dial("tcp", s.Addr(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

func TestMetricsNeedATokenToo(t *testing.T) {
	dir := t.TempDir()
	s, _ := start(t, dir)
	resp, err := admin(t, s, dir).Do(t.Context(), client.Request{Method: http.MethodGet, Path: "/metrics"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), "clusterd_build_info") {
		t.Errorf("got %.200s %v", b, err)
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer stranger.CloseIdleConnections()
	if resp, err := stranger.Get("https://" + s.Addr() + "/metrics"); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger got %v %v", resp, err)
	}
}

func TestStopEndsWatches(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, dir)
	c := admin(t, s, dir)
	watching, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		first := true
		for _, err := range client.Of(c, api.Nodes).Watch(t.Context(), "", nil, 0) {
			if first {
				close(watching)
				first = false
			}
			if err != nil {
				return
			}
		}
	}()
	<-watching
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	<-ended
}

func TestConfigErrorsNameTheFlag(t *testing.T) {
	for want, c := range map[string]Config{
		"--data-dir is required": {},
		`--name "Not a name"`:    {DataDir: "x", Name: "Not a name"},
		`--listen "a:b:c"`:       {DataDir: "x", Name: "s1", Listen: "a:b:c"},
		"overlap: choose others": {DataDir: "x", Name: "s1", Pods: netip.MustParsePrefix("10.0.0.0/8"), Services: netip.MustParsePrefix("10.96.0.0/16")},
	} {
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestLostKeysAreNotReplaced(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, dir, etcd)
	stop()
	if err := os.Remove(filepath.Join(dir, keysFile)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Config{Name: "s1", DataDir: dir, Listen: "127.0.0.1:0", Gossip: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("got %v", err)
	}
}

// TestStrangersAreNotJoined: a server whose authority is another than the
// token's is turned away from at once, and nothing of it is kept.
func TestStrangersAreNotJoined(t *testing.T) {
	s, _ := start(t, t.TempDir())
	dir := t.TempDir()
	began := time.Now()
	_, err := Open(t.Context(), Config{
		Name: "s2", DataDir: dir, Listen: "127.0.0.1:0", Gossip: "127.0.0.1:0", Peer: freeAddr(t),
		Join: []string{s.Addr()}, JoinToken: pki.NewJoinToken(strings.Repeat("0", 64)).Reveal(),
	})
	if _, stranger := errors.AsType[*pki.PinError](err); !stranger || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if _, err := os.Stat(filepath.Join(dir, keysFile)); err == nil {
		t.Error("it has keys")
	}
}

// TestFailedFirstStartFoundsNothing: a server that was let in, and whose store did
// not come to serve, is let in to that cluster by its next start, also without
// being told to join; and a token that nobody is asked with founds none.
func TestFailedFirstStartFoundsNothing(t *testing.T) {
	first, _ := start(t, t.TempDir(), etcd)
	tok := pki.NewJoinToken(first.creds.now.Load().ca.Pin())
	if _, err := client.Of(first.system, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleServer, Hash: tok.Hash(), MaxUses: 1}}); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := Config{Name: "s2", DataDir: dir, Listen: "127.0.0.1:0", Gossip: "127.0.0.1:0", Peer: taken.Addr().String(), JoinToken: tok.Reveal()}
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no --join") {
		t.Errorf("a token and nobody to join: %v", err)
	}
	cfg.Join = []string{first.Addr()}
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "empty "+dir) {
		t.Fatalf("its address is taken: %v", err)
	}
	taken.Close()
	second, stop := start(t, dir, etcd, func(c *Config) { c.Name, c.Peer = "s2", cfg.Peer })
	defer stop()
	if _, err := client.Of(second.system, api.Tokens).Get(t.Context(), "", tok.ID); err != nil {
		t.Errorf("it has another cluster's state: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, admittedFile)); err == nil {
		t.Error("it serves, and is still to be let in")
	}
}
