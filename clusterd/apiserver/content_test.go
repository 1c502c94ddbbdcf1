package apiserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

const (
	db   = "/v1/namespaces/default/secrets/db"
	cred = "hunter2-swordfish"
)

// values opens the version a secret has now, as only the server can.
func values(t *testing.T, s *Server, name string) map[string]string {
	t.Helper()
	snap, err := s.cache.latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := snap.get(s.kinds["secrets"].key("default", name))
	var spec api.SecretSpec
	if o == nil || json.Unmarshal(o.spec, &spec) != nil {
		t.Fatalf("no secret %s", name)
	}
	_, v, err := s.newTxn(snap, caller{}).version("default", "secret/"+name, spec.Hash)
	if err != nil || v == nil {
		t.Fatalf("no values of %s: %v", name, err)
	}
	return v
}

func put(t *testing.T, s *Server, path, body string, want int) (o api.Secret) {
	t.Helper()
	code, got := call(s, system, "PUT", path, body)
	if code != want || strings.Contains(got, cred) {
		t.Fatalf("PUT %s: %d %s, want %d and no value", path, code, got, want)
	}
	if code < 300 {
		if err := json.Unmarshal([]byte(got), &o); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// TestSecretIsWrittenNeverRead: no answer, error, watch or byte of the store
// has a value.
func TestSecretIsWrittenNeverRead(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ok := `{"spec":{"data":{"url":"` + cred + `"},"generate":{"key":{"charset":"hex"}}}}`
		for _, tc := range []struct {
			method, path, body string
			want               int
		}{
			{"PUT", db + "?dry_run=true", ok, 201},
			{"PUT", db, ok, 201},
			{"PUT", db, ok, 200},
			{"PUT", db, `{"spec":{"data":{"url":["` + cred + `"]}}}`, 422},
			{"PUT", db, `{"spec":{"data":"` + cred + `"}}`, 422},
			{"PUT", db, `{"spec":{"data":{"bad key":"` + cred + `"}}}`, 422},
			{"PUT", db, `{"spec":{"data":{"url":"` + cred + `\u0000"}}}`, 422},
			{"PUT", db, `{"spec":{"data":{"url":"` + cred + `"},"datum":{"x":"` + cred + `"}}}`, 422},
			{"PUT", db, `{"spec":{"data":{"url":"` + cred + `"` + "\x01" + `}}}`, 422},
			{"PUT", db, `{"spec":{"data":{"url":"` + cred + `"},"hash":"0123456789abcdef"}}`, 422},
			{"POST", "/v1/batch", `{"writes":[{"put":{"kind":"Secret","meta":{"namespace":"default","name":"two"},"spec":{"data":{"a":"` + cred + `"}}}},{"put":{"kind":"App","meta":{"namespace":"default","name":"x"},"spec":{}}}]}`, 422},
			{"POST", "/v1/batch", `{"writes":[{"put":{"kind":"Secret","meta":{"namespace":"default","name":"two"},"spec":{"data":{"a":"` + cred + `"}}}}]}`, 200},
			{"GET", db, "", 200},
			{"GET", "/v1/secrets", "", 200},
			{"GET", "/v1/contents", "", 200},
			{"GET", "/v1/events", "", 200},
			{"DELETE", "/v1/namespaces/default/secrets/two", "", 200},
		} {
			if code, got := call(s, system, tc.method, tc.path, tc.body); code != tc.want || strings.Contains(got, cred) {
				t.Errorf("%s %s: %d %s, want %d and no value", tc.method, tc.path, code, got, tc.want)
			}
		}
		v := values(t, s, "db")
		if v["url"] != cred || len(v["key"]) != 32 {
			t.Fatalf("the values are %v", v)
		}
		snap, err := s.cache.latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		snap.each(root, "", func(o *object) bool {
			if strings.Contains(string(o.value)+string(o.body), cred) || strings.Contains(string(o.value), v["key"]) {
				t.Errorf("%s shows a value", o.key)
			}
			return true
		})
		put(t, s, "/v1/servers/s1", `{"spec":{"address":"10.0.0.1:7443"}}`, 201)
		for _, who := range []Identity{system, {RoleUser, "ada"}, {RoleServer, "s1"}} {
			hash := must(client.Of(c, api.Secrets).Get(t.Context(), "default", "db"))(t).Spec.Hash
			if code, got := call(s, who, "GET", db+"/versions/"+hash, ""); code != 403 || strings.Contains(got, cred) {
				t.Errorf("%s reads a version: %d %s", who, code, got)
			}
		}
	})
}

