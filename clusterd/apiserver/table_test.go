package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// everywhere stands for a request about all namespaces.
const everywhere = "all"

// attempt is a request that takes one right.
type attempt struct {
	kind, ns           string // plural; ns is "" of kinds that are in none
	verb               api.Verb
	method, path, body string
}

// attempts are requests for all there is to be allowed, each by all ways there
// are to ask for it. What they are about does not exist, so they change nothing.
func attempts(s *Server) (all []attempt) {
	for _, k := range s.kinds {
		places := []string{""}
		if k.namespaced() {
			places = []string{"shop", "other"}
		}
		for _, ns := range places {
			one, meta := "/v1/"+k.info.Plural+"/none", `"meta":{"name":"none"}`
			if ns != "" {
				one, meta = "/v1/namespaces/"+ns+"/"+k.info.Plural+"/none", `"meta":{"name":"none","namespace":"`+ns+`"}`
			}
			ref := fmt.Sprintf(`{"kind":%q,"namespace":%q,"name":"none"}`, k.info.Name, ns)
			object := `{"kind":"` + k.info.Name + `",` + meta + `,"spec":{"none":1}}`
			try := func(verb api.Verb, method, path, body string) {
				all = append(all, attempt{k.info.Plural, ns, verb, method, path, body})
			}
			batch := func(verb api.Verb, op string) { try(verb, "POST", "/v1/batch", `{"writes":[{`+op+`}]}`) }
			if k.info.Name == api.Namespaces.Name { // to read one is a right in it, see below
				try(api.VerbWrite, "PUT", one, object)
			} else {
				try(api.VerbRead, "GET", one, "")
				try(api.VerbRead, "POST", "/v1/batch", `{"preconditions":[{"uid":"x","ref":`+ref+`}],"writes":[{"status":{"kind":"Node","meta":{"name":"none"}}}]}`)
			}
			try(api.VerbPlan, "PUT", one+"?dry_run=true", object)
			try(api.VerbWrite, "PUT", one, object)
			batch(api.VerbWrite, `"put":`+object)
			batch(api.VerbWrite, `"create":`+object)
			try(api.VerbDelete, "DELETE", one, "")
			batch(api.VerbDelete, `"delete":{"ref":`+ref+`}`)
			if k.info.TwoStep {
				try(api.VerbFinalize, "DELETE", one+"?final=true", "")
				batch(api.VerbFinalize, `"delete":{"final":true,"ref":`+ref+`}`)
			}
			try(api.VerbStatus, "PUT", one+"/status", `{}`)
			batch(api.VerbStatus, `"status":`+strings.Replace(object, `,"spec":{"none":1}`, "", 1))
			for _, part := range k.info.Parts {
				verb := map[string]api.Verb{"intent": api.VerbWrite, "off": api.VerbWrite, "move": api.VerbMove}[part]
				if verb == "" {
					verb = api.VerbStatus
				}
				try(verb, "PUT", one+"/"+part, `{}`)
			}
			try(api.VerbReport, "POST", "/v1/events", `{"subject":`+ref+`,"event":{"reason":"r"}}`)
			list := strings.TrimSuffix(one, "/none")
			try(api.VerbRead, "GET", list, "")
			switch k.info.Name {
			case api.Apps.Name, api.Jobs.Name:
				try(api.VerbPlan, "POST", one+"/plan", object)
			case api.Pods.Name:
				try(api.VerbRead, "GET", one+"/why", "")
				try(api.VerbRead, "GET", one+"/usage", "")
				try(api.VerbRead, "GET", one+"/drained", "")
				try(api.VerbRead, "GET", "/v1/usage?namespace="+ns, "")
				try(api.VerbLogs, "GET", one+"/logs", "")
				try(api.VerbExec, "POST", one+"/exec", "")
				try(api.VerbConnect, "POST", one+"/connect", "")
				try(api.VerbMove, "POST", "/v1/rebalance?namespace="+ns, "")
				batch(api.VerbBind, `"bind":{"pod":"none","node":"none","namespace":"`+ns+`"}`)
			case api.Configs.Name:
				try(api.VerbRead, "GET", one+"/versions/x", "")
			case api.Nodes.Name:
				try(api.VerbRead, "GET", one+"/images", "")
				try(api.VerbStatus, "POST", one+"/applied", "{}")
				try(api.VerbStatus, "POST", one+"/lease", "{}")
			case api.Servers.Name:
				try(api.VerbRead, "GET", "/metrics", "")
				try(api.VerbSnapshot, "POST", "/v1/snapshot", "{}")
				try(api.VerbRotate, "GET", "/v1/keys", "")
				try(api.VerbRotate, "POST", "/v1/keys/none", "")
			case api.Images.Name:
				try(api.VerbLoad, "POST", "/v1/images", "")
				try(api.VerbLoad, "DELETE", "/v1/images", "")
			case api.Namespaces.Name:
				for _, in := range []string{"shop", "other"} {
					all = append(all, attempt{k.info.Plural, in, api.VerbRead, "GET", "/v1/namespaces/" + in, ""})
				}
			}
		}
		if k.namespaced() {
			all = append(all, attempt{k.info.Plural, everywhere, api.VerbRead, "GET", "/v1/" + k.info.Plural, ""})
		}
	}
	return append(all,
		attempt{"pods", everywhere, api.VerbRead, "GET", "/v1/usage", ""},
		attempt{"pods", everywhere, api.VerbMove, "POST", "/v1/rebalance", ""})
}

