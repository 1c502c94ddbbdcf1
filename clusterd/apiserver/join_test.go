package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// issuing is a CA as the composition root hands it in.
type issuing struct{ ca *pki.CA }

func (i issuing) Issue(csr []byte, role, name string) ([]byte, error) {
	return i.ca.Issue(csr, pki.ID{Role: pki.Role(role), Name: name})
}
func (i issuing) CA() []byte { return i.ca.PEM() }
func (i issuing) GossipKeys() [][]byte {
	return [][]byte{[]byte("0123456789abcdef0123456789abcdef")}
}

// tlsCluster is a server with real TLS on loopback.
type tlsCluster struct {
	*Server
	ca     *pki.CA
	id     *pki.Identity
	addr   string
	system *client.Client
}

func startTLS(t testing.TB, cfg Config) *tlsCluster {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.NewIdentity(pki.ID{Role: pki.Server, Name: "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Issuer = issuing{ca}
	cfg.Peer = func(cs *tls.ConnectionState) (string, string, bool) {
		role, name, ok := pki.Peer(cs)
		return string(role), name, ok
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	h := httptest.NewUnstartedServer(s)
	h.TLS = id.ServerTLS()
	h.EnableHTTP2 = true
	h.Config.ErrorLog = s.stdlog()
	h.StartTLS()
	t.Cleanup(func() {
		cancel()
		<-done
		h.CloseClientConnections()
		h.Close()
		s.Close()
	})
	return &tlsCluster{s, ca, id, strings.TrimPrefix(h.URL, "https://"), client.InProcess(s.InProcess(system))}
}

func (c *tlsCluster) token(t *testing.T, spec api.TokenSpec) pki.JoinToken {
	t.Helper()
	tok := pki.NewJoinToken(c.ca.Pin())
	spec.Hash = tok.Hash()
	if spec.Role == "" {
		spec.Role = api.RoleNode
	}
	must(client.Of(c.system, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: spec}))(t)
	return tok
}

func (c *tlsCluster) client(t testing.TB, token string, conf *tls.Config) *client.Client {
	t.Helper()
	if conf == nil {
		conf = c.id.ClientTLS()
		conf.GetClientCertificate, conf.Certificates = nil, nil
	}
	cl, err := client.New(client.Config{Addresses: []string{"https://" + c.addr}, Token: token, TLS: conf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestJoin(t *testing.T) {
	c := startTLS(t, Config{})
	ctx := t.Context()
	tok := c.token(t, api.TokenSpec{MaxUses: 2})
	res, err := pki.Join(ctx, c.addr, tok, pki.JoinRequest{Name: "w1", Address: "10.0.0.1:7946", Labels: map[string]string{"zone": "a"}, Program: "nodeagent/1"})
	if err != nil {
		t.Fatal(err)
	}
	if res.Node.Subnet != "10.244.0.0/24" || res.Cluster.ServicesCIDR != "10.96.0.0/16" || len(res.GossipKeys) != 1 || res.Identity.ID() != (pki.ID{Role: pki.Node, Name: "w1"}) {
		t.Errorf("joined with %+v", res.JoinResponse)
	}
	// Its certificate is its identity.
	agent := c.client(t, "", res.Identity.ClientTLS())
	n := must(client.Of(agent, api.Nodes).Get(ctx, "", "w1"))(t)
	if n.Meta.WrittenBy != "node:w1 (nodeagent/1)" || n.Meta.Labels["zone"] != "a" || n.Effective.Subnet != res.Node.Subnet {
		t.Errorf("node is %+v", n)
	}
	n.Status.Address = "10.0.0.1"
	must(client.Of(agent, api.Nodes).PutStatus(ctx, n))(t)
	_, err = client.Of(agent, api.Tokens).Get(ctx, "", tok.ID)
	wantCode(t, err, api.Denied)
	if _, err := pki.Renew(ctx, c.addr, "", res.Identity); err != nil {
		t.Error(err)
	}
	// A machine that lost its key joins again, and keeps its subnet.
	again, err := pki.Join(ctx, c.addr, tok, pki.JoinRequest{Name: "w1", Address: "10.0.0.1:7946"})
	if err != nil || again.Node.Subnet != res.Node.Subnet {
		t.Errorf("again: %+v, %v", again, err)
	}
	if got := must(client.Of(c.system, api.Tokens).Get(ctx, "", tok.ID))(t); got.Status.Uses != 2 || got.Status.LastUsed.IsZero() {
		t.Errorf("token is %+v", got.Status)
	}
	foreign := tok
	foreign.Pin = strings.Repeat("0", 64)
	wrong := tok
	wrong.Secret = strings.Repeat("0", len(tok.Secret))
	revoked := c.token(t, api.TokenSpec{})
	if err := client.Of(c.system, api.Tokens).Delete(ctx, "", revoked.ID, ""); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		tok  pki.JoinToken
		want string
		as   pki.Role
	}{
		"used up":     {tok: tok, want: "the join token is used up: it was good for 2"},
		"wrong":       {tok: wrong, want: "the join token is not known to this cluster"},
		"revoked":     {tok: revoked, want: "the join token is not known to this cluster"},
		"expired":     {tok: c.token(t, api.TokenSpec{ExpiresAt: time.Now().Add(-time.Hour)}), want: "the join token expired on"},
		"user's":      {tok: c.token(t, api.TokenSpec{Role: api.RoleAdmin}), want: "this is not a join token but one of role admin"},
		"foreign pin": {tok: foreign, want: "does not match the token's pin"},
		"a node's":    {tok: c.token(t, api.TokenSpec{}), want: "not for a server but for a node", as: pki.Server},
		"a server's":  {tok: c.token(t, api.TokenSpec{Role: api.RoleServer}), want: "not for a node but for a server"},
		"another's":   {tok: c.token(t, api.TokenSpec{Name: "w8"}), want: "is for node w8, and this machine calls itself w9"},
	} {
		_, err := pki.Join(ctx, c.addr, tc.tok, pki.JoinRequest{Name: "w9", Address: "10.0.0.9:7946", Role: tc.as})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if r, ok := errors.AsType[*pki.RefusedError](err); ok && r.Status != 401 {
			t.Errorf("%s: status %d", name, r.Status)
		}
	}
	_, err = client.Of(c.system, api.Nodes).Get(ctx, "", "w9")
	wantCode(t, err, api.NotFound)
	// A node that was deleted is out: its certificate renews no more.
	if err := client.Of(c.system, api.Nodes).Delete(ctx, "", "w1", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Renew(ctx, c.addr, "", res.Identity); err == nil || !strings.Contains(err.Error(), "join it again") {
		t.Errorf("renew of a deleted node: %v", err)
	}
}

// TestWhatWasOverheardIsWorthless: who has seen all that a machine sent when it
// joined and renewed (in a log, say) gets nothing for it, nor does who has its
// certificate without the key, or one of the same name by another authority.
func TestWhatWasOverheardIsWorthless(t *testing.T) {
	c := startTLS(t, Config{})
	ctx := t.Context()
	tok := c.token(t, api.TokenSpec{MaxUses: 1})
	stranger := c.id.ClientTLS() // trusts the server, and shows nothing
	stranger.GetClientCertificate = nil
	post := func(conf *tls.Config, path string, in, out any) error {
		return c.client(t, "", conf).Call(ctx, "POST", path, nil, in, out)
	}
	csr := string(must(signingRequest())(t))
	sent := pki.JoinRequest{ID: tok.ID, Secret: tok.Secret, Role: pki.Node, Name: "w1", CSR: csr}
	var joined, again pki.JoinResponse
	if err := post(stranger, "/v1/join", sent, &joined); err != nil {
		t.Fatal(err)
	}
	before := c.nodes(t)
	// Word for word: what comes back is for the key that only the machine has.
	if err := post(stranger, "/v1/join", sent, &again); err != nil {
		t.Fatal(err)
	}
	first, second := parsed(t, joined.Certificate), parsed(t, again.Certificate)
	if !first.PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) {
		t.Error("a join that is sent again is signed for another key")
	}
	for what, change := range map[string]func(*pki.JoinRequest){
		"with another key":  func(r *pki.JoinRequest) { r.CSR = string(must(signingRequest())(t)) },
		"with another name": func(r *pki.JoinRequest) { r.Name = "w2" },
		"as a server":       func(r *pki.JoinRequest) { r.Role = pki.Server },
	} {
		req := sent
		change(&req)
		if err := post(stranger, "/v1/join", req, nil); !api.Is(err, api.Unauthenticated) {
			t.Errorf("the join again %s: %v", what, err)
		}
	}
	if err := post(stranger, "/v1/renew", pki.RenewRequest{CSR: csr}, nil); !api.Is(err, api.Unauthenticated) {
		t.Errorf("a renewal without the certificate: %v", err)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	thief := stranger.Clone()
	thief.Certificates = []tls.Certificate{{Certificate: [][]byte{first.Raw}, PrivateKey: key}}
	other := must(must(pki.NewCA("other"))(t).NewIdentity(pki.ID{Role: pki.Node, Name: "w1"}))(t).ClientTLS()
	other.VerifyConnection = stranger.VerifyConnection
	for what, conf := range map[string]*tls.Config{"without its key": thief, "by another authority": other} {
		if _, err := client.Of(c.client(t, "", conf), api.Nodes).Get(ctx, "", "w1"); err == nil || api.Is(err, api.NotFound) {
			t.Errorf("a certificate %s: %v", what, err)
		}
	}
	if after := c.nodes(t); after != before {
		t.Errorf("%d nodes, were %d", after, before)
	}
	if got := must(client.Of(c.system, api.Tokens).Get(ctx, "", tok.ID))(t); got.Status.Uses != 1 {
		t.Errorf("the token was used %d times", got.Status.Uses)
	}
}

// nodes is how many there are.
func (c *tlsCluster) nodes(t *testing.T) int {
	t.Helper()
	all, _, err := client.Of(c.system, api.Nodes).List(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func parsed(t *testing.T, cert string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(cert))
	return must(x509.ParseCertificate(block.Bytes))(t)
}

// TestRacingJoinsUseATokenOnce: a token for one machine lets one in.
func TestRacingJoinsUseATokenOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ca, err := pki.NewCA("test")
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.Issuer = issuing{ca}
		csr, err := signingRequest()
		if err != nil {
			t.Fatal(err)
		}
		tok := pki.NewJoinToken(ca.Pin())
		must(client.Of(c, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: tok.Hash(), MaxUses: 1}}))(t)
		codes := make(chan int, 8)
		for i := range cap(codes) {
			go func() {
				body, _ := json.Marshal(pki.JoinRequest{ID: tok.ID, Secret: tok.Secret, Name: string(rune('a' + i)), CSR: string(csr)})
				code, _ := call(s, system, "POST", "/v1/join", string(body))
				codes <- code
			}()
		}
		in := 0
		for range cap(codes) {
			if code := <-codes; code == 200 {
				in++
			} else if code != 401 {
				t.Errorf("code %d", code)
			}
		}
		nodes, _, _ := client.Of(c, api.Nodes).List(t.Context(), "", nil)
		if in != 1 || len(nodes) != 1 {
			t.Errorf("%d joined, %d nodes", in, len(nodes))
		}
	})
}

func signingRequest() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}