// TestSecretKeepsOrReplaces: data says all values anew, a hash keeps or brings
// back those of its version, and generated ones stay until their line changes.
func TestSecretKeepsOrReplaces(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		one := put(t, s, db, `{"spec":{"data":{"a":"1","b":"2"},"generate":{"key":{}}}}`, 201)
		v1 := values(t, s, "db")
		same := put(t, s, db, `{"spec":{"data":{"b":"2","a":"1"},"generate":{"key":{}}}}`, 200)
		if same.Spec.Hash != one.Spec.Hash || same.Meta.Generation != 1 {
			t.Errorf("the same values are generation %d, %s", same.Meta.Generation, same.Spec.Hash)
		}
		back := put(t, s, db, `{"spec":`+string(marshal(one.Spec))+`}`, 200)
		if back.Meta.Generation != 1 {
			t.Errorf("what was read and written again is generation %d", back.Meta.Generation)
		}
		two := put(t, s, db, `{"spec":{"data":{"a":"3"},"generate":{"key":{}}}}`, 200)
		v2 := values(t, s, "db")
		if _, b := v2["b"]; b || v2["a"] != "3" || v2["key"] != v1["key"] || two.Meta.Generation != 2 {
			t.Errorf("data replaces all values and keeps generated ones: %v of %v", v2, v1)
		}
		put(t, s, db, `{"spec":{"hash":"`+two.Spec.Hash+`","generate":{"key":{"version":1}}}}`, 200)
		v3 := values(t, s, "db")
		if v3["a"] != "3" || v3["key"] == v1["key"] || len(v3["key"]) != 32 {
			t.Errorf("another line makes another value and keeps the data: %v", v3)
		}
		put(t, s, db, `{"spec":`+string(marshal(one.Spec))+`}`, 200)
		if v := values(t, s, "db"); v["a"] != "1" || v["b"] != "2" || v["key"] != v1["key"] {
			t.Errorf("brought back %v, want %v", v, v1)
		}
		put(t, s, db, `{"spec":{"hash":"ffffffffffffffff"}}`, 422)
		put(t, s, db, `{"spec":{}}`, 422)
	})
}

