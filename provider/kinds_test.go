//go:build !race

package provider_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// testService: every attribute, changed in place; the virtual IP stays.
func testService(t *testing.T, c *cluster) {
	const svc = "clusterd_service.web"
	ns := c.namespace(t)
	config := func(name, rest string) string {
		return c.config(ns, `
resource "clusterd_service" "web" {
  name = %q
  app  = "web"
  %s
}`, name, rest)
	}
	step := func(name, rest string, action plancheck.ResourceActionType, checks ...resource.TestCheckFunc) resource.TestStep {
		return resource.TestStep{Config: config(name, rest), ConfigPlanChecks: plans(svc, action), Check: resource.ComposeTestCheckFunc(checks...)}
	}
	var ip string
	sameIP := resource.TestCheckResourceAttrWith(svc, "virtual_ip", func(v string) error {
		if ip == "" {
			ip = v
		}
		if v != ip || !strings.HasPrefix(v, "10.96.") {
			return fmt.Errorf("virtual_ip is %q, was %q", v, ip)
		}
		return nil
	})
	apply(t,
		step("web", `ports = { http = { port = 80 } }`, plancheck.ResourceActionCreate, sameIP,
			resource.TestCheckResourceAttr(svc, "id", ns+"/web"),
			resource.TestCheckResourceAttr(svc, "dns_name", "web."+ns+".svc.cluster.local"),
			resource.TestCheckNoResourceAttr(svc, "ip")),
		step("web", `ports = { http = { port = 80, node_port = 31701 } }`, plancheck.ResourceActionUpdate, sameIP),
		step("web", `ports = { http = { port = 80, target = 8080, protocol = "tcp" }, dns = { port = 53, protocol = "udp" } }`, plancheck.ResourceActionUpdate, sameIP),
		step("web", `ports = { http = { port = 80 } }
  affinity = "client_ip"
  labels = { a = "b" }`, plancheck.ResourceActionUpdate, sameIP),
		step("api", `ports = { http = { port = 80 } }
  ip = "10.96.77.7"`, plancheck.ResourceActionReplace, resource.TestCheckResourceAttr(svc, "virtual_ip", "10.96.77.7")),
		resource.TestStep{Config: config("api", `ports = { http = { port = 80, node_port = 80 } }`),
			ExpectError: regexp.MustCompile(`(?s)Bad ports.http.node_port.*80 is out of range: want 30000 to 32767`)},
		resource.TestStep{Config: config("api", `ports = {}`), ExpectError: regexp.MustCompile(`At least one port is required`)},
		resource.TestStep{Config: config("api", `ports = { http = { port = 80 } }`)},
	)
	if _, err := client.Of(c.Client(), api.Services).Get(t.Context(), ns, "api"); !api.Is(err, api.NotFound) {
		t.Errorf("the service is still there after destroy (%v)", err)
	}
}

// testNamespace: the deletion of a namespace waits for what is in it.
func testNamespace(t *testing.T, c *cluster) {
	const bazaar = "clusterd_namespace.bazaar"
	config := func(description string) string {
		return c.config("default", `
resource "clusterd_namespace" "bazaar" {
  name        = "bazaar"
  description = %q
}
resource "clusterd_app" "web" {
  name      = "web"
  namespace = clusterd_namespace.bazaar.name
  image     = "nginx:1"
  update    = { healthy_for = "0s" }
}`, description)
	}
	namespaces := client.Of(c.Client(), api.Namespaces)
	apply(t,
		resource.TestStep{Config: config("one"), ConfigPlanChecks: plans(bazaar, plancheck.ResourceActionCreate)},
		resource.TestStep{Config: config("two"), ConfigPlanChecks: plans(bazaar, plancheck.ResourceActionUpdate)},
		resource.TestStep{PreConfig: func() {
			_, err := client.Of(c.Client(), api.Services).Create(t.Context(), &api.Service{Meta: api.Meta{Namespace: "bazaar", Name: "theirs"},
				Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80}}}})
			if err != nil {
				t.Fatal(err)
			}
		}, Config: config("two")},
	)
	if _, err := namespaces.Get(t.Context(), "", "bazaar"); !api.Is(err, api.NotFound) {
		t.Errorf("the namespace is still there after destroy (%v)", err)
	}
	if left, _, err := client.Of(c.Client(), api.Services).List(t.Context(), "bazaar", nil); len(left) > 0 {
		t.Errorf("%d services outlived their namespace (%v)", len(left), err)
	}
}

// testNoNamespace: one that does not exist is an error at the attribute.
func testNoNamespace(t *testing.T, c *cluster) {
	app := `
resource "clusterd_app" "web" {
  name      = "web"
  namespace = "nowhere"
  image     = "nginx:1"
}`
	apply(t,
		resource.TestStep{Config: c.config("default", "%s", app), PlanOnly: true, ExpectNonEmptyPlan: true},
		resource.TestStep{Config: c.config("default", "%s", app), ExpectError: regexp.MustCompile(`(?s)Cannot create app nowhere/web.*namespace\s+= "nowhere".*does\s+not\s+exist`)},
	)
}

