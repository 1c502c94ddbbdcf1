//go:build !race

package provider_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// testEphemeralToken: the token of a run may do what its roles give and no more,
// and is gone when the run is over, or soon after when it failed: Terraform does
// not close what a failed walk opened. It is run as it is shipped: each alias of
// the provider has a process of its own.
func testEphemeralToken(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	roles, tokens := client.Of(c.Client(), api.Roles), client.Of(c.Client(), api.Tokens)
	role := &api.Role{Meta: api.Meta{Name: "looker"}, Spec: api.RoleSpec{Rules: map[string]api.Rule{
		"look": {Namespaces: []string{ns}, Kinds: []string{"apps", "namespaces"}, Verbs: []string{"read"}},
	}}}
	if _, err := roles.Create(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"CLUSTERD_ADDR": c.URL(), "CLUSTERD_TOKEN": c.Token(), "CLUSTERD_CACERT": c.CAFile(), "CLUSTERD_NAMESPACE": ns}
	w := newWorkspace(t, c.provider(), env)
	example := read(t, "../examples/ephemeral-resources/clusterd_token/ephemeral-resource.tf")
	for _, step := range []struct {
		name, from, to, more string
		code                 int
		says                 string
	}{
		{"reads", "", "", "", 0, "Apply complete"},
		{"may not write", "", "", "resource \"clusterd_config\" \"no\" {\n  provider = clusterd.looker\n  name     = \"no\"\n  data     = { a = \"b\" }\n}\n", 1, "needs a role with the rule"},
		{"no such role", `roles = ["looker"]`, `roles = ["nobody"]`, "", 1, "role nobody does not exist"},
		{"bad ttl", `roles = ["looker"]`, "roles = [\"looker\"]\n  ttl = \"soon\"", "", 1, "Bad ttl"},
	} {
		w.write("main.tf", strings.Replace(example, step.from, step.to, 1)+step.more)
		out := w.must(step.code, "apply", "-auto-approve")
		if flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "│", "")), " "); !strings.Contains(flat, step.says) {
			t.Errorf("%s: want %q:\n%s", step.name, step.says, out)
		}
		all, _, err := tokens.List(t.Context(), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, tok := range all {
			switch {
			case !slices.Contains(tok.Spec.Roles, "looker"): // not of a run
				continue
			case step.code == 0:
				t.Errorf("%s: token %s outlived its run", step.name, tok.Meta.Name)
			case tok.Spec.ExpiresAt.IsZero() || time.Until(tok.Spec.ExpiresAt) > 5*time.Minute:
				t.Errorf("%s: token %s is good until %s", step.name, tok.Meta.Name, tok.Spec.ExpiresAt)
			}
			if err := tokens.Delete(t.Context(), "", tok.Meta.Name, ""); err != nil {
				t.Error(err)
			}
		}
	}
}
