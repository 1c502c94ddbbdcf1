//go:build !race

package provider_test

import (
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

// testModules runs each module's own tests, and applies, plans anew and
// destroys it as a caller does.
func testModules(t *testing.T, c *cluster) {
	dirs, err := filepath.Glob("../examples/modules/*/main.tf")
	if err != nil || len(dirs) != len(modules) {
		t.Fatalf("%d modules are tested of %v (%v)", len(modules), dirs, err)
	}
	provides, _ := newPlugin(t, c.settings())
	built := newWorkspace(t, c.Env())
	for name, variables := range modules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "postgres" && provides.schema.ResourceSchemas["clusterd_secret"] == nil {
				t.Skip("the provider has no clusterd_secret, which the module is made of")
			}
			w := &workspace{t: t, dir: t.TempDir(), env: map[string]string{"CLUSTERD_NAMESPACE": c.namespace(t)}}
			for k, v := range built.env {
				w.env[k] = v
			}
			if err := os.CopyFS(filepath.Join(w.dir, "module"), os.DirFS(filepath.Join("../examples/modules", name))); err != nil {
				t.Fatal(err)
			}
			own := &workspace{t: t, dir: filepath.Join(w.dir, "module"), env: w.env}
			own.must(0, "get") // what its tests are made of
			if out := own.must(0, "test"); !strings.Contains(out, "Success!") || strings.Contains(out, " 0 passed") {
				t.Errorf("terraform test tests nothing:\n%s", out)
			}
			if left, _, err := client.Of(c.Client(), api.Volumes).List(t.Context(), w.env["CLUSTERD_NAMESPACE"], nil); err != nil || len(left) > 0 {
				t.Errorf("terraform test leaves volumes: %v (%v)", left, err)
			}
			w.write("main.tf", "module \"it\" {\n  source = \"./module\"\n"+variables+"}\n")
			w.must(0, "get")
			w.must(0, "apply", "-auto-approve")
			w.must(0, "plan", "-detailed-exitcode")
			w.must(0, "destroy", "-auto-approve")
		})
	}
}
