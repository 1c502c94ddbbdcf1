//go:build !race

package provider_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// modules are those of examples/modules, each with the variables its own tests
// start from.
var modules = map[string]string{
	"team":     "  name        = \"module-team\"\n  description = \"Whoever is on call.\"\n  quota       = { cpu = \"2\", memory = \"2Gi\", replicas = 20 }\n",
	"web-app":  "  name  = \"web\"\n  image = \"nginx:1.0\"\n",
	"worker":   "  name  = \"worker\"\n  image = \"nginx:1.0\"\n",
	"cron":     "  name     = \"cron\"\n  image    = \"nginx:1.0\"\n  schedule = \"15 2 * * *\"\n",
	"postgres": "  name                = \"db\"\n  deletion_protection = false\n",
}

// testModules runs each module's own tests, and applies, plans anew and destroys
// them as a caller does: all in one configuration.
func testModules(t *testing.T, c *cluster) {
	dirs, err := filepath.Glob("../examples/modules/*/main.tf")
	if err != nil || len(dirs) != len(modules) {
		t.Fatalf("%d modules are tested of %v (%v)", len(modules), dirs, err)
	}
	caller := newWorkspace(t, c.provider(), c.Env())
	var calls strings.Builder
	for name, variables := range modules {
		if err := os.CopyFS(filepath.Join(caller.dir, name), os.DirFS(filepath.Join("../examples/modules", name))); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&calls, "module %[1]q {\n  source = \"./%[1]s\"\n%[2]s}\n", name, variables)
	}
	for name := range modules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := &workspace{t: t, dir: filepath.Join(caller.dir, name), env: maps.Clone(caller.env)}
			own.env["CLUSTERD_NAMESPACE"] = c.namespace(t)
			own.must(0, "get") // what its tests are made of
			if out := own.must(0, "test"); !strings.Contains(out, "Success!") || strings.Contains(out, " 0 passed") {
				t.Errorf("terraform test tests nothing:\n%s", out)
			}
			if left, _, err := client.Of(c.Client(), api.Volumes).List(t.Context(), own.env["CLUSTERD_NAMESPACE"], nil); err != nil || len(left) > 0 {
				t.Errorf("terraform test leaves volumes: %v (%v)", left, err)
			}
		})
	}
	t.Run("called", func(t *testing.T) {
		t.Parallel()
		w := &workspace{t: t, dir: caller.dir, env: maps.Clone(caller.env)}
		w.env["CLUSTERD_NAMESPACE"] = c.namespace(t)
		w.write("main.tf", calls.String())
		w.must(0, "get")
		w.must(0, "apply", "-auto-approve")
		w.must(0, "plan", "-detailed-exitcode")
		w.must(0, "destroy", "-auto-approve")
	})
}
