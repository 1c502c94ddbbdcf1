package client

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestTokenStaysWithTheServer: a redirect, also one to the same host without
// TLS, is an answer and not a place to go.
func TestTokenStaysWithTheServer(t *testing.T) {
	asked := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer plain.Close()
	srv := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c, err := New(Config{Addresses: []string{srv.URL}, Token: "ct_a_b", TLS: &tls.Config{RootCAs: roots}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if resp, err := c.Do(t.Context(), Request{Method: "GET", Path: "/v1/apps"}); err == nil || asked {
		t.Errorf("got %v, %v, followed: %v", resp, err, asked)
	}
}

// TestTooMuchIsSaidAtOnce: what no server would take is not sent, nor tried again.
func TestTooMuchIsSaidAtOnce(t *testing.T) {
	asked := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer s.Close()
	c, err := New(Config{Addresses: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	app := &api.App{Meta: api.Meta{Namespace: "default", Name: "web"}}
	app.Spec.Env = map[string]string{"A": strings.Repeat("x", api.MaxObject)}
	if _, err := Of(c, api.Apps).Create(t.Context(), app); !api.Is(err, api.TooLarge) || !strings.Contains(err.Error(), "apps/web") || asked > 0 {
		t.Errorf("%d requests, %v", asked, err)
	}
}

// Who reaches none of several servers hears of all of them.
func TestAllThatAreSilentAreNamed(t *testing.T) {
	var all []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, "https://"+l.Addr().String())
		l.Close()
	}
	c, err := New(Config{Addresses: all})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Do(t.Context(), Request{Method: http.MethodGet, Path: "/v1/nodes"})
	if !api.Is(err, api.Unready) {
		t.Fatalf("got %v", err)
	}
	for _, at := range all {
		if !strings.Contains(err.Error(), at) {
			t.Errorf("%s is not named: %v", at, err)
		}
	}
}
