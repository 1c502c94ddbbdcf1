package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// samples has a valid spec of every kind: the zero spec is one where it is missing.
var samples = map[string]string{
	"App":       `{"image":"nginx:1"}`,
	"Job":       `{"image":"nginx:1"}`,
	"Pod":       `{"image":"nginx:1","app":"web"}`,
	"Service":   `{"app":"web","ports":{"http":{"port":80}}}`,
	"Volume":    `{"size":"1Gi","deletion_protection":false}`,
	"Endpoints": `{"service":"web"}`,
	"Config":    `{"data":{"a":"1"}}`,
	"Secret":    `{"data":{"a":"1"}}`,
	"Server":    `{"address":"127.0.0.1:7443"}`,
	"Image":     `{"reference":"docker.io/library/nginx:1","digest":"sha256:00"}`,
	"Role":      `{"rules":{"see":{"kinds":["nodes"],"verbs":["read"]}}}`,
	"Token":     `{"role":"admin","hash":"` + strings.Repeat("0", 64) + `"}`,
}

func sample(k api.Info) string {
	if s := samples[k.Name]; s != "" {
		return s
	}
	return `{}`
}

// call sends a raw request as who.
func call(s *Server, who Identity, method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.InProcess(who).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// TestEveryKindLives: the one router serves the whole life of each kind.
func TestEveryKindLives(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		for _, k := range api.Kinds {
			i := k.Info()
			if i.Name == api.Contents.Name {
				continue // nobody writes them: see content_test.go
			}
			kept := sample(i)
			if i.Name == api.Secrets.Name {
				kept = `{"hash":"`
			}
			ns := ""
			if i.Scope == api.Namespaced {
				ns = "default"
			}
			path, all := client.Path(i, ns, "thing"), client.Path(i, ns, "")
			step := func(what, method, path, body string, want int, has string, header ...string) {
				t.Helper()
				code, got := call(s, system, method, path, body, header...)
				if code != want || !strings.Contains(got, has) {
					t.Fatalf("%s: %s: %d %s, want %d with %s", i.Name, what, code, got, want, has)
				}
			}
			step("absent", "GET", path, "", 404, "not found")
			step("misspelt", "PUT", path, `{"speck":{}}`, 422, "did you mean spec?")
			step("unknown in spec", "PUT", path, `{"spec":{"bogus_field_of_nobody":1}}`, 422, `"spec.bogus_field_of_nobody"`)
			step("another kind", "PUT", path, `{"kind":"Other"}`, 422, `"path":"kind"`)
			step("another name", "PUT", path, `{"meta":{"name":"other"},"spec":`+sample(i)+`}`, 422, `"path":"meta.name"`)
			step("replace what is not there", "PUT", path, `{"spec":`+sample(i)+`}`, 404, "", "If-Match", "1")
			step("create", "PUT", path, `{"spec":`+sample(i)+`}`, 201, `"generation":1`, "If-None-Match", "*")
			step("create again", "PUT", path, `{"spec":`+sample(i)+`}`, 409, "already exists: last written by system:test", "If-None-Match", "*")
			step("same again", "PUT", path, `{"spec":`+sample(i)+`}`, 200, `"generation":1`)
			step("read", "GET", path, "", 200, `"spec":`+kept)
			step("label", "PUT", path, `{"meta":{"labels":{"team":"a"}},"spec":`+sample(i)+`}`, 200, `"labels":{"team":"a"}`, "If-Match", "1")
			step("list", "GET", all+"?label=team=a", "", 200, `"name":"thing"`)
			step("list others", "GET", all+"?label=team=b", "", 200, `"items":[]`)
			step("bad filter", "GET", all+"?lable=team=b", "", 400, "did you mean label?")
			step("status", "PUT", path+"/status", `{"status":{"field_of_tomorrow":{"a":1}}}`, 200, `"status":{"field_of_tomorrow":{"a":1}}`)
			step("stale", "PUT", path, `{"spec":`+sample(i)+`}`, 412, "generation 1, not 7", "If-Match", "7")
			step("another method", "POST", path, "", 405, "")
			step("delete another", "DELETE", path+"?uid=nobody", "", 412, "another object")
			step("delete", "DELETE", path, "", 200, `"name":"thing"`)
			if i.TwoStep {
				step("deleting", "GET", path, "", 200, `"deleted_at"`)
				step("write while deleting", "PUT", path, `{"spec":`+sample(i)+`}`, 409, "is being deleted")
				step("finalize", "DELETE", path+"?final=true", "", 200, `"name":"thing"`)
			}
			step("gone", "GET", path, "", 404, "not found")
		}
	})
}

