package apiserver

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestNobodyGivesWhatHeHasNot: writing roles and tokens is no way to more.
func TestNobodyGivesWhatHeHasNot(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		put(t, s, "/v1/namespaces/shop", `{}`, 201)
		hash := strings.Repeat("0", 64)
		token := must(holder(s, "lead", []api.Rule{rule("", "roles tokens", "*"), rule("shop", "apps services", "read write"), rule("shop", "pods", "read logs")}))(t)
		put(t, s, "/v1/roles/strong", `{"spec":{"rules":{"r0":{"namespaces":["*"],"kinds":["apps"],"verbs":["read"]}}}}`, 201)
		put(t, s, "/v1/tokens/boss", `{"spec":{"role":"admin","hash":"`+hash+`"}}`, 201)
		put(t, s, "/v1/tokens/strong", `{"spec":{"roles":["strong"],"hash":"`+hash+`"}}`, 201)
		role := func(rules ...api.Rule) string {
			b, _ := json.Marshal(map[string]any{"spec": api.RoleSpec{Rules: named(rules)}})
			return string(b)
		}
		tok := func(spec string) string { return `{"spec":{"hash":"` + hash + `",` + spec + `}}` }
		for _, tc := range []struct{ path, body, want string }{
			{"/v1/roles/dev", role(rule("shop", "apps", "read")), ""},
			{"/v1/roles/dev", role(rule("shop", "apps services", "read write plan"), rule("shop", "pods", "logs")), ""},
			{"/v1/roles/dev", role(rule("shop", "apps", "delete")), `{ namespaces = ["shop"], kinds = ["apps"], verbs = ["delete"] }`},
			{"/v1/roles/dev", role(rule("shop", "apps pods", "write")), `kinds = ["pods"], verbs = ["write"]`},
			{"/v1/roles/dev", role(rule("other", "apps", "read")), `namespaces = ["other"]`},
			{"/v1/roles/dev", role(rule("*", "apps", "read")), `namespaces = ["*"]`},
			{"/v1/roles/dev", role(rule("shop", "*", "read")), `kinds = ["*"]`},
			{"/v1/roles/dev", role(rule("shop", "apps", "*")), `verbs = ["*"]`},
			{"/v1/roles/lead", role(rule("*", "*", "*")), "may not give what it has not"},
			{"/v1/tokens/t1", tok(`"roles":["lead"]`), ""},
			{"/v1/tokens/t1", tok(`"roles":["lead"],"description":"again"`), ""},
			{"/v1/tokens/t1", tok(`"roles":["lead","strong"]`), "may not give what it has not"},
			{"/v1/tokens/t1", tok(`"role":"admin"`), "may not give what it has not"},
			{"/v1/tokens/t1", tok(`"role":"node"`), `kinds = ["nodes"], verbs = ["join"]`},
			{"/v1/tokens/t1", tok(`"role":"server"`), `kinds = ["servers"], verbs = ["join"]`},
			// To give another's token a secret of one's own is to have what it has.
			{"/v1/tokens/boss", tok(`"role":"admin","description":"mine"`), "may not give what it has not"},
			{"/v1/tokens/boss", tok(`"roles":["lead"]`), "may not give what it has not"},
			{"/v1/tokens/strong", tok(`"roles":["strong"],"description":"mine"`), "may not give what it has not"},
		} {
			w := attempt{method: "PUT", path: tc.path, body: tc.body}.by(s, token)
			if denied := w.Code == http.StatusForbidden; denied != (tc.want != "") || !strings.Contains(w.Body.String(), strings.ReplaceAll(tc.want, `"`, `\"`)) {
				t.Errorf("%s %s: %d %s, want %q", tc.path, tc.body, w.Code, w.Body, tc.want)
			}
		}
		for path, body := range map[string]string{
			"/v1/roles/admin": role(rule("shop", "apps", "read")),
			"/v1/tokens/t2":   tok(`"roles":["none"]`),
			"/v1/tokens/t3":   tok(`"roles":["lead"],"role":"node"`),
			"/v1/tokens/t4":   tok(`"role":"lead"`),
			"/v1/roles/odd1":  role(rule("shop", "nodes", "read")),
			"/v1/roles/odd2":  role(rule("", "apps", "read")),
			"/v1/roles/odd3":  role(rule("shop", "apps", "exec")),
			"/v1/roles/odd4":  role(rule("shop", "App", "read")),
			"/v1/roles/odd5":  role(rule("shop", "apps", "view")),
			"/v1/roles/odd6":  role(rule("shop", "namespaces", "write")),
		} {
			put(t, s, path, body, 422)
		}
	})
}

