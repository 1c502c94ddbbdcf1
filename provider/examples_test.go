package provider_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tfconfig "github.com/hashicorp/terraform-plugin-testing/config"
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
		if filepath.Base(dir) == "clusterd_node" {
			continue // it takes a node away: TestNode has a cluster of its own
		}
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
	app := "resource \"clusterd_app\" \"web\" {\n  name  = \"web\"\n  image = \"nginx:1\"\n}\n" +
		"resource \"clusterd_service\" \"web\" {\n  name  = \"web\"\n  app   = clusterd_app.web.name\n  ports = { http = { port = 80 } }\n}\n"
	data := app
	for _, dir := range dirs {
		data += read(t, filepath.Join(dir, "data-source.tf"))
	}
	dirs, err = filepath.Glob("../examples/functions/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no examples", err)
	}
	for _, dir := range dirs {
		data += read(t, filepath.Join(dir, "function.tf"))
	}
	apply(t, resource.TestStep{Config: c.config(ns, "%s", app)}, resource.TestStep{Config: c.config(ns, "%s", data)})
	t.Run("provider", func(t *testing.T) { testProviderExample(t, c) })
	t.Run("nginx", func(t *testing.T) { testNginxExample(t, c) })
}

// requirement is what a module has that is more than an excerpt. A provider
// that is tested in process has no source to find it by.
const requirement = `terraform {
  required_providers {
    clusterd = {
      source = "clusterd/clusterd"
    }
  }
}
`

// testProviderExample configures the provider as the registry's first page
// does, but for where this cluster is.
func testProviderExample(t *testing.T, c *cluster) {
	config := swap(t, read(t, "../examples/provider/provider.tf"), requirement, "",
		`"https://10.0.0.1:7443,https://10.0.0.2:7443"`, fmt.Sprintf("%q", c.URL()+","+c.URL()),
		`"ca.crt"`, fmt.Sprintf("%q", c.CAFile()))
	apply(t, resource.TestStep{
		Config:          config + "data \"clusterd_nodes\" \"all\" {}\n",
		ConfigVariables: tfconfig.Variables{"clusterd_token": tfconfig.StringVariable(c.Token())},
		Check:           resource.TestCheckResourceAttr("data.clusterd_nodes.all", "nodes.w1.health", "ready"),
	})
}

// testNginxExample applies the demo's module, and what its README says to try.
func testNginxExample(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	config := swap(t, read(t, "../examples/nginx/main.tf"), requirement, "", "provider \"clusterd\" {}\n", c.config(ns, "")) +
		read(t, "../examples/nginx/variables.tf") + read(t, "../examples/nginx/outputs.tf")
	step := func(name, value string, action plancheck.ResourceActionType) resource.TestStep {
		return resource.TestStep{Config: config, ConfigVariables: tfconfig.Variables{name: tfconfig.StringVariable(value)},
			ConfigPlanChecks: plans("clusterd_app.web", action)}
	}
	apply(t,
		step("node_port", "30080", plancheck.ResourceActionCreate),
		step("image", "nginx:2.0", plancheck.ResourceActionUpdate),
		step("replicas", "2", plancheck.ResourceActionUpdate))
}

// swap replaces what a text must have: pairs of old and new.
func swap(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the example has no %s", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
