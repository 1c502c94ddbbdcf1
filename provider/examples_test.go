package provider_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// testExamples applies what the registry's pages show: it works as written, a
// second plan is empty, and what import.sh imports is what was made.
func testExamples(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	nodes := client.Of(c.Client(), api.Nodes)
	w1, err := nodes.Get(t.Context(), "", "w1")
	if err != nil {
		t.Fatal(err)
	}
	w1.Meta.Labels = map[string]string{"disk": "ssd", "zone": "a"}
	if _, err := nodes.Put(t.Context(), w1); err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("../examples/resources/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no examples", err)
	}
	for _, dir := range dirs {
		config := c.config(ns, "%s", read(t, filepath.Join(dir, "resource.tf")))
		words := strings.Fields(read(t, filepath.Join(dir, "import.sh")))
		address, id := words[len(words)-2], words[len(words)-1]
		apply(t,
			resource.TestStep{Config: config, ConfigPlanChecks: plans(address, plancheck.ResourceActionCreate)},
			resource.TestStep{ResourceName: address, ImportState: true, ImportStateVerify: true, ImportStateVerifyIgnore: []string{"timeouts"},
				ImportStateId: strings.Replace(id, "default/", ns+"/", 1)},
		)
	}
	dirs, err = filepath.Glob("../examples/data-sources/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no examples", err)
	}
	app := "resource \"clusterd_app\" \"web\" {\n  name  = \"web\"\n  image = \"nginx:1\"\n}\n"
	for _, dir := range dirs {
		apply(t, resource.TestStep{Config: c.config(ns, "%s", app)},
			resource.TestStep{Config: c.config(ns, "%s%s", app, read(t, filepath.Join(dir, "data-source.tf")))})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