// TestRefusalsSayTheWayOut: which rule would allow it, and where to look instead.
func TestRefusalsSayTheWayOut(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		token := must(holder(s, "ci", []api.Rule{rule("shop other", "apps", "read"), rule("shop", "pods", "read")}))(t)
		for path, want := range map[string]string{
			"/v1/namespaces/shop/secrets/db": `token ci may not read secrets in shop: it needs a role with the rule { namespaces = ["shop"], kinds = ["secrets"], verbs = ["read"] }`,
			"/v1/apps":                       `token ci may not read apps of all namespaces, only those of other, shop: ask for one namespace, or get a role with the rule { namespaces = ["*"], kinds = ["apps"], verbs = ["read"] }`,
			"/v1/apps?watch=true":            `only those of other, shop`,
			"/v1/services":                   `token ci may not read services of all namespaces: it needs a role with the rule { namespaces = ["*"]`,
			"/v1/nodes":                      `token ci may not read nodes: it needs a role with the rule { kinds = ["nodes"], verbs = ["read"] }`,
			"/v1/namespaces/shop":            `kinds = ["namespaces"], verbs = ["read"]`,
			"/v1/namespaces/other/apps":      "",
		} {
			w := attempt{method: "GET", path: path}.by(s, token)
			var p struct{ Detail string }
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != map[bool]int{true: 200, false: 403}[want == ""] || !strings.Contains(p.Detail, want) {
				t.Errorf("%s: %d %s, want %s", path, w.Code, p.Detail, want)
			}
		}
	})
}

// TestRolesTakeEffectAtOnce: on the next request, and on what is open.
func TestRolesTakeEffectAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		put(t, s, "/v1/namespaces/shop", `{}`, 201)
		token := must(holder(s, "ci", []api.Rule{rule("shop", "apps", "read")}))(t)
		list := attempt{method: "GET", path: "/v1/namespaces/shop/apps"}
		ended := make(chan bool, 1)
		go func() { attempt{method: "GET", path: list.path + "?watch=true"}.by(s, token); ended <- true }()
		time.Sleep(time.Minute)
		// A role that still gives it ends nothing.
		put(t, s, "/v1/roles/ci", `{"spec":{"rules":{"r0":{"namespaces":["*"],"kinds":["apps"],"verbs":["read"]}}}}`, 200)
		time.Sleep(time.Minute)
		synctest.Wait()
		if w := list.by(s, token); w.Code != 200 || len(ended) != 0 {
			t.Fatalf("with more rights: %d, %d watches ended", w.Code, len(ended))
		}
		call(s, system, "DELETE", "/v1/roles/ci", "")
		if w := list.by(s, token); w.Code != 403 {
			t.Errorf("without the role: %d %s", w.Code, w.Body)
		}
		time.Sleep(2 * roundEvery)
		synctest.Wait()
		if len(ended) != 1 {
			t.Error("the watch goes on without the role")
		}
		put(t, s, "/v1/roles/ci", `{"spec":{"rules":{"r0":{"namespaces":["shop"],"kinds":["apps"],"verbs":["read"]}}}}`, 201)
		if w := list.by(s, token); w.Code != 200 {
			t.Errorf("with the role again: %d %s", w.Code, w.Body)
		}
	})
}
