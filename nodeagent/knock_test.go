//go:build linux

package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestTakenNameIsAskedForAgain: after a power cut a server takes the machine
// for alive for a moment; another no is final.
func TestTakenNameIsAskedForAgain(t *testing.T) {
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.NewIdentity(pki.ID{Role: pki.Server, Name: "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.WriteHeader(http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	srv.TLS = id.ServerTLS()
	srv.StartTLS()
	defer srv.Close()
	s := settings{Name: "w1", server: srv.Listener.Addr().String()}
	_, err = s.knock(t.Context(), pki.NewJoinToken(ca.Pin()), hclog.NewNullLogger())
	if no, ok := errors.AsType[*pki.RefusedError](err); !ok || no.Status != http.StatusUnauthorized || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}