// allowed is the model: all that rules give, spelt out.
func allowed(rules []api.Rule) map[string]bool {
	given := map[string]bool{}
	spell := func(words []string, all ...string) []string {
		if slices.Contains(words, "*") {
			return append(all, words...)
		}
		return words
	}
	var kinds, verbs []string
	for _, k := range api.Kinds {
		kinds = append(kinds, k.Info().Plural)
		for _, v := range api.VerbsOf(k.Info()) {
			verbs = append(verbs, string(v))
		}
	}
	for _, r := range rules {
		places := spell(r.Namespaces, "shop", "other", everywhere, "")
		if len(r.Namespaces) == 0 {
			places = []string{""}
		}
		for _, ns := range places {
			for _, k := range spell(r.Kinds, kinds...) {
				for _, v := range spell(r.Verbs, verbs...) {
					given[fmt.Sprint(v, " ", k, " ", ns)] = true
					if v == "write" {
						given[fmt.Sprint("plan ", k, " ", ns)] = true
					}
				}
			}
		}
	}
	for v := range given { // never given
		if v == "write contents " || strings.HasPrefix(v, "write contents ") || strings.HasPrefix(v, "status tokens ") {
			delete(given, v)
		}
	}
	return given
}

// holder makes a token of a role with rules, and returns it.
func holder(s *Server, name string, rules []api.Rule) (string, error) {
	u := pki.UserToken{ID: name, Secret: pki.NewUserToken().Secret}
	for _, o := range []struct {
		path string
		spec any
	}{{"/v1/roles/" + name, api.RoleSpec{Rules: named(rules)}}, {"/v1/tokens/" + name, api.TokenSpec{Roles: []string{name}, Hash: u.Hash()}}} {
		body, err := json.Marshal(map[string]any{"spec": o.spec})
		if err != nil {
			return "", err
		}
		if code, got := call(s, system, "PUT", o.path, string(body)); code >= 300 {
			return "", fmt.Errorf("%s: %d %s", o.path, code, got)
		}
	}
	return u.Reveal(), nil
}

// named gives rules names, as a role has them.
func named(rules []api.Rule) map[string]api.Rule {
	out := map[string]api.Rule{}
	for i, r := range rules {
		out[fmt.Sprint("r", i)] = r
	}
	return out
}