// TestNothingWithoutAuthentication walks every route.
func TestNothingWithoutAuthentication(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		for _, rt := range s.routes() {
			if rt.open {
				continue
			}
			path := strings.NewReplacer("{namespace}", "default", "{name}", "x").Replace(rt.path)
			for _, auth := range []string{"", "Bearer", "Bearer x", "Basic YTpi", "Bearer ct_tabc_" + strings.Repeat("0", 48)} {
				r := httptest.NewRequest(rt.method, path, nil)
				if auth != "" {
					r.Header.Set("Authorization", auth)
				}
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" || w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s with %q: %d %s", rt.method, path, auth, w.Code, w.Body)
				}
			}
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/anything/else", nil))
		if w.Code != 401 {
			t.Errorf("an unknown path answers a stranger with %d", w.Code)
		}
	})
}

func TestErrorsLocateEverything(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		code, got := call(s, system, "PUT", "/v1/namespaces/default/apps/web", `{"spec":{"image":7,"replicsa":3,"health":{"htpp":"/","interval":false},
			"env":{"PASSWORD":["hunter2"]},"ports":"80","sidecars":{"log":{"immage":"x"}}},"meta":{"lables":{}}}`)
		if code != 422 {
			t.Fatalf("%d %s", code, got)
		}
		var e api.Error
		if err := json.Unmarshal([]byte(got), &e); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(got, "hunter2") {
			t.Error("a value is in the answer")
		}
		if len(e.Fields) != 1 || e.Fields[0].Path != "meta.lables" {
			t.Errorf("outside: %v", e.Fields)
		}
		_, got = call(s, system, "PUT", "/v1/namespaces/default/apps/web", `{"spec":{"image":7,"replicsa":3,"health":{"htpp":"/","interval":false},
			"env":{"PASSWORD":["hunter2"]},"ports":"80","sidecars":{"log":{"immage":"x"}}}}`)
		e = api.Error{}
		if err := json.Unmarshal([]byte(got), &e); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"spec.image: want a string, not a number",
			"spec.replicsa: unknown field: did you mean replicas?",
			"spec.health.htpp: unknown field: did you mean http?",
			"spec.health.interval: want a string, not true or false",
			"spec.env.PASSWORD: want a string, not a list",
			"spec.ports: want an object, not a string",
			"spec.sidecars.log.immage: unknown field: did you mean image?",
		}
		for i, w := range want {
			if i >= len(e.Fields) || e.Fields[i].Error() != w {
				t.Fatalf("fields are %v, want %v", e.Fields, want)
			}
		}
		_, got = call(s, system, "PUT", "/v1/namespaces/default/apps/web", `{"spec":{"image":"n:1","cpu":"abc","replicas":-1,"env":{"1A":"hunter2"}}}`)
		if !strings.Contains(got, `"spec.cpu"`) || !strings.Contains(got, `"spec.replicas"`) || !strings.Contains(got, `spec.env`) || strings.Contains(got, "hunter2") {
			t.Error(got)
		}
		code, got = call(s, system, "PUT", "/v1/namespaces/nowhere/apps/web", `{"spec":{"image":"n:1"}}`)
		if code != 404 || !strings.Contains(got, "namespace nowhere does not exist") || !strings.Contains(got, "create it first") || !strings.Contains(got, `"meta.namespace"`) {
			t.Errorf("%d %s", code, got)
		}
		code, got = call(s, system, "PUT", "/v1/namespaces/default/apps/web", `{"spec":{"image":"`+strings.Repeat("x", 2<<20)+`"}}`)
		if code != 413 {
			t.Errorf("%d %.200s", code, got)
		}
		code, got = call(s, system, "GET", "/v1/namespaces/default/appps", "")
		if code != 404 || !strings.Contains(got, "did you mean apps?") {
			t.Errorf("%d %s", code, got)
		}
	})
}

