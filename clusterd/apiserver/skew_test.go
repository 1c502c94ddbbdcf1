package apiserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// newer is raw with a field nobody knows in each of its objects but those in
// open, whose keys are names.
func newer(t *testing.T, raw string, open ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatal(err)
	}
	var grow func(v any)
	grow = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				grow(e)
			}
		case map[string]any:
			for k, e := range v {
				if !slices.Contains(open, k) {
					grow(e)
				}
			}
			v["later"] = map[string]any{"it": []any{1, "is"}}
		}
	}
	grow(v)
	return string(must(json.Marshal(v))(t))
}

// TestMachinesMaySayMore: an agent, or a server that joins, may be of a newer
// version than this one. What it says more is passed over, by every way it has
// to say something; of a status it is kept. What people say is taken at its
// word, and so is what a write depends on, whoever sends it.
func TestMachinesMaySayMore(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ca := trusting(t, s)
		s.cfg.Issuer = issuing{ca}
		makeNode(t, c, "w1", "2", "1Gi")
		makeVolume(t, c, "data", api.VolumeSpec{Size: "1Gi"})
		makeUser(t, c, "web", map[string]api.Mount{"/d": {Volume: "data"}})
		bindPod(t, c, "web", "w1")
		tok := pki.NewJoinToken(ca.Pin())
		must(client.Of(c, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: tok.Hash()}}))(t)
		csr := string(must(signingRequest())(t))
		encode := func(v any) string { return string(must(json.Marshal(v))(t)) }
		join := encode(pki.JoinRequest{ID: tok.ID, Secret: tok.Secret, Name: "w2", Address: "10.0.0.2", CSR: csr, Labels: map[string]string{"zone": "a"}})
		const pod = `{"kind":"Pod","meta":{"name":"web","namespace":"default"},"status":{"phase":"running","containers":{"main":{"state":"running"}}}}`
		covered := []string{"/v1/batch"} // below
		for _, tc := range []struct {
			method, route, path, body string
			want, people              int
		}{
			{"POST", "/v1/join", "/v1/join", newer(t, join, "labels"), 200, 200}, // nobody has said yet who it is
			{"POST", "/v1/renew", "/v1/renew", newer(t, encode(pki.RenewRequest{CSR: csr})), 200, 403},
			{"POST", "/v1/events", "/v1/events", newer(t, `{"subject":{"kind":"Node","name":"w1"},"event":{"reason":"r","message":"m"}}`), 202, 422},
			{"POST", "/v1/nodes/{name}/applied", "/v1/nodes/w1/applied", newer(t, `{"revision":7}`), 204, 422},
			{"PUT", "/v1/nodes/{name}/status", "/v1/nodes/w1/status", newer(t, `{"kind":"Node","meta":{"name":"w1"},"status":{"address":"10.0.0.1","allocatable":{"cpu":"2"}}}`), 200, 422},
			{"PUT", onePod + "/status", "/v1/namespaces/default/pods/web/status", newer(t, pod, "containers"), 200, 422},
			{"PUT", "/v1/namespaces/{namespace}/volumes/{name}/data", "/v1/namespaces/default/volumes/data/data", newer(t, `{"status":{"data":{"size":"1Gi"}}}`), 200, 422},
		} {
			covered = append(covered, tc.route)
			for who, want := range map[Identity]int{{RoleNode, "w1"}: tc.want, {RoleUser, "ada"}: tc.people} {
				code, got := call(s, who, tc.method, tc.path, tc.body)
				if code != want || code == 422 && !strings.Contains(got, unknownField) {
					t.Errorf("%s, %s %s %s: %d %s, want %d", who, tc.method, tc.path, tc.body, code, got, want)
				}
			}
		}
		for _, kept := range []struct{ path, want string }{
			{"/v1/nodes/w1", `"address":"10.0.0.1"`}, {"/v1/namespaces/default/pods/web", `"phase":"running"`}, {"/v1/namespaces/default/volumes/data", `"size":"1Gi"`},
		} {
			_, got := call(s, system, "GET", kept.path, "")
			if _, status, _ := strings.Cut(got, `"status":`); !strings.Contains(status, kept.want) || !strings.Contains(status, `"later"`) {
				t.Errorf("%s is %s", kept.path, got)
			}
		}
		if s.applied.revision["w1"] != 7 || must(client.Of(c, api.Nodes).Get(t.Context(), "", "w2"))(t).Meta.Labels["zone"] != "a" {
			t.Error("what was known of a body got lost")
		}
		for _, tc := range []struct {
			who        Identity
			path, body string
			want       int
		}{
			{Identity{RoleNode, "w1"}, "/v1/batch", `{"writes":[{"status":` + newer(t, pod, "containers") + `}]}`, 200},
			{Identity{RoleUser, "ada"}, "/v1/batch", `{"writes":[{"status":` + newer(t, pod, "containers") + `}]}`, 422},
			{Identity{RoleNode, "w1"}, "/v1/batch", `{"writes":[{"status":` + pod + `,"later":1}]}`, 422},
			{Identity{RoleNode, "w1"}, "/v1/batch", `{"preconditions":[{"ref":{"kind":"Node","name":"w1"},"later":1}],"writes":[{"status":` + pod + `}]}`, 422},
			{system, "/v1/batch", `{"writes":[{"put":{"kind":"Namespace","meta":{"name":"shop"},"spec":{"later":1}}}]}`, 422},
		} {
			if code, got := call(s, tc.who, "POST", tc.path, tc.body); code != tc.want || code == 422 && !strings.Contains(got, `later","message":"`+unknownField) {
				t.Errorf("%s, %s: %d %s, want %d", tc.who, tc.body, code, got, tc.want)
			}
		}
		for _, rt := range s.routes() {
			says := rt.act == api.VerbJoin || rt.act == api.VerbReport || rt.routine
			if rt.kind != nil && rt.verb == "status" { // of most kinds, the loops write it, and people some parts
				_, part, _ := strings.Cut(rt.path, "{name}/")
				says = rt.kind.info.Plural == "nodes" && part == "status" || rt.kind.info.Plural == "pods" && part == "status" || rt.kind.info.Plural == "volumes" && part == "data"
			}
			if says && rt.doc.in != nil && !slices.Contains(covered, rt.path) {
				t.Errorf("a machine says something by %s %s: what if it says more?", rt.method, rt.path)
			}
		}
	})
}
