package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newTestCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serve is the server half of joining and renewing, as small as it can be.
func serve(t *testing.T, ca *CA, token JoinToken) (addr string) {
	t.Helper()
	own, err := ca.NewIdentity(ID{Server, "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, csr string, id ID) {
		cert, err := ca.Issue([]byte(csr), id)
		if err != nil {
			problem(w, http.StatusBadRequest, err.Error())
			return
		}
		json.NewEncoder(w).Encode(JoinResponse{
			Certificate: string(cert), CA: string(ca.PEM()), GossipKeys: [][]byte{[]byte("key")},
			Node: JoinNode{Name: id.Name, Subnet: "10.244.0.0/24"},
		})
	}
	mux.HandleFunc("POST /v1/join", func(w http.ResponseWriter, r *http.Request) {
		var req JoinRequest
		json.NewDecoder(r.Body).Decode(&req)
		if req.ID != token.ID || !HashMatches(token.Hash(), req.Secret) {
			problem(w, http.StatusUnauthorized, "no such join token")
			return
		}
		answer(w, req.CSR, ID{Node, req.Name})
	})
	mux.HandleFunc("POST /v1/renew", func(w http.ResponseWriter, r *http.Request) {
		role, name, ok := Peer(r.TLS)
		if !ok {
			problem(w, http.StatusUnauthorized, "renewing needs a client certificate")
			return
		}
		var req RenewRequest
		json.NewDecoder(r.Body).Decode(&req)
		answer(w, req.CSR, ID{role, name})
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = own.ServerTLS()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func problem(w http.ResponseWriter, status int, detail string) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"detail": detail})
}

func TestJoinAndRenew(t *testing.T) {
	ca := newTestCA(t)
	token := NewJoinToken(ca.Pin())
	addr := serve(t, ca, token)

	res, err := Join(t.Context(), addr, token, JoinRequest{Name: "w1", Address: "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Identity.ID(); got != (ID{Node, "w1"}) || string(res.GossipKeys[0]) != "key" || res.Node.Subnet != "10.244.0.0/24" {
		t.Fatalf("joined as %s with %+v", got, res.JoinResponse)
	}
	dir := t.TempDir()
	if err := res.Identity.Save(dir); err != nil {
		t.Fatal(err)
	}
	old := res.Identity.Leaf().SerialNumber
	if _, err := Renew(t.Context(), addr, "nodeagent/1", res.Identity); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if now := loaded.Leaf().SerialNumber; now.Cmp(old) == 0 || now.Cmp(res.Identity.Leaf().SerialNumber) != 0 {
		t.Error("the renewed certificate is not the one on disk")
	}
}

func TestJoinRefusals(t *testing.T) {
	ca := newTestCA(t)
	token := NewJoinToken(ca.Pin())
	addr := serve(t, ca, token)

	t.Run("wrong secret", func(t *testing.T) {
		bad := token
		bad.Secret = NewJoinToken(ca.Pin()).Secret
		_, err := Join(t.Context(), addr, bad, JoinRequest{Name: "w1"})
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || refused.Status != 401 || !strings.Contains(err.Error(), "no such join token") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("wrong pin", func(t *testing.T) {
		bad := token
		bad.Pin = newTestCA(t).Pin()
		_, err := Join(t.Context(), addr, bad, JoinRequest{Name: "w1"})
		if _, ok := errors.AsType[*PinError](err); !ok || !strings.Contains(err.Error(), "the server's CA does not match the token's pin: ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a node poses as the server", func(t *testing.T) {
		node, err := ca.NewIdentity(ID{Node, "w9"})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.ErrorLog = discard()
		srv.TLS = node.ServerTLS()
		srv.StartTLS()
		defer srv.Close()
		if _, err := Join(t.Context(), srv.Listener.Addr().String(), token, JoinRequest{Name: "w1"}); err == nil {
			t.Error("joined at a node")
		}
	})
	t.Run("renew without a certificate", func(t *testing.T) {
		var out JoinResponse
		err := post(t.Context(), pinnedTLS(ca.Pin()), "https://"+addr+"/v1/renew", "", RenewRequest{}, &out)
		if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Status != 401 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("renew with another cluster's certificate", func(t *testing.T) {
		other, err := newTestCA(t).NewIdentity(ID{Node, "w1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Renew(t.Context(), addr, "", other); err == nil {
			t.Error("renewed")
		}
	})
	t.Run("a name that is none", func(t *testing.T) {
		_, err := Join(t.Context(), addr, token, JoinRequest{Name: "node:w1"})
		if err == nil || !strings.Contains(err.Error(), "must be 1 to 63 of a-z") {
			t.Errorf("got %v", err)
		}
	})
}

func TestIssueTakesOnlyTheKeyOfTheRequest(t *testing.T) {
	ca := newTestCA(t)
	_, csr, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ca.Issue(csr, ID{Server, "s1"}, "10.0.0.1", "api.example")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCert(b)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject.CommonName != "server:s1" || c.IsCA || len(c.IPAddresses) != 1 || !c.IPAddresses[0].Equal(net.IPv4(10, 0, 0, 1)) {
		t.Errorf("got %s, CA %v, IPs %v", c.Subject, c.IsCA, c.IPAddresses)
	}
	if _, err := ca.Issue(csr, ID{"admin", "x"}); err == nil {
		t.Error("issued for a role that does not exist")
	}
	if _, err := ca.Issue([]byte("junk"), ID{Node, "x"}); err == nil {
		t.Error("issued for junk")
	}
}

func TestUsersVerifyServersTheStockWay(t *testing.T) {
	ca := newTestCA(t)
	addr := serve(t, ca, NewJoinToken(ca.Pin()))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("https://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.TLS.Version != tls.VersionTLS13 {
		t.Errorf("spoke %s over TLS %x", resp.Proto, resp.TLS.Version)
	}
}

// TestAuthorityChanges: who trusts only the old authority takes what the new one
// signs, until the old one is dropped; who joins with a token that pins either
// gets in.
func TestAuthorityChanges(t *testing.T) {
	first, err := NewAuthority("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewAuthority("test", &first)
	if err != nil {
		t.Fatal(err)
	}
	open := func(all ...Authority) *CA {
		t.Helper()
		ca, err := OpenCA(all)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	before, during, after := open(first), open(first, second), open(second)
	identity := func(ca *CA, id ID) *Identity {
		t.Helper()
		out, err := ca.NewIdentity(id)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, tc := range []struct {
		name           string
		server, client *CA
		want           bool
	}{
		{"an old server, a new client", before, during, true},
		{"a new server, an old client", during, before, true},
		{"both new", during, during, true},
		{"a finished server, a new client", after, during, true},
		{"a finished server, an old client", after, before, false},
		{"an old server, a finished client", before, after, false},
	} {
		server, client := identity(tc.server, ID{Server, "s1"}), identity(tc.client, ID{Node, "w1"})
		a, b := net.Pipe()
		done := make(chan error, 1)
		go func() {
			srv := tls.Server(b, server.ServerTLS())
			err := srv.Handshake()
			if err == nil {
				cs := srv.ConnectionState()
				if role, name, ok := Peer(&cs); !ok || role != Node || name != "w1" {
					err = fmt.Errorf("the peer is %s %s", role, name)
				}
			}
			b.Close()
			done <- err
		}()
		cerr := tls.Client(a, client.ClientTLS()).Handshake()
		a.Close()
		if serr := <-done; (cerr == nil && serr == nil) != tc.want {
			t.Errorf("%s: client %v, server %v", tc.name, cerr, serr)
		}
	}
	for _, pin := range []string{before.Pin(), during.Pin()} {
		tok := NewJoinToken(pin)
		addr := serve(t, during, tok)
		if _, err := Join(t.Context(), addr, tok, JoinRequest{Name: "w2"}); err != nil {
			t.Errorf("join with a token that pins %.8s: %v", pin, err)
		}
	}
	dir := t.TempDir()
	id := identity(during, ID{Node, "w1"})
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := LoadIdentity(dir)
	if err != nil || len(again.cur.Load().cert.Certificate) != len(id.cur.Load().cert.Certificate) {
		t.Errorf("the identity came back without its chain: %v", err)
	}
}

func TestExpiredClientIsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		ca.Life = time.Hour
		node, err := ca.NewIdentity(ID{Node, "w1"})
		if err != nil {
			t.Fatal(err)
		}
		server, err := ca.NewIdentity(ID{Server, "s1"})
		if err != nil {
			t.Fatal(err)
		}
		dial := func() error {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			done := make(chan error, 1)
			go func() { done <- tls.Client(a, node.ClientTLS()).Handshake(); a.Close() }()
			srv := tls.Server(b, server.ServerTLS())
			err := srv.Handshake()
			b.Close()
			<-done
			if err == nil {
				cs := srv.ConnectionState()
				if role, name, ok := Peer(&cs); !ok || role != Node || name != "w1" {
					t.Errorf("peer is %s:%s (%v)", role, name, ok)
				}
			}
			return err
		}
		if err := dial(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if err := ca.Reissue(server); err != nil {
			t.Fatal(err)
		}
		if err := dial(); err == nil {
			t.Error("an expired certificate was accepted")
		}
	})
}

func TestKeepRenewsBeforeTheEndAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		id, err := ca.NewIdentity(ID{Node, "w1"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		renewed, reports, fail := 0, 0, 3
		done := make(chan error, 1)
		go func() {
			done <- id.Keep(ctx, func(context.Context) error {
				if left := time.Until(id.Leaf().NotAfter); left < LeafLife/5 || left > LeafLife/3+time.Minute {
					t.Errorf("renewing with %s left", left)
				}
				if fail--; fail >= 0 {
					return errors.New("no server answers")
				}
				renewed++
				return ca.Reissue(id)
			}, func(error) { reports++ })
		}()
		time.Sleep(30 * 24 * time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if renewed < 5 || renewed > 7 || reports != 3 {
			t.Errorf("renewed %d times in 30 days, reported %d failures", renewed, reports)
		}
	})
}

func TestReplaceKeepsTheName(t *testing.T) {
	ca := newTestCA(t)
	id, err := ca.NewIdentity(ID{Node, "w1"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.NewIdentity(ID{Node, "w2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.replace(other); err == nil || id.ID().Name != "w1" {
		t.Errorf("became %s (%v)", id.ID(), err)
	}
}