// TestSpecIsVerbatim: the spec comes back as it was sent, and what it means is
// fixed when it is written.
func TestSpecIsVerbatim(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		const path = "/v1/namespaces/default/apps/web"
		spec := `{"ports":{"http":"80"},"image":"a/b:1","command":["sh","-c","a < b && c > d"],"update":{"surge":0}}`
		code, got := call(s, system, "PUT", path, `{"spec": `+strings.ReplaceAll(spec, `,"image"`, `, "image"`)+`}`)
		if code != 201 || !strings.Contains(got, `"spec":`+spec) {
			t.Fatalf("%d %s", code, got)
		}
		if !strings.Contains(got, `"effective":{`) || !strings.Contains(got, `"deadline":"5m"`) || !strings.Contains(got, `a < b && c > d`) {
			t.Errorf("effective is missing: %s", got)
		}
		_, again := call(s, system, "GET", path, "")
		if again != got {
			t.Errorf("read\n%s, written\n%s", again, got)
		}
		code, got = call(s, system, "PUT", path, `{"spec":{"update":{"surge":0},"command":["sh","-c","a < b && c > d"],"image":"a/b:1","ports":{"http":"80"}}}`)
		if code != 200 || !strings.Contains(got, `"generation":1`) {
			t.Errorf("another order of keys is another generation: %s", got)
		}
		_, got = call(s, system, "PUT", path+"/status", `{"status":{"ready":2},"spec":{"image":"evil"}}`)
		if !strings.Contains(got, `"spec":`+spec) || !strings.Contains(got, `"generation":1`) {
			t.Errorf("a status write changed the spec: %s", got)
		}
		_, got = call(s, system, "PUT", path, `{"spec":{"image":"a/b:2"},"status":{"ready":9}}`)
		if !strings.Contains(got, `"status":{"ready":2}`) || !strings.Contains(got, `"generation":2`) {
			t.Errorf("a spec write changed the status: %s", got)
		}
	})
}

func TestStatusKeepsParts(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		call(s, system, "PUT", "/v1/nodes/w1", `{}`)
		node := Identity{RoleNode, "w1"}
		code, got := call(s, node, "PUT", "/v1/nodes/w1/status", `{"status":{"address":"10.0.0.1","health":{"verdict":"ready"}}}`)
		if code != 200 || strings.Contains(got, "verdict") {
			t.Errorf("a node gave itself a verdict: %d %s", code, got)
		}
		code, got = call(s, node, "PUT", "/v1/nodes/w1/health", `{"status":{"health":{"verdict":"ready"}}}`)
		if code != 403 {
			t.Errorf("a node gave itself a verdict: %d %s", code, got)
		}
		_, got = call(s, system, "PUT", "/v1/nodes/w1/health", `{"status":{"address":"overwritten","health":{"verdict":"ready"}}}`)
		if !strings.Contains(got, `"address":"10.0.0.1"`) || !strings.Contains(got, `"verdict":"ready"`) {
			t.Errorf("health: %s", got)
		}
		_, got = call(s, node, "PUT", "/v1/nodes/w1/status", `{"status":{"address":"10.0.0.2","health":{"verdict":"dead"}}}`)
		if !strings.Contains(got, `"address":"10.0.0.2"`) || !strings.Contains(got, `"verdict":"ready"`) {
			t.Errorf("status: %s", got)
		}
	})
}