func TestBearerTokens(t *testing.T) {
	c := startTLS(t, Config{})
	ctx := t.Context()
	issue := func(spec api.TokenSpec) pki.UserToken {
		u := pki.NewUserToken()
		spec.Hash = u.Hash()
		must(client.Of(c.system, api.Tokens).Create(ctx, &api.Token{Meta: api.Meta{Name: u.ID}, Spec: spec}))(t)
		return u
	}
	good := issue(api.TokenSpec{Role: api.RoleAdmin})
	a := must(client.Of(c.client(t, good.Reveal(), nil), api.Apps).Create(ctx, newApp("web")))(t)
	if !strings.HasPrefix(a.Meta.WrittenBy, "user:"+good.ID) {
		t.Errorf("written by %s", a.Meta.WrittenBy)
	}
	wrong := good
	wrong.Secret = strings.Repeat("0", len(good.Secret))
	for token, want := range map[string]string{
		"":                          "no token: send the header",
		"nonsense":                  "it does not start with ct_",
		wrong.Reveal():              "the token is not valid",
		pki.NewUserToken().Reveal(): "the token is not valid",
		issue(api.TokenSpec{Role: api.RoleAdmin, ExpiresAt: time.Now().Add(-time.Minute)}).Reveal(): "the token expired on",
		issue(api.TokenSpec{Role: api.RoleNode}).Reveal():                                           "for machines to join with",
	} {
		_, err := client.Of(c.client(t, token, nil), api.Apps).Get(ctx, "default", "web")
		if !api.Is(err, api.Unauthenticated) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", token, err, want)
		}
		if err != nil && len(token) > 20 && strings.Contains(err.Error(), token[len(token)-20:]) {
			t.Errorf("the answer repeats the secret: %v", err)
		}
	}
	if err := client.Of(c.system, api.Tokens).Delete(ctx, "", good.ID, ""); err != nil {
		t.Fatal(err)
	}
	_, err := client.Of(c.client(t, good.Reveal(), nil), api.Apps).Get(ctx, "default", "web")
	wantCode(t, err, api.Unauthenticated)
}