// testAppBadConfig: every mistake at its attribute, at plan, and nothing is created.
func testAppBadConfig(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	mistakes := []struct{ name, hcl, want string }{
		{"web", `cpu = "abc"`, `Bad cpu.*cpu = "abc".*"abc" is not an amount of cpu`},
		{"web", `ports = { http = 70000 }`, `Bad ports.http.*70000.*out of range`},
		{"web", `replicas = -1`, `Bad replicas.*replicas = -1.*out of range`},
		{"Web!", ``, `Bad name.*name = "Web!".*is not a name`},
		{"web", `health = { http = "/", intervall = "5s" }`, `Bad health.intervall.*health = .*no such attribute`},
		{"web", `update = { max_parallels = 2 }`, `Bad update.max_parallels.*update = .*no such attribute`},
		{"web", `sidecars = { log = { image = "v", memry = "1Gi" } }`, `Bad sidecars.log.memry.*sidecars = .*no such attribute`},
		{"web", `sidecars = { log = { cpu = "1x", image = "v" } }`, `Bad sidecars.log.cpu.*"1x"`},
		{"web", `sidecars = { log = {} }`, `Missing sidecars.log.image`},
		{"web", `health = { http = "/", port = "nope" }`, `Bad health.port.*no port "nope"`},
		{"web", `timeouts = { create = "soon" }`, `Bad timeouts.create.*not a duration`},
		{"web", `on_create_failure = "shrug"`, `Bad on_create_failure.*want keep or delete`},
		{"web", `imagee = "x"`, `Unsupported argument`},
		{"web", `stop = "now"`, `Bad stop.*want an object`},
	}
	var config strings.Builder
	var want []string
	for i, m := range mistakes {
		fmt.Fprintf(&config, "resource \"clusterd_app\" \"m%d\" {\n  name = %q\n  image = \"nginx:1\"\n  %s\n}\n", i, m.name, m.hcl)
		want = append(want, m.want)
	}
	refused(t, c.config(ns, "%s", config.String()), want...)
	if apps, _, err := client.Of(c.Client(), api.Apps).List(t.Context(), ns, nil); err != nil || len(apps) > 0 {
		t.Errorf("%d apps were created from bad configurations (%v)", len(apps), err)
	}
}

// testUnknown: values that only apply knows, also of the provider itself: a
// cluster that the same configuration makes.
func testUnknown(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	config := fmt.Sprintf(`
resource "terraform_data" "cluster" {
  input = { address = %q, token = %q, ca = %q, image = "nginx:1", port = 80, health = "/" }
}
locals { o = terraform_data.cluster.output }
provider "clusterd" {
  address   = local.o.address
  token     = local.o.token
  ca_file   = local.o.ca
  namespace = %q
}
resource "clusterd_app" "web" {
  name   = "web"
  image  = local.o.image
  ports  = { http = local.o.port }
  health = { http = local.o.health, port = "http" }
  update = { healthy_for = "0s" }
}
resource "clusterd_service" "web" {
  name  = "web"
  app   = clusterd_app.web.name
  ports = { http = { port = local.o.port } }
}`, c.URL(), c.Token(), c.CAFile(), ns)
	apply(t,
		resource.TestStep{Config: config, ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate)},
		resource.TestStep{Config: strings.Replace(config, "nginx:1", "Bad Image", 1), ExpectError: regexp.MustCompile(`(?s)Bad image.*not an image reference`)},
	)
}

// testPrefetch: a refresh of many objects of a kind is right, and finds those
// that are gone.
func testPrefetch(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	config := c.config(ns, `
resource "clusterd_service" "many" {
  count = 12
  name  = "svc-${count.index}"
  app   = "web"
  ports = { http = { port = 80 } }
}`)
	services := client.Of(c.Client(), api.Services)
	apply(t,
		resource.TestStep{Config: config},
		resource.TestStep{PreConfig: func() {
			for _, name := range []string{"svc-3", "svc-9"} {
				if err := services.Delete(t.Context(), ns, name, ""); err != nil {
					t.Fatal(err)
				}
			}
		}, Config: config, ConfigPlanChecks: resource.ConfigPlanChecks{
			PreApply: []plancheck.PlanCheck{
				plancheck.ExpectResourceAction("clusterd_service.many[3]", plancheck.ResourceActionCreate),
				plancheck.ExpectResourceAction("clusterd_service.many[9]", plancheck.ResourceActionCreate),
				plancheck.ExpectResourceAction("clusterd_service.many[11]", plancheck.ResourceActionNoop),
			},
			PostApplyPostRefresh: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()},
		}},
	)
}

// testData: live status is in data sources.
func testData(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	apply(t,
		resource.TestStep{Config: c.config(ns, `
resource "clusterd_app" "web" {
  name     = "web"
  image    = "nginx:1"
  replicas = 2
  update   = { healthy_for = "0s" }
}
data "clusterd_app" "web" { name = clusterd_app.web.id == "" ? "" : clusterd_app.web.name }
data "clusterd_nodes" "all" {}
data "clusterd_nodes" "none" { labels = { disk = "tape" } }
output "busy" { value = length(setintersection(data.clusterd_app.web.nodes, keys(data.clusterd_nodes.all.nodes))) > 0 }
`), Check: resource.ComposeTestCheckFunc(
			resource.TestCheckResourceAttr("data.clusterd_app.web", "namespace", ns),
			resource.TestCheckResourceAttr("data.clusterd_app.web", "ready", "2"),
			resource.TestCheckResourceAttr("data.clusterd_app.web", "replicas", "2"),
			resource.TestCheckResourceAttr("data.clusterd_app.web", "rollout.phase", "complete"),
			resource.TestCheckResourceAttr("data.clusterd_app.web", "pods.%", "2"),
			resource.TestCheckResourceAttr("data.clusterd_nodes.all", "nodes.w1.health", "ready"),
			resource.TestCheckResourceAttr("data.clusterd_nodes.none", "nodes.%", "0"),
			resource.TestCheckOutput("busy", "true"),
		)},
		resource.TestStep{Config: c.config(ns, `data "clusterd_app" "no" { name = "nobody" }`), ExpectError: regexp.MustCompile(`(?s)Cannot read app data/nobody.*not found`)},
	)
}
