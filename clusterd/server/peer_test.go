package server

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestStoreTakesServersOnly: the cluster's CA signs for nodes too, and none of
// them may speak for a member of the store.
func TestStoreTakesServersOnly(t *testing.T) {
	dir, at := t.TempDir(), freeAddr(t)
	creds, err := openCredentials(dir, "s1", []string{"127.0.0.1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conf := (&Server{cfg: Config{Name: "s1", DataDir: dir, NoSync: true, Peer: at}, peer: at}).storeConfig(nil)
	s, err := apiserver.Open(t.Context(), apiserver.Config{Name: "s1", Etcd: conf})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for role, hosts := range map[pki.Role][]string{pki.Server: {"127.0.0.1"}, pki.Node: nil} {
		id, err := creds.now.Load().ca.NewIdentity(pki.ID{Role: role, Name: "x1"}, hosts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(t.Context(), at, id.ClientTLS()); (err == nil) != (role == pki.Server) {
			t.Errorf("a %s's certificate: %v", role, err)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ask sends a request over TLS; the answer to it shows that the certificate
// was taken, for TLS 1.3 refuses one only after the handshake.
func ask(ctx context.Context, addr string, conf *tls.Config) error {
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET /version HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, len("HTTP/1.0")))
	return err
}
