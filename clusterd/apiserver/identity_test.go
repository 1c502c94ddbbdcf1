package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// trusting lets s take certificates, of the CA it returns.
func trusting(t *testing.T, s *Server) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	ca.Life = time.Hour
	s.cfg.Peer = func(cs *tls.ConnectionState) (string, string, bool) {
		role, name, ok := pki.Peer(cs)
		return string(role), name, ok
	}
	return ca
}

// shown is a connection on which the certificate of id, signed now, is shown.
func shown(t *testing.T, ca *pki.CA, id pki.ID) *tls.ConnectionState {
	t.Helper()
	own, err := ca.NewIdentity(id)
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{own.Leaf()}
	return &tls.ConnectionState{PeerCertificates: chain, VerifiedChains: [][]*x509.Certificate{chain}}
}

// over asks on a connection, and with a token.
func over(s *Server, conn *tls.ConnectionState, token, method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.TLS = conn
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// TestCertificateOfAnEarlierMember: deleting a node or server ends its
// certificate, also when a new machine has its name by then.
func TestCertificateOfAnEarlierMember(t *testing.T) {
	for role, path := range map[pki.Role]string{pki.Node: "/v1/nodes/", pki.Server: "/v1/servers/"} {
		bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
			id := pki.ID{Role: role, Name: "m1"}
			ca := trusting(t, s)
			want := func(what string, conn *tls.ConnectionState, code int) {
				t.Helper()
				synctest.Wait() // who is admitted is read from the cache, which hears of it a moment later
				if w := over(s, conn, "", "GET", path+"m1"); w.Code != code {
					t.Errorf("%s: %d %s, want %d", what, w.Code, w.Body, code)
				}
			}
			body := `{"spec":{}}`
			if role == pki.Server {
				body = `{"spec":{"address":"10.0.0.1:7443"}}`
			}
			old := shown(t, ca, id)
			want("nobody of that name", old, 401)
			put(t, s, path+"m1", body, 201)
			want("the member itself", old, 200)
			time.Sleep(time.Hour)
			call(s, system, "DELETE", path+"m1", "")
			want("the deleted member", old, 401)
			fresh := shown(t, ca, id)
			put(t, s, path+"m1", body, 201)
			want("the deleted member, its name taken again", old, 401)
			want("the new member", fresh, 200)
		})
	}
}

// TestServersSeeWhoIsThere: a server has the store; its certificate is no
// second way to everything.
func TestServersSeeWhoIsThere(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		put(t, s, "/v1/servers/s1", `{"spec":{"address":"10.0.0.1:7443"}}`, 201)
		put(t, s, "/v1/namespaces/default/configs/web", `{"spec":{"data":{"a":"b"}}}`, 201)
		conn := shown(t, trusting(t, s), pki.ID{Role: pki.Server, Name: "s1"})
		seen := []string{"GET /v1/nodes", "GET /v1/servers", "GET /v1/servers/{name}", "GET /v1/openapi.json"}
		for _, rt := range s.routes() {
			if rt.open {
				continue
			}
			path := strings.NewReplacer("{namespace}", "default", "{name}", "s1").Replace(rt.path)
			w := over(s, conn, "", rt.method, path)
			if given := w.Code < 300; given != slices.Contains(seen, rt.method+" "+rt.path) {
				t.Errorf("%s %s: %d %s", rt.method, path, w.Code, w.Body)
			}
		}
	})
}

// TestDeletedMemberReadsNothing: also while the server that it asks has not heard
// of its deletion, though that was acknowledged.
func TestDeletedMemberReadsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "1", "1Gi")
		conn := shown(t, trusting(t, s), pki.ID{Role: pki.Node, Name: "w1"})
		synctest.Wait()
		before := s.cache.now.Load()
		if err := client.Of(c, api.Nodes).Delete(t.Context(), "", "w1", ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		after := s.cache.now.Load()
		for _, path := range []string{"/v1/nodes", "/v1/nodes/w1", "/v1/pods?node=w1", "/v1/nodes?watch=true"} {
			s.cache.now.Store(before)
			time.AfterFunc(10*time.Millisecond, func() {
				s.cache.now.Store(after)
				s.cache.announce()
			})
			if w := over(s, conn, "", "GET", path); w.Code != 401 {
				t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}

// TestConnectionOutlivesItsCertificate: what comes on a connection after the
// certificate that was shown has ended is refused, and the client told to open
// another, on which it shows the renewed one.
func TestConnectionOutlivesItsCertificate(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "1", "1Gi")
		conn := shown(t, trusting(t, s), pki.ID{Role: pki.Node, Name: "w1"})
		if w := over(s, conn, "", "GET", "/v1/nodes"); w.Code != 200 || w.Header().Get("Connection") != "" {
			t.Errorf("in its life: %d, Connection: %q", w.Code, w.Header().Get("Connection"))
		}
		time.Sleep(time.Until(conn.PeerCertificates[0].NotAfter) + time.Second)
		if w := over(s, conn, "", "GET", "/v1/nodes"); w.Code != 503 || w.Header().Get("Connection") != "close" {
			t.Errorf("after its end: %d %s, Connection: %q", w.Code, w.Body, w.Header().Get("Connection"))
		}
	})
}

