//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
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

// A node that was deleted joins anew once it is given another token; it does not
// for the one that it joined with, nor because no server answers.
func TestExpelledNodeJoinsAnew(t *testing.T) {
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.NewIdentity(pki.ID{Role: pki.Server, Name: "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	node, err := ca.NewIdentity(pki.ID{Role: pki.Node, Name: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	code := api.Unauthenticated
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(code))
		_ = json.NewEncoder(w).Encode(api.Errorf(code, "node w1 was deleted"))
	}))
	srv.TLS = server.ServerTLS()
	srv.StartTLS()
	defer srv.Close()
	used, given := pki.NewJoinToken(ca.Pin()), pki.NewJoinToken(ca.Pin())
	s := settings{Name: "w1", DataDir: t.TempDir(), token: given.Reveal()}
	if err := node.Save(s.identityDir()); err != nil {
		t.Fatal(err)
	}
	if err := s.saveMembership(membership{Name: "w1", Servers: []string{srv.Listener.Addr().String()}, Token: used.ID}); err != nil {
		t.Fatal(err)
	}
	log := hclog.NewNullLogger()
	if !s.expelled(t.Context(), log) {
		t.Error("it was deleted, has a new token, and does not join with that")
	}
	if s.token = used.Reveal(); s.expelled(t.Context(), log) {
		t.Error("it would join anew with the token that it joined with")
	}
	s.token, code = given.Reveal(), api.Unready
	if s.expelled(t.Context(), log) {
		t.Error("no server answers, and it takes itself for deleted")
	}
}
