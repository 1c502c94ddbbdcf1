package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
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