// TestVersionsAreForTheirPods: a node gets what a pod bound to it uses, in that
// version, as long as the pod is there.
func TestVersionsAreForTheirPods(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		secret := put(t, s, db, `{"spec":{"data":{"url":"new"}}}`, 201)
		old := secret.Spec.Hash
		secret = put(t, s, db, `{"spec":{"data":{"url":"`+cred+`"}}}`, 200)
		call(s, system, "PUT", "/v1/namespaces/default/configs/web", `{"spec":{"data":{"level":"debug"}}}`)
		config := api.ConfigHash("config/web", map[string]string{"level": "debug"})
		for _, n := range []string{"w1", "w2"} {
			makeNode(t, c, n, "2", "1Gi")
		}
		p := &api.Pod{Meta: api.Meta{Namespace: "default", Name: "user"}}
		p.Spec.Container = api.Container{Image: "nginx:1"}
		p.Spec.Contents = map[string]string{"secret/db": secret.Spec.Hash, "config/web": config}
		p = must(client.Of(c, api.Pods).Create(t.Context(), p))(t)
		node := func(name string) Identity { return Identity{RoleNode, name} }
		ask := func(who Identity, path string, want int, has string) {
			t.Helper()
			if code, got := call(s, who, "GET", "/v1/namespaces/default/"+path, ""); code != want || !strings.Contains(got, has) || code != 200 && strings.Contains(got, cred) {
				t.Errorf("%s asks for %s: %d %s, want %d with %q", who, path, code, got, want, has)
			}
		}
		now := "secrets/db/versions/" + secret.Spec.Hash
		ask(node("w1"), now, 403, "runs no pod")
		bindPod(t, c, "user", "w1")
		ask(node("w1"), now, 200, cred)
		ask(node("w1"), "configs/web/versions/"+config, 200, "debug")
		ask(node("w1"), "secrets/db/versions/"+old, 403, "runs no pod")
		ask(node("w1"), "secrets/other/versions/"+secret.Spec.Hash, 403, "runs no pod")
		ask(node("w1"), "configs/db/versions/"+secret.Spec.Hash, 403, "runs no pod")
		ask(node("w1"), "secrets/db", 403, "may not read")
		ask(node("w1"), "contents/"+api.ContentName("secret/db", secret.Spec.Hash), 403, "may not read")
		ask(node("w2"), now, 403, "runs no pod")
		ask(node("w2"), "configs/web/versions/"+config, 403, "runs no pod")
		ask(Identity{RoleUser, "ada"}, "configs/web/versions/"+config, 200, "debug")
		p.Status.Phase = api.PhaseSucceeded
		must(client.Of(c, api.Pods).PutStatus(t.Context(), p))(t)
		ask(node("w1"), now, 403, "runs no pod")
		for _, path := range []string{"/v1/namespaces/default/contents/x", "/v1/namespaces/default/contents/" + api.ContentName("secret/db", old)} {
			if code, _ := call(s, system, "PUT", path, `{"spec":{"of":"secret/db","hash":"x"}}`); code != 403 {
				t.Errorf("a version was written by hand: %d", code)
			}
		}
		if code, _ := call(s, node("w1"), "POST", "/v1/keys/secrets", ""); code != 403 {
			t.Errorf("a node rotates keys: %d", code)
		}
	})
}

// TestPodNeedsItsVersions: a pod whose version is gone is refused, rather than
// made and never started.
func TestPodNeedsItsVersions(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		p := &api.Pod{Meta: api.Meta{Namespace: "default", Name: "late"}}
		p.Spec.Container = api.Container{Image: "nginx:1"}
		p.Spec.Contents = map[string]string{"secret/db": "0123456789abcdef"}
		if _, err := client.Of(c, api.Pods).Create(t.Context(), p); !api.Is(err, api.Precondition) || !strings.Contains(err.Error(), "is not kept any more") {
			t.Errorf("created: %v", err)
		}
	})
}

// TestRotateKeys: after a rotation every value opens with the new key alone,
// and hashes are what they were.
func TestRotateKeys(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		before := map[string]string{}
		for _, name := range []string{"a", "b", "c"} {
			before[name] = put(t, s, "/v1/namespaces/default/secrets/"+name, `{"spec":{"data":{"k":"`+name+`-value"}}}`, 201).Spec.Hash
		}
		var r api.Keys
		for i, query := range []string{"", "?forget=true"} {
			code, got := call(s, system, "POST", "/v1/keys/secrets"+query, "")
			if code != 200 || json.Unmarshal([]byte(got), &r) != nil || r.Sealed != 3 {
				t.Fatalf("rotation %d: %d %s", i, code, got)
			}
		}
		snap, _ := s.cache.latest(t.Context())
		set, err := s.openKeys(snap.get(keysKey))
		if err != nil {
			t.Fatal(err)
		}
		current := set.Secrets.Current()
		if len(r.Removed) != 2 || !slices.Equal(r.Secrets, []string{current}) || slices.Contains(r.Removed, current) {
			t.Errorf("removed %v, there are %v, %s seals", r.Removed, r.Secrets, current)
		}
		for name, hash := range before {
			if v := values(t, s, name); v["k"] != name+"-value" {
				t.Errorf("%s is %v", name, v)
			}
			if o := put(t, s, "/v1/namespaces/default/secrets/"+name, `{"spec":{"data":{"k":"`+name+`-value"}}}`, 200); o.Spec.Hash != hash || o.Meta.Generation != 1 {
				t.Errorf("the same values of %s have another hash after a rotation", name)
			}
		}
		snap, _ = s.cache.latest(t.Context())
		for _, key := range sealedKeys(snap) {
			if keys.KeyOf(snap.get(key).value) != current {
				t.Errorf("%s needs an old key", key)
			}
		}
	})
}