// TestNodesWriteOnlyAboutThemselves is the table of what a node may do.
func TestNodesWriteOnlyAboutThemselves(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		for _, n := range []string{"w1", "w2"} {
			makeNode(t, c, n, "2", "1Gi")
			makePod(t, c, "on-"+n, "100m", "16Mi")
			bindPod(t, c, "on-"+n, n)
		}
		node := Identity{RoleNode, "w1"}
		for _, tc := range []struct {
			method, path, body string
			want               int
		}{
			{"GET", "/v1/pods?node=w1", "", 200},
			{"GET", "/v1/endpoints", "", 200},
			{"GET", "/v1/nodes", "", 200},
			{"GET", "/v1/tokens", "", 403},
			{"PUT", "/v1/namespaces/default/pods/on-w1/status", `{"status":{"phase":"starting"}}`, 200},
			{"PUT", "/v1/namespaces/default/pods/on-w2/status", `{"status":{"phase":"starting"}}`, 403},
			{"PUT", "/v1/nodes/w1/status", `{"status":{"address":"10.0.0.1"}}`, 200},
			{"PUT", "/v1/nodes/w2/status", `{"status":{"address":"10.0.0.1"}}`, 403},
			{"PUT", "/v1/nodes/w1", `{"spec":{"cordoned":true}}`, 403},
			{"PUT", "/v1/namespaces/default/apps/x", `{"spec":{"image":"x:1"}}`, 403},
			{"DELETE", "/v1/namespaces/default/pods/on-w1", "", 403},
			{"DELETE", "/v1/namespaces/default/pods/on-w1?final=true", "", 403},
			{"POST", "/v1/batch", `{"writes":[{"bind":{"namespace":"default","pod":"on-w1","uid":"","node":"w1"}}]}`, 403},
			{"POST", "/v1/batch", `{"writes":[{"put":{"kind":"Namespace","meta":{"name":"mine"}}}]}`, 403},
			{"POST", "/v1/batch", `{"writes":[{"delete":{"ref":{"kind":"Pod","namespace":"default","name":"on-w1"}}}]}`, 403},
			{"POST", "/v1/nodes/w1/applied", `{"revision":3}`, 204},
			{"POST", "/v1/nodes/w2/applied", `{"revision":3}`, 403},
			{"POST", "/v1/events", `{"subject":{"kind":"Node","name":"w1"},"event":{"reason":"booted","message":"up"}}`, 202},
			{"GET", "/v1/namespaces/default/pods/on-w2/logs", "", 403},
			{"POST", "/v1/images", "", 403},
		} {
			if code, got := call(s, node, tc.method, tc.path, tc.body); code != tc.want {
				t.Errorf("%s %s: %d %s, want %d", tc.method, tc.path, code, got, tc.want)
			}
		}
	})
}

// TestPhaseOnlyMovesForward: an agent that comes back cannot revive a pod.
func TestPhaseOnlyMovesForward(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "2", "1Gi")
		makePod(t, c, "p", "100m", "16Mi")
		bindPod(t, c, "p", "w1")
		put := func(phase string) int {
			code, _ := call(s, Identity{RoleNode, "w1"}, "PUT", "/v1/namespaces/default/pods/p/status", `{"status":{"phase":"`+phase+`"}}`)
			return code
		}
		for _, tc := range []struct {
			phase string
			want  int
		}{{"running", 200}, {"starting", 409}, {"stopping", 200}, {"running", 409}, {"lost", 200}, {"running", 409}, {"failed", 409}, {"lost", 200}} {
			if code := put(tc.phase); code != tc.want {
				t.Errorf("to %s: %d, want %d", tc.phase, code, tc.want)
			}
		}
	})
}

// TestRetryReplays: a request that is sent again is answered from what it did.
func TestRetryReplays(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		const path = "/v1/namespaces/default/apps/web"
		create := func() (int, string) {
			return call(s, system, "PUT", path, `{"spec":{"image":"n:1"}}`, "If-None-Match", "*", api.HeaderRequestID, "r1")
		}
		_, first := create()
		code, again := create()
		if code != 200 || again != first {
			t.Errorf("create again: %d %s, first %s", code, again, first)
		}
		call(s, system, "PUT", path+"/status", `{"status":{"ready":1}}`, api.HeaderRequestID, "s1")
		if code, got := create(); code != 200 || !strings.Contains(got, `"generation":1`) {
			t.Errorf("create after a status: %d %s", code, got)
		}
		replace := func() int {
			code, _ := call(s, system, "PUT", path, `{"spec":{"image":"n:2"}}`, "If-Match", "1", api.HeaderRequestID, "r2")
			return code
		}
		if a, b := replace(), replace(); a != 200 || b != 200 {
			t.Errorf("replace: %d, again %d", a, b)
		}
		if code, _ := create(); code != 409 {
			t.Errorf("an old create after a new write: %d", code)
		}
	})
}

