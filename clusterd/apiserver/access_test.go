package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestNodesReadWhatTheyRun: what a workload is made of, its environment above
// all, is for the node that runs it.
func TestNodesReadWhatTheyRun(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		for _, n := range []string{"w1", "w2"} {
			makeNode(t, c, n, "2", "1Gi")
			makePod(t, c, "on-"+n, "100m", "16Mi")
			bindPod(t, c, "on-"+n, n)
		}
		must(client.Of(c, api.Apps).Create(t.Context(), newApp("web")))(t)
		node := Identity{RoleNode, "w1"}
		ready := func(ref string) string {
			return `{"preconditions":[{"ref":` + ref + `}],"writes":[` + nodeStatus + `]}`
		}
		for _, tc := range []struct {
			method, path, body string
			want               int
		}{
			{"GET", "/v1/pods?node=w1", "", 200},
			{"GET", "/v1/namespaces/default/pods?node=w1", "", 200},
			{"GET", "/v1/namespaces/default/pods/on-w1", "", 200},
			{"GET", "/v1/namespaces/default/pods/on-w1/drained?timeout=0s", "", 200},
			{"GET", "/v1/servers", "", 200},
			{"GET", "/v1/services", "", 200},
			{"GET", "/v1/pods", "", 403},
			{"GET", "/v1/pods?node=w2", "", 403},
			{"GET", "/v1/pods?watch=true", "", 403},
			{"GET", "/v1/namespaces/default/pods/on-w2", "", 403},
			{"GET", "/v1/namespaces/default/pods/on-w2/drained", "", 403},
			{"GET", "/v1/apps", "", 403},
			{"GET", "/v1/namespaces/default/apps/web", "", 403},
			{"GET", "/v1/namespaces/default/apps/none", "", 403},
			{"GET", "/v1/events", "", 403},
			{"POST", "/v1/batch", ready(`{"kind":"Node","name":"w1"}`), 200},
			{"POST", "/v1/batch", ready(`{"kind":"App","namespace":"default","name":"web"}`), 403},
			{"POST", "/v1/batch", ready(`{"kind":"Token","name":"t1"}`), 403},
		} {
			if code, got := call(s, node, tc.method, tc.path, tc.body); code != tc.want {
				t.Errorf("%s %s %s: %d %s, want %d", tc.method, tc.path, tc.body, code, got, tc.want)
			}
		}
	})
}

const nodeStatus = `{"status":{"kind":"Node","meta":{"name":"w1"},"status":{"address":"10.0.0.1"}}}`

// TestNodesReportOnlyOnTheirOwn: an event tells a story that people act on.
func TestNodesReportOnlyOnTheirOwn(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		for _, n := range []string{"w1", "w2"} {
			makeNode(t, c, n, "2", "1Gi")
			makePod(t, c, "on-"+n, "100m", "16Mi")
			bindPod(t, c, "on-"+n, n)
		}
		node := Identity{RoleNode, "w1"}
		for subject, want := range map[string]int{
			`{"kind":"Node","name":"w1"}`:                          202,
			`{"kind":"Pod","namespace":"default","name":"on-w1"}`:  202,
			`{"kind":"Node","name":"w2"}`:                          403,
			`{"kind":"Pod","namespace":"default","name":"on-w2"}`:  403,
			`{"kind":"Pod","namespace":"default","name":"none"}`:   403,
			`{"kind":"Token","name":"t1"}`:                         403,
			`{"kind":"Namespace","name":"default"}`:                403,
			`{"kind":"App","namespace":"default","name":"on-w1"}`:  403,
			`{"kind":"Service","namespace":"default","name":"w1"}`: 403,
		} {
			body := `{"subject":` + subject + `,"event":{"reason":"told","message":"m","by":"user:alice"}}`
			if code, got := call(s, node, "POST", "/v1/events", body); code != want {
				t.Errorf("%s: %d %s, want %d", subject, code, got, want)
			}
		}
		time.Sleep(2 * time.Second)
		_, got := call(s, system, "GET", "/v1/events", "")
		if !strings.Contains(got, `"by":"node:w1"`) || strings.Contains(got, "alice") {
			t.Errorf("a node spoke for another: %s", got)
		}
		long := `{"subject":{"kind":"Node","name":"w1"},"event":{"reason":"` + strings.Repeat("x", 200) + `"}}`
		if code, got := call(s, node, "POST", "/v1/events", long); code != 422 {
			t.Errorf("an endless reason: %d %s", code, got)
		}
	})
}

// TestNoVerdictInDisguise: readers of JSON do not mind the case of a key.
func TestNoVerdictInDisguise(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		call(s, system, "PUT", "/v1/nodes/w1", `{}`)
		_, got := call(s, Identity{RoleNode, "w1"}, "PUT", "/v1/nodes/w1/status", `{"status":{"address":"10.0.0.1","Health":{"verdict":"ready"}}}`)
		var n api.Node
		if err := json.Unmarshal([]byte(got), &n); err != nil || n.Status.Health.Verdict != "" || strings.Contains(got, "verdict") {
			t.Errorf("a node gave itself a verdict: %s, %v", got, err)
		}
	})
}

