package pki

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestSecretIsNotSentOn: who answers a join with another address gets no more.
func TestSecretIsNotSentOn(t *testing.T) {
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.NewIdentity(ID{Server, "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer plain.Close()
	srv := httptest.NewUnstartedServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	srv.TLS = id.ServerTLS()
	srv.StartTLS()
	defer srv.Close()
	_, err = Join(t.Context(), srv.Listener.Addr().String(), NewJoinToken(ca.Pin()), JoinRequest{Name: "w1"})
	if r, ok := errors.AsType[*RefusedError](err); !ok || r.Status != 307 || asked {
		t.Errorf("%v, the secret was sent on: %v", err, asked)
	}
}

// TestIssued: how far a certificate is backdated depends on its life.
func TestIssued(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, 50 * time.Minute, LeafLife} {
		ca, err := NewCA("test")
		if err != nil {
			t.Fatal(err)
		}
		ca.Life = life
		id, err := ca.NewIdentity(ID{Node, "w1"})
		if err != nil {
			t.Fatal(err)
		}
		if off := time.Since(Issued(id.Leaf())); off < -time.Second || off > 3*time.Second {
			t.Errorf("a certificate for %s seems to be %s old", life, off)
		}
	}
}