// TestWhatWasDeletedStaysDeleted: who writes back what it read before a
// deletion does not bring it back.
func TestWhatWasDeletedStaysDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, services := t.Context(), client.Of(c, api.Services)
		svc := must(services.Create(ctx, newService("web", 0)))(t)
		if err := services.Delete(ctx, "default", "web", svc.Meta.UID); err != nil {
			t.Fatal(err)
		}
		_, err := services.Put(ctx, svc)
		wantCode(t, err, api.NotFound)
		again := must(services.Create(ctx, svc))(t) // said in so many words, it is made anew
		if again.Meta.UID == svc.Meta.UID {
			t.Error("an identity was used twice")
		}
		_, err = services.Put(ctx, svc)
		wantCode(t, err, api.Precondition)
		_, err = services.PutStatus(ctx, svc)
		wantCode(t, err, api.Precondition)
		wantCode(t, services.Delete(ctx, "default", "web", svc.Meta.UID), api.Precondition)
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		code, got := call(s, system, "PUT", "/v1/namespaces/default/apps/web?dry_run=true", `{"spec":{"image":"n:1"}}`)
		if code != 201 || !strings.Contains(got, `"effective"`) {
			t.Errorf("%d %s", code, got)
		}
		if code, _ = call(s, system, "GET", "/v1/namespaces/default/apps/web", ""); code != 404 {
			t.Errorf("it is there: %d", code)
		}
	})
}

// TestRacingReplaces: of many replaces of one generation exactly one wins, and
// every generation is written once.
func TestRacingReplaces(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		must(apps.Create(ctx, newApp("web")))(t)
		for gen := int64(1); gen < 10; gen++ {
			var mu sync.Mutex
			won := 0
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					a := newApp("web")
					a.Spec.Image = fmt.Sprintf("nginx:%d-%d", gen, i)
					_, err := apps.Replace(ctx, a, gen)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						won++
					} else if !api.Is(err, api.Precondition) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if won != 1 {
				t.Fatalf("%d replaces of generation %d won", won, gen)
			}
		}
		// Writes without precondition and status writes all succeed: the server tries again.
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				a := newApp("web")
				a.Spec.Image = fmt.Sprintf("nginx:x-%d", i)
				if _, err := apps.Put(ctx, a); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				a := newApp("web")
				a.Status.Ready = i
				if _, err := apps.PutStatus(ctx, a); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestNamespaceLife(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx := context.WithoutCancel(t.Context())
		spaces, apps := client.Of(c, api.Namespaces), client.Of(c, api.Apps)
		must(spaces.Create(ctx, &api.Namespace{Meta: api.Meta{Name: "shop"}}))(t)
		a := newApp("web")
		a.Meta.Namespace = "shop"
		must(apps.Create(ctx, a))(t)
		wantCode(t, spaces.Finalize(ctx, "", "shop", ""), api.Conflict)
		if err := spaces.Delete(ctx, "", "shop", ""); err != nil {
			t.Fatal(err)
		}
		b := newApp("late")
		b.Meta.Namespace = "shop"
		_, err := apps.Create(ctx, b)
		wantCode(t, err, api.Conflict)
		err = spaces.Finalize(ctx, "", "shop", "")
		if wantCode(t, err, api.Conflict); !strings.Contains(err.Error(), "app/shop/web is still there") {
			t.Error(err)
		}
		wantCode(t, apps.Finalize(ctx, "shop", "web", ""), api.Conflict)
		if err := apps.Delete(ctx, "shop", "web", ""); err != nil {
			t.Fatal(err)
		}
		if err := apps.Finalize(ctx, "shop", "web", ""); err != nil {
			t.Fatal(err)
		}
		if err := spaces.Finalize(ctx, "", "shop", ""); err != nil {
			t.Fatal(err)
		}
		_, err = apps.Create(ctx, b)
		wantCode(t, err, api.NotFound)
		wantCode(t, spaces.Delete(ctx, "", "default", ""), api.Conflict)
	})
}

func TestNamesCannotReachOtherKeys(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		for _, path := range []string{
			"/v1/namespaces/default/apps/..%2f..%2ftokens%2fx", "/v1/nodes/.alloc", "/v1/tokens/a%2Fb",
			"/v1/namespaces/%2e%2e/apps/x", "/v1/namespaces/a%20b/apps/x",
		} {
			for _, m := range []string{"GET", "DELETE", "PUT"} {
				if code, got := call(s, system, m, path, `{}`); code < 300 || code >= 500 {
					t.Errorf("%s %s: %d %s", m, path, code, got)
				}
			}
		}
	})
}