// TestLivingNodesKeepTheirName: a join token lets machines in, and not into
// the place of one that lives.
func TestLivingNodesKeepTheirName(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ca, err := pki.NewCA("test")
		if err != nil {
			t.Fatal(err)
		}
		tunnels := &agents{nodes: map[string]*http.Client{}}
		s.cfg.Issuer, s.cfg.Tunnels = issuing{ca}, tunnels
		tok := pki.NewJoinToken(ca.Pin())
		must(client.Of(c, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: tok.Hash(), MaxUses: 5}}))(t)
		join := func() (int, string) {
			csr, err := signingRequest()
			if err != nil {
				t.Fatal(err)
			}
			body, _ := json.Marshal(pki.JoinRequest{ID: tok.ID, Secret: tok.Secret, Name: "w1", CSR: string(csr)})
			return call(s, system, "POST", "/v1/join", string(body))
		}
		if code, got := join(); code != 200 {
			t.Fatalf("the first: %d %s", code, got)
		}
		for _, tc := range []struct {
			verdict   api.Verdict
			connected bool
			want      int
		}{
			{api.VerdictJoining, false, 200}, // it never came up: it may have lost its answer
			{api.VerdictJoining, true, 409},
			{api.VerdictReady, false, 503}, // worth another try: the verdict lags behind
			{api.VerdictReady, true, 409},
			{api.VerdictAgentDown, false, 503},
			{api.VerdictPartitioned, true, 409},
			{api.VerdictPartitioned, false, 200}, // withheld from a verdict of dead
			{api.VerdictDead, false, 200},
			{api.VerdictLeft, false, 200},
		} {
			call(s, system, "PUT", "/v1/nodes/w1/health", fmt.Sprintf(`{"status":{"health":{"verdict":%q}}}`, tc.verdict))
			clear(tunnels.nodes)
			if tc.connected {
				tunnels.nodes["w1"] = http.DefaultClient
			}
			code, got := join()
			if code != tc.want || code != 200 && !strings.Contains(got, "clusterd delete node w1") {
				t.Errorf("%s, connected %v: %d %s, want %d", tc.verdict, tc.connected, code, got, tc.want)
			}
		}
		// An operator's word goes: what was deleted can be joined at once.
		tunnels.nodes["w1"] = http.DefaultClient
		if err := client.Of(c, api.Nodes).Delete(t.Context(), "", "w1", ""); err != nil {
			t.Fatal(err)
		}
		if got := must(client.Of(c, api.Tokens).Get(t.Context(), "", tok.ID))(t); got.Status.Uses != 5 {
			t.Errorf("refused joins used the token up: %d", got.Status.Uses)
		}
		call(s, system, "PUT", "/v1/tokens/"+tok.ID, fmt.Sprintf(`{"spec":{"role":"node","hash":%q,"max_uses":6}}`, tok.Hash()))
		if code, got := join(); code != 200 {
			t.Errorf("after the deletion: %d %s", code, got)
		}
	})
}

// TestRepeatedJoin: a lost answer costs the token nothing, and only the key
// that asked first may ask again; no header stands in for it.
func TestRepeatedJoin(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ca, err := pki.NewCA("test")
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.Issuer = issuing{ca}
		tok := pki.NewJoinToken(ca.Pin())
		must(client.Of(c, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: tok.Hash(), MaxUses: 1}}))(t)
		first, err1 := signingRequest()
		other, err2 := signingRequest()
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		for i, tc := range []struct {
			csr  []byte
			want int
		}{{first, 200}, {first, 200}, {other, 401}} {
			n, _, _ := client.Of(c, api.Nodes).List(t.Context(), "", nil)
			id := "r"
			if len(n) > 0 {
				id = n[0].Meta.WriteID
			}
			body, _ := json.Marshal(pki.JoinRequest{ID: tok.ID, Secret: tok.Secret, Name: "w1", CSR: string(tc.csr)})
			if code, got := call(s, system, "POST", "/v1/join", string(body), api.HeaderRequestID, id); code != tc.want {
				t.Errorf("request %d: %d %s, want %d", i, code, got, tc.want)
			}
		}
	})
}

// TestEveryRouteAsksWho: nothing but health and join is served to a stranger.
func TestEveryRouteAsksWho(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		open := []string{"/v1/join", "/healthz", "/readyz"}
		for _, rt := range s.routes() {
			if rt.open != slices.Contains(open, rt.path) {
				t.Errorf("%s %s: open %v", rt.method, rt.path, rt.open)
			}
			if rt.open {
				continue
			}
			path := strings.NewReplacer("{namespace}", "default", "{name}", "x").Replace(rt.path)
			for _, auth := range []string{"", "Bearer", "Bearer x", "Basic YTpi", "bearer ct_a_b"} {
				r := httptest.NewRequest(rt.method, path, strings.NewReader("{}"))
				r.Header.Set("Authorization", auth)
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if w.Code != 401 {
					t.Errorf("%s %s with %q: %d %s", rt.method, path, auth, w.Code, w.Body)
				}
			}
		}
	})
}

// TestSlowBodyIsCutOff: a stranger who sends a byte now and then holds nothing.
func TestSlowBodyIsCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		ca, err := pki.NewCA("test")
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.Issuer = issuing{ca}
		w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := httptest.NewRequest("POST", "/v1/join", &drip{w: w, ctx: ctx}).WithContext(ctx)
		began := time.Now()
		s.ServeHTTP(w, r)
		if took := time.Since(began); w.Code != 400 || took > bodyTimeout+time.Second {
			t.Errorf("%d after %s", w.Code, took)
		}
	})
}

// deadlined is a connection's writer that knows when reading is to end.
type deadlined struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (d *deadlined) SetReadDeadline(t time.Time) error { d.until = t; return nil }

// drip is a body of a byte each second.
type drip struct {
	w   *deadlined
	ctx context.Context
}

func (d *drip) Read(b []byte) (int, error) {
	select {
	case <-time.After(time.Second):
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
	if u := d.w.until; u.IsZero() || time.Now().After(u) {
		return 0, io.ErrUnexpectedEOF
	}
	b[0] = ' '
	return 1, nil
}
