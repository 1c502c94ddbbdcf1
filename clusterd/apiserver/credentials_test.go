package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestCredentialsThatAreNone: whoever shows something that is not good, is good
// no more, or is good for something else, is refused over the wire by words that
// say what it is; nothing comes of it.
func TestCredentialsThatAreNone(t *testing.T) {
	t.Parallel()
	c := startTLS(t, Config{})
	ctx := t.Context()
	join := func(tok pki.JoinToken, name string) *pki.Identity {
		t.Helper()
		res, err := pki.Join(ctx, c.addr, tok, pki.JoinRequest{Name: name, Address: "10.0.0.1:7946"})
		if err != nil {
			t.Fatal(err)
		}
		return res.Identity
	}
	tok := c.token(t, api.TokenSpec{MaxUses: 9})
	alive, gone := join(tok, "w1"), join(tok, "w2")
	if err := client.Of(c.system, api.Nodes).Delete(ctx, "", "w2", ""); err != nil {
		t.Fatal(err)
	}
	put(t, c.Server, "/v1/servers/s1", `{"spec":{"address":"10.0.0.1:7443"}}`, 201)
	issued := func(ca *pki.CA, life time.Duration, id pki.ID) *pki.Identity { return issue(t, ca, life, id) }
	w1 := pki.ID{Role: pki.Node, Name: "w1"}
	other := must(pki.NewCA("test"))(t)
	// Of another cluster, by whom it is shown here to this one's servers all the same.
	foreign := issued(other, 0, w1).ClientTLS()
	foreign.VerifyConnection = alive.ClientTLS().VerifyConnection
	user, old, never := pki.NewUserToken(), pki.NewUserToken(), pki.NewUserToken()
	for u, ends := range map[pki.UserToken]time.Time{user: {}, old: time.Now().Add(-time.Minute)} {
		must(client.Of(c.system, api.Tokens).Create(ctx, &api.Token{Meta: api.Meta{Name: u.ID}, Spec: api.TokenSpec{Role: api.RoleAdmin, Hash: u.Hash(), ExpiresAt: ends}}))(t)
	}
	for name, tc := range map[string]struct {
		token string
		conf  *tls.Config
		code  api.Code
		want  string
	}{
		"nothing":                               {"", nil, api.Unauthenticated, "no token: send the header Authorization"},
		"a join token as a bearer token":        {tok.Reveal(), nil, api.Unauthenticated, "this is a join token (CJ1.…); the API needs one that starts with ct_"},
		"the secret of a join token":            {pki.UserToken{ID: tok.ID, Secret: tok.Secret}.Reveal(), nil, api.Unauthenticated, "this token is for machines to join with"},
		"a token that has expired":              {old.Reveal(), nil, api.Unauthenticated, "the token expired on"},
		"a token of another cluster":            {never.Reveal(), nil, api.Unauthenticated, "it was revoked, mistyped, or is not of this cluster"},
		"another's id with one's own secret":    {pki.UserToken{ID: user.ID, Secret: old.Secret}.Reveal(), nil, api.Unauthenticated, "it was revoked, mistyped, or is not of this cluster"},
		"a node that was deleted":               {"", gone.ClientTLS(), api.Unauthenticated, "node w2 was deleted: join it again with a new token"},
		"one that also has a token":             {user.Reveal(), gone.ClientTLS(), api.Unauthenticated, "node w2 was deleted: join it again with a new token"},
		"a node that never joined":              {"", issued(c.ca, 0, pki.ID{Role: pki.Node, Name: "w9"}).ClientTLS(), api.Unauthenticated, "node w9 was deleted"},
		"a server that is none":                 {"", issued(c.ca, 0, pki.ID{Role: pki.Server, Name: "w1"}).ClientTLS(), api.Unauthenticated, "server w1 was deleted"},
		"a server as a node":                    {"", issued(c.ca, 0, pki.ID{Role: pki.Server, Name: "s1"}).ClientTLS(), api.Denied, "server:s1 may not write the status of nodes"},
		"the node itself":                       {"", alive.ClientTLS(), 0, ""},
		"a certificate that has expired":        {"", issued(c.ca, time.Nanosecond, w1).ClientTLS(), api.Unready, "does not take this machine's certificate (tls: expired certificate)"},
		"a certificate of another cluster":      {"", foreign, api.Unready, "does not take this machine's certificate (tls: unknown certificate authority)"},
		"a server of another cluster is called": {"", issued(other, 0, w1).ClientTLS(), api.Unready, "is no server of this cluster, by its certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := c.client(t, tc.token, tc.conf)
			is := api.NodeStatus{Address: "10.9.9.9"}
			if tc.code == 0 {
				is.Address = "10.0.0.1"
			}
			// A client has done its part of the handshake before the server looks at
			// its certificate: what that says of it may be lost with the connection.
			var err error
			for range 20 {
				err = cl.Call(ctx, http.MethodPut, "/v1/nodes/w1/status", nil, api.Node{Status: is}, nil)
				if tc.code != api.Unready || api.CodeOf(err) != api.Unready || strings.Contains(err.Error(), tc.want) {
					break
				}
			}
			if api.CodeOf(err) != tc.code || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %d %s", err, tc.code, tc.want)
			}
		})
	}
	if got := must(client.Of(c.system, api.Nodes).Get(ctx, "", "w1"))(t); got.Status.Address != "10.0.0.1" {
		t.Errorf("w1 is at %q", got.Status.Address)
	}
}

// issue makes an identity whose certificate lives that long, or as usual.
func issue(t *testing.T, ca *pki.CA, life time.Duration, id pki.ID) *pki.Identity {
	t.Helper()
	ca.Life = life
	defer func() { ca.Life = 0 }()
	return must(ca.NewIdentity(id))(t)
}

// TestServersThatAreNone: neither a person's token nor a machine's word goes to
// whoever answers at the address of a server and is none, or is none any more.
func TestServersThatAreNone(t *testing.T) {
	t.Parallel()
	ca, other := must(pki.NewCA("test"))(t), must(pki.NewCA("test"))(t)
	w1 := pki.ID{Role: pki.Node, Name: "w1"}
	s1 := pki.ID{Role: pki.Server, Name: "s1"}
	agent := issue(t, ca, 0, w1)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	for name, who := range map[string]*pki.Identity{
		"another cluster's":    issue(t, other, 0, s1),
		"a node":               issue(t, ca, 0, pki.ID{Role: pki.Node, Name: "w2"}),
		"the node itself":      agent,
		"one that has expired": issue(t, ca, time.Nanosecond, s1),
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				t.Errorf("it was told %s %s, by %q", r.Method, r.URL, r.Header.Get("Authorization"))
			}))
			srv.TLS, srv.Config.ErrorLog = who.ServerTLS(), log.New(io.Discard, "", 0)
			srv.StartTLS()
			defer srv.Close()
			for _, cfg := range []client.Config{
				{TLS: agent.ClientTLS()},
				{TLS: &tls.Config{RootCAs: roots}, Token: pki.NewUserToken().Reveal()},
			} {
				cfg.Addresses = []string{srv.URL}
				cl := must(client.New(cfg))(t)
				defer cl.Close()
				err := cl.Call(t.Context(), http.MethodGet, "/v1/nodes", nil, nil, nil)
				want := map[bool]string{false: "is no server of this cluster, by its certificate", true: "shows a certificate that this cluster's CA did not sign"}[cfg.Token != ""]
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want: %s", err, want)
				}
			}
		})
	}
}
