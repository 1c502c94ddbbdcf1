//go:build !race

package provider_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	tfconfig "github.com/hashicorp/terraform-plugin-testing/config"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/guidetest"
)

// testExamples applies what the registry's pages show, with the program that is
// shipped: it works as written, a second plan is empty, and what import.sh
// imports is what was made. Each is a module, in a namespace that those share who
// have other names in it: for each alias of the provider Terraform starts one of
// its own, every time. That of namespaces makes one that another makes, so it has
// its turn alone.
func testExamples(t *testing.T, c *cluster) {
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
	w := newWorkspace(t, c.provider(), c.Env())
	named, taken := regexp.MustCompile(`(?m)^resource "(\w+)" "\w+" \{\n  name +=( ".*")$`), map[string]bool{}
	var all, alone []example
	for _, dir := range dirs {
		e := example{filepath.Base(dir), ""}
		names := named.FindAllStringSubmatch(read(t, filepath.Join(dir, "resource.tf")), -1)
		for i := 0; e.namespace == "" || slices.ContainsFunc(names, func(n []string) bool { return taken[e.namespace+n[1]+n[2]] }); i++ {
			e.namespace = fmt.Sprintf("examples-%d", i)
		}
		switch e.kind {
		case "clusterd_node": // it takes a node away: TestNode has a cluster of its own
			continue
		case "clusterd_namespace":
			alone = append(alone, e)
		default:
			all = append(all, e)
		}
		for _, n := range names {
			taken[e.namespace+n[1]+n[2]] = true
		}
		w.example(dir)
		if _, err := client.Of(c.Client(), api.Namespaces).Put(t.Context(), &api.Namespace{Meta: api.Meta{Name: e.namespace}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, examples := range [][]example{all, alone} {
		w.write("main.tf", main(examples))
		w.must(0, "get")
		w.must(0, "apply", "-auto-approve")
		w.must(0, "plan", "-detailed-exitcode")
		for _, e := range examples {
			words := strings.Fields(read(t, filepath.Join("../examples/resources", e.kind, "import.sh")))
			id := strings.Replace(words[len(words)-1], "default/", e.namespace+"/", 1)
			importable(t, c, e.kind, id)
		}
		w.must(0, "destroy", "-auto-approve")
	}
}

// readingExamples are those of what only reads. They find the app and the service
// of dataLists.
func readingExamples(t *testing.T, _ *cluster, _ string) story {
	dirs, err := filepath.Glob("../examples/data-sources/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no examples", err)
	}
	var data string
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
	return story{steps: []resource.TestStep{{}, {Config: data}}}
}

// example is that of a kind, and where its objects are.
type example struct{ kind, namespace string }

// example takes an example into the workspace, as a module.
func (w *workspace) example(dir string) {
	w.t.Helper()
	kind := filepath.Base(dir)
	if err := os.CopyFS(filepath.Join(w.dir, kind), os.DirFS(dir)); err != nil {
		w.t.Fatal(err)
	}
	w.write(filepath.Join(kind, "versions.tf"), requirement)
}

// main is a configuration of examples.
func main(examples []example) string {
	var b strings.Builder
	var aliases []string
	for _, e := range examples {
		if !slices.Contains(aliases, e.namespace) {
			aliases = append(aliases, e.namespace)
			fmt.Fprintf(&b, "provider \"clusterd\" {\n  alias     = %[1]q\n  namespace = %[1]q\n}\n", e.namespace)
		}
		fmt.Fprintf(&b, "module %[1]q {\n  source    = \"./%[1]s\"\n  providers = { clusterd = clusterd.%[2]s }\n}\n", e.kind, e.namespace)
	}
	return b.String()
}

// importable expects that there is an object to import by an id.
func importable(t *testing.T, c *cluster, kind, id string) {
	t.Helper()
	p, _ := newPlugin(t, c.settings())
	resp, err := p.server.ImportResourceState(t.Context(), &tfprotov6.ImportResourceStateRequest{TypeName: kind, ID: id})
	if err != nil || len(resp.Diagnostics) > 0 || len(resp.ImportedResources) != 1 {
		t.Fatalf("import of %s %s says %s (%v)", kind, id, say(resp.Diagnostics), err)
	}
	there, err := p.server.ReadResource(t.Context(), &tfprotov6.ReadResourceRequest{TypeName: kind, CurrentState: resp.ImportedResources[0].State})
	if err != nil || len(there.Diagnostics) > 0 {
		t.Fatalf("what is imported of %s %s: %s (%v)", kind, id, say(there.Diagnostics), err)
	}
	if state, err := there.NewState.Unmarshal(p.resource(kind).ValueType()); err != nil || state.IsNull() {
		t.Errorf("%s %s is imported, and not there (%v)", kind, id, err)
	}
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
// does, but for where this cluster is, and applies the operator's first app.
func testProviderExample(t *testing.T, c *cluster) {
	config := swap(t, read(t, "../examples/provider/provider.tf"), requirement, "",
		`"https://10.0.0.1:7443,https://10.0.0.2:7443"`, fmt.Sprintf("%q", c.URL()+","+c.URL()),
		`"ca.crt"`, fmt.Sprintf("%q", c.CAFile()))
	guide := guidetest.Blocks(t, "../docs/guides/operations.md")
	first := slices.IndexFunc(guide, func(b guidetest.Block) bool { return strings.HasPrefix(b.Text, "# main.tf\n") })
	if first < 0 {
		t.Fatal("the operator's guide has no first app")
	}
	hello := swap(t, guide[first].Text, requirement, "", "provider \"clusterd\" {}\n", "")
	apply(t, resource.TestStep{
		Config:          config + hello + "data \"clusterd_nodes\" \"all\" {}\n",
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
		// Others have the port that the module has unless it is told.
		variables := tfconfig.Variables{"node_port": tfconfig.StringVariable("31702")}
		variables[name] = tfconfig.StringVariable(value)
		return resource.TestStep{Config: config, ConfigVariables: variables,
			ConfigPlanChecks: plans("clusterd_app.web", action)}
	}
	apply(t,
		step("node_port", "31702", plancheck.ResourceActionCreate),
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
