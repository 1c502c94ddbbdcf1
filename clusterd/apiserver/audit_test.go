package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// notes is an Auditor.
type notes struct {
	mu  sync.Mutex
	all []AuditEntry
}

func (n *notes) Record(e AuditEntry) { n.mu.Lock(); defer n.mu.Unlock(); n.all = append(n.all, e) }

// take empties the notes: a line for each, and all there is to them.
func (n *notes) take() (lines, whole string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.all {
		lines += fmt.Sprintf("%s %s %s/%s/%s %s %d\n", e.Who, e.Verb, e.Kind, e.Namespace, e.Name, e.Outcome, e.Code)
		b, _ := json.Marshal(e)
		whole += string(b) + "\n"
	}
	n.all = nil
	return lines, whole
}

// mute is an agent that does not answer.
type mute struct{}

func (mute) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("mute") }

// TestAudit: what people do is told, object by object, and what was refused for
// lack of rights; neither what objects contain, nor what loops and agents write
// all the time.
func TestAudit(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		n := &notes{}
		s.cfg.Audit = n
		s.cfg.Tunnels = &agents{nodes: map[string]*http.Client{"w1": {Transport: mute{}}}}
		makeNode(t, c, "w1", "1", "1Gi")
		makeNode(t, c, "w2", "1", "1Gi")
		makePod(t, c, "web-1", "10m", "16Mi")
		bindPod(t, c, "web-1", "w1")
		ann, w1 := Identity{RoleUser, "ann"}, Identity{RoleNode, "w1"}
		const secret = "hunter2"
		batch := `{"writes":[{"create":{"kind":"App","meta":{"name":"b1","namespace":"default"},"spec":{"image":"` + secret + `"}}},
			{"delete":{"ref":{"kind":"Service","namespace":"default","name":"none"},"uid":"x"}}]}`
		for _, tc := range []struct {
			who                Identity
			method, path, body string
			want               string
		}{
			{system, "PUT", "/v1/namespaces/default/apps/web", `{"spec":{"image":"nginx"}}`, ""},
			{ann, "GET", "/v1/apps", "", ""},
			{ann, "PUT", "/v1/namespaces/default/secrets/db", `{"spec":{"data":{"k":"` + secret + `"}}}`, "user:ann write Secret/default/db done 0\n"},
			{ann, "PUT", "/v1/namespaces/default/secrets/db?dry_run=true", `{"spec":{"data":{"k":"x"}}}`, ""},
			{ann, "PUT", "/v1/namespaces/default/apps/web", `{"spec":{"` + secret + `":1}}`, "user:ann write App/default/web failed 422\n"},
			{ann, "POST", "/v1/namespaces/default/apps/web/plan", `{"spec":{"image":"nginx"}}`, ""},
			{ann, "PUT", "/v1/namespaces/default/apps/web/intent", `{"status":{}}`, "user:ann write App/default/web done 0\n"},
			{ann, "PUT", "/v1/nodes/w1/status", `{"status":{}}`, "user:ann status Node//w1 done 0\n"},
			{ann, "DELETE", "/v1/namespaces/default/apps/web", "", "user:ann delete App/default/web done 0\n"},
			{ann, "POST", "/v1/batch", batch, "user:ann write App/default/b1 done 0\nuser:ann delete Service/default/none done 0\n"},
			{ann, "POST", "/v1/batch", `{"writes":[{"put":"` + secret + `"}]}`, "user:ann write // failed 400\n"},
			{ann, "POST", "/v1/snapshot?dry_run=true", `{}`, "user:ann snapshot // failed 409\n"}, // which knows no questions
			{ann, "POST", "/v1/namespaces/default/pods/web-1/exec?command=" + secret, "", "user:ann exec Pod/default/web-1 done 0\n"},
			{w1, "PUT", "/v1/nodes/w1/status", `{"status":{}}`, ""},
			{w1, "POST", "/v1/batch", `{"writes":[` + nodeStatus + `]}`, ""},
			{w1, "POST", "/v1/events", `{"subject":{"kind":"Node","name":"w1"},"event":{"reason":"r","message":"m"}}`, ""},
			{w1, "PUT", "/v1/nodes/w2/status", `{"status":{}}`, "node:w1 status Node//w2 denied 403\n"},
			{w1, "GET", "/v1/namespaces/default/secrets/db", "", "node:w1 read Secret/default/db denied 403\n"},
			{w1, "GET", "/v1/apps", "", "node:w1 read App// denied 403\n"},
		} {
			call(s, tc.who, tc.method, tc.path, tc.body)
			got, whole := n.take()
			if got != tc.want || strings.Contains(whole, secret) {
				t.Errorf("%s %s %s:\n%s, want\n%s\n%s", tc.who, tc.method, tc.path, got, tc.want, whole)
			}
		}
		// A stranger, with a token that was one.
		u := pki.NewUserToken()
		over(s, nil, u.Reveal(), "GET", "/v1/apps")
		if got, whole := n.take(); got != " read App// denied 401\n" || !strings.Contains(whole, `"with":"user:`+u.ID+`"`) || strings.Contains(whole, u.Secret) {
			t.Errorf("a stranger: %s%s", got, whole)
		}
		// Machines that join, and are not let in.
		s.cfg.Issuer = issuing{trusting(t, s)}
		tok := pki.NewJoinToken("")
		must(client.Of(c, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: tok.Hash(), MaxUses: 1}}))(t)
		for i, want := range []string{"node:w8 join Node//w8 done 0\n", " join Node//w9 denied 401\n"} {
			csr, err := signingRequest()
			if err != nil {
				t.Fatal(err)
			}
			body, _ := json.Marshal(pki.JoinRequest{ID: tok.ID, Secret: tok.Secret, Name: fmt.Sprint("w", 8+i), CSR: string(csr)})
			call(s, system, "POST", "/v1/join", string(body))
			if got, whole := n.take(); got != want || !strings.Contains(whole, `"with":"token:`+tok.ID+`"`) || strings.Contains(whole, tok.Secret) {
				t.Errorf("a join: %s%s, want %s", got, whole, want)
			}
		}
	})
}

// TestAuditIsBrief: who may do nothing cannot fill a disk with one request.
func TestAuditIsBrief(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		n := &notes{}
		s.cfg.Audit = n
		long := strings.Repeat("x", 1<<16)
		call(s, Identity{RoleNode, "w1"}, "PUT", "/v1/namespaces/"+long+"/apps/"+long, "", "User-Agent", long, api.HeaderRequestID, long)
		if _, whole := n.take(); len(whole) == 0 || len(whole) > 2000 {
			t.Errorf("%d bytes", len(whole))
		}
	})
}

// TestEveryRouteSaysWhatItDoes: or nobody could be told of it, or given it.
func TestEveryRouteSaysWhatItDoes(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		for _, rt := range s.routes() {
			if rt.act == "" {
				t.Errorf("%s %s does nothing", rt.method, rt.path)
			}
		}
	})
}