func (a attempt) by(s *Server, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(a.method, a.path, strings.NewReader(a.body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// judge compares what a token may with what its rules say, attempt by attempt.
func judge(s *Server, token string, rules []api.Rule, tries []attempt) (wrong []string, yes, no int) {
	given := allowed(rules)
	for _, a := range tries {
		want := given[fmt.Sprint(a.verb, " ", a.kind, " ", a.ns)]
		w := a.by(s, token)
		if may := w.Code != http.StatusForbidden; may != want {
			wrong = append(wrong, fmt.Sprintf("%s %s in %q, by %s %s %s: %d %s, want it allowed: %v", a.verb, a.kind, a.ns, a.method, a.path, a.body, w.Code, w.Body, want))
		}
		if want {
			yes++
		} else {
			no++
		}
	}
	return wrong, yes, no
}

func rule(namespaces, kinds, verbs string) api.Rule {
	return api.Rule{Namespaces: strings.Fields(namespaces), Kinds: strings.Fields(kinds), Verbs: strings.Fields(verbs)}
}

// TestAuthorizationTable: every role on every kind, verb and namespace, over the
// API, against the model.
func TestAuthorizationTable(t *testing.T) {
	for name, rules := range map[string][]api.Rule{
		"auditor":     {rule("*", "*", "read")},
		"everything":  {rule("*", "*", "*")},
		"shop":        {rule("shop", "*", "*")},
		"deployer":    {rule("shop", "apps services configs secrets", "read write delete"), rule("shop", "pods", "read logs")},
		"planner":     {rule("*", "apps jobs", "plan")},
		"writer":      {rule("shop other", "apps", "write")},
		"operator":    {rule("", "*", "*")},
		"nodes":       {rule("", "nodes servers", "read write status")},
		"backup":      {rule("", "servers", "snapshot")},
		"shell":       {rule("shop", "pods", "exec connect")},
		"loader":      {rule("", "images", "load")},
		"mover":       {rule("shop", "pods", "move")},
		"agentlike":   {rule("*", "pods", "bind status finalize report")},
		"rotator":     {rule("", "servers", "rotate")},
		"tokens":      {rule("", "tokens roles", "*")},
		"itself":      {rule("shop", "namespaces", "read")},
		"namespaces":  {rule("", "namespaces", "*")},
		"with others": {rule("shop", "apps", "read"), rule("other", "apps", "write"), rule("", "nodes", "read")},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
				put(t, s, "/v1/namespaces/shop", `{}`, 201)
				put(t, s, "/v1/namespaces/other", `{}`, 201)
				token, err := holder(s, "ci", rules)
				if err != nil {
					t.Fatal(err)
				}
				wrong, yes, no := judge(s, token, rules, attempts(s))
				for _, w := range wrong {
					t.Error(w)
				}
				if yes == 0 || no == 0 && name != "everything" {
					t.Errorf("%d allowed, %d denied", yes, no)
				}
			})
		})
	}
}

// TestAnyRole: and so for whatever role somebody thinks of.
func TestAnyRole(t *testing.T) {
	some := func(t *rapid.T, label string, least int, of ...string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(of), least, 3, rapid.ID).Draw(t, label)
	}
	s := startTLS(t, Config{}).Server
	put(t, s, "/v1/namespaces/shop", `{}`, 201)
	put(t, s, "/v1/namespaces/other", `{}`, 201)
	all := attempts(s)
	rapid.Check(t, func(t *rapid.T) {
		var rules []api.Rule
		for range rapid.IntRange(1, 3).Draw(t, "rules") {
			rules = append(rules, api.Rule{
				Namespaces: some(t, "namespaces", 0, "shop", "other", "*"),
				Kinds:      some(t, "kinds", 1, "apps", "pods", "secrets", "namespaces", "nodes", "tokens", "images", "*"),
				Verbs:      some(t, "verbs", 1, "read", "plan", "write", "delete", "status", "logs", "exec", "move", "load", "*"),
			})
		}
		if err := (api.RoleSpec{Rules: named(rules)}).Validate(); err != nil {
			t.Skip(err)
		}
		token, err := holder(s, "any", rules)
		if err != nil {
			t.Fatal(err)
		}
		wrong, _, _ := judge(s, token, rules, rapid.SliceOfN(rapid.SampledFrom(all), 20, 20).Draw(t, "tries"))
		for _, w := range wrong {
			t.Error(w)
		}
	})
}