// holding keeps tunnels open as long as it may.
type holding struct{ agents }

func (*holding) ServeUpgrade(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }

// endless is an agent whose answers never end.
type endless struct{}

func (endless) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestWhatIsOpenEndsWithTheRightToIt: a watch, a tunnel and a pod's logs that
// were there before somebody lost his place here tell him nothing more.
func TestWhatIsOpenEndsWithTheRightToIt(t *testing.T) {
	t.Parallel()
	nodes, users := []string{"/v1/nodes?watch=true", "/v1/tunnel"}, []string{"/v1/apps?watch=true", "/v1/namespaces/default/pods/web/logs?follow=true"}
	for name, tc := range map[string]struct {
		open []string
		ends func(ctx context.Context, c *client.Client) error
	}{
		"a node is deleted": {nodes, func(ctx context.Context, c *client.Client) error {
			return client.Of(c, api.Nodes).Delete(ctx, "", "w1", "")
		}},
		"a certificate ends": {nodes, func(context.Context, *client.Client) error { time.Sleep(time.Hour); return nil }},
		"a token is revoked": {users, func(ctx context.Context, c *client.Client) error {
			return client.Of(c, api.Tokens).Delete(ctx, "", "ci", "")
		}},
		"a token expires": {users, func(context.Context, *client.Client) error { time.Sleep(time.Hour); return nil }},
		"a token gets new hash": {users, func(ctx context.Context, c *client.Client) error {
			_, err := client.Of(c, api.Tokens).Put(ctx, userToken("ci", pki.NewUserToken().Hash()))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *Server, c *client.Client) {
				s.cfg.Tunnels = &holding{agents{nodes: map[string]*http.Client{"w1": {Transport: endless{}}}}}
				makeNode(t, c, "w1", "1", "1Gi")
				makePod(t, c, "web", "10m", "16Mi")
				bindPod(t, c, "web", "w1")
				u := pki.UserToken{ID: "ci", Secret: pki.NewUserToken().Secret}
				must(client.Of(c, api.Tokens).Create(t.Context(), userToken("ci", u.Hash())))(t)
				conn, token := shown(t, trusting(t, s), pki.ID{Role: pki.Node, Name: "w1"}), ""
				if tc.open[0] == users[0] {
					conn, token = nil, u.Reveal()
				}
				ended := make(chan string, len(tc.open))
				for _, path := range tc.open {
					go func() {
						w := over(s, conn, token, "GET", path)
						ended <- fmt.Sprint(path, w.Code)
					}()
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(ended) != 0 {
					t.Fatalf("%s ended by itself", <-ended)
				}
				if err := tc.ends(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * roundEvery)
				synctest.Wait()
				if len(ended) != len(tc.open) {
					t.Errorf("%d of %d ended", len(ended), len(tc.open))
				}
			})
		})
	}
}

// orderly is an agent that begins an answer and ends it in order when it is left.
type orderly struct{}

func (orderly) RoundTrip(r *http.Request) (*http.Response, error) {
	body, w := io.Pipe()
	go func() {
		io.WriteString(w, "line\n")
		<-r.Context().Done()
		w.Close()
	}()
	return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: body}, nil
}

// TestWhatIsCutOffLooksSo: a log that ends because its reader may see no more is
// not one that came to its end.
func TestWhatIsCutOffLooksSo(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.cfg.Tunnels = &agents{nodes: map[string]*http.Client{"w1": {Transport: orderly{}}}}
		makeNode(t, c, "w1", "1", "1Gi")
		makePod(t, c, "web", "10m", "16Mi")
		bindPod(t, c, "web", "w1")
		u := pki.UserToken{ID: "ci", Secret: pki.NewUserToken().Secret}
		must(client.Of(c, api.Tokens).Create(t.Context(), userToken("ci", u.Hash())))(t)
		broken := make(chan any, 1)
		go func() {
			defer func() { broken <- recover() }()
			over(s, nil, u.Reveal(), "GET", "/v1/namespaces/default/pods/web/logs?follow=true")
		}()
		time.Sleep(time.Minute)
		if err := client.Of(c, api.Tokens).Delete(t.Context(), "", "ci", ""); err != nil {
			t.Fatal(err)
		}
		if how := <-broken; how != http.ErrAbortHandler {
			t.Errorf("it ended with %v", how)
		}
	})
}

// userToken is a token of an hour.
func userToken(id, hash string) *api.Token {
	return &api.Token{Meta: api.Meta{Name: id}, Spec: api.TokenSpec{Role: api.RoleAdmin, Hash: hash, ExpiresAt: time.Now().Add(time.Hour)}}
}
