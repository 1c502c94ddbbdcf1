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

// serviceLife: every attribute, changed in place; the virtual IP stays.
func serviceLife(t *testing.T, c *cluster, ns string) story {
	const svc = "clusterd_service.web"
	step := func(name, rest string, action plancheck.ResourceActionType, checks ...resource.TestCheckFunc) resource.TestStep {
		return resource.TestStep{Config: fmt.Sprintf(`
resource "clusterd_service" "web" {
  name = %q
  app  = "web"
  %s
}`, name, rest), ConfigPlanChecks: plans(svc, action), Check: resource.ComposeTestCheckFunc(checks...)}
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
	return story{[]resource.TestStep{
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
		step("api", `ports = { http = { port = 80 } }`, plancheck.ResourceActionUpdate),
	}, func() {
		if _, err := client.Of(c.Client(), api.Services).Get(t.Context(), ns, "api"); !api.Is(err, api.NotFound) {
			t.Errorf("the service is still there after destroy (%v)", err)
		}
	}}
}

// namespaceLife: the deletion of a namespace waits for what is in it.
func namespaceLife(t *testing.T, c *cluster, _ string) story {
	const bazaar = "clusterd_namespace.bazaar"
	config := func(description string) string {
		return fmt.Sprintf(`
resource "clusterd_namespace" "bazaar" {
  name        = "bazaar"
  description = %q
}
resource "clusterd_app" "bazaar" {
  name      = "web"
  namespace = clusterd_namespace.bazaar.name
  image     = "nginx:1"
  update    = { healthy_for = "0s" }
}`, description)
	}
	return story{[]resource.TestStep{
		{Config: config("one"), ConfigPlanChecks: plans(bazaar, plancheck.ResourceActionCreate)},
		{Config: config("two"), ConfigPlanChecks: plans(bazaar, plancheck.ResourceActionUpdate)},
		{PreConfig: func() {
			_, err := client.Of(c.Client(), api.Services).Create(t.Context(), &api.Service{Meta: api.Meta{Namespace: "bazaar", Name: "theirs"},
				Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80}}}})
			if err != nil {
				t.Fatal(err)
			}
		}, Config: config("two")},
	}, func() {
		if _, err := client.Of(c.Client(), api.Namespaces).Get(t.Context(), "", "bazaar"); !api.Is(err, api.NotFound) {
			t.Errorf("the namespace is still there after destroy (%v)", err)
		}
		if left, _, err := client.Of(c.Client(), api.Services).List(t.Context(), "bazaar", nil); len(left) > 0 {
			t.Errorf("%d services outlived their namespace (%v)", len(left), err)
		}
	}}
}

// testNoNamespace: one that does not exist is an error at the attribute.
func testNoNamespace(t *testing.T, c *cluster) {
	apply(t, resource.TestStep{
		Config: c.config("default", `
resource "clusterd_app" "web" {
  name      = "web"
  namespace = "nowhere"
  image     = "nginx:1"
}`),
		ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate), // a plan says no more than a warning
		ExpectError:      regexp.MustCompile(`(?s)Error running apply.*Cannot create app nowhere/web.*namespace\s+= "nowhere".*does\s+not\s+exist`),
	})
}

// testBadConfig: every mistake at its attribute, at plan, and nothing is created.
func testBadConfig(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	const nginx = "image = \"nginx:1\"\n  "
	secret := fmt.Sprintf("secret_wo = %q\n  ", strings.Repeat("0a1B2c3D4e", 4)+"x1")
	mistakes := []struct{ kind, name, hcl, want string }{
		{"app", "web", nginx + `cpu = "abc"`, `Bad cpu.*cpu = "abc".*"abc" is not an amount of cpu`},
		{"app", "web", nginx + `ports = { http = 70000 }`, `Bad ports.http.*70000.*out of range`},
		{"app", "web", nginx + `replicas = -1`, `Bad replicas.*replicas = -1.*out of range`},
		{"app", "Web!", nginx, `Bad name.*name = "Web!".*is not a name`},
		{"app", "web", nginx + `health = { http = "/", intervall = "5s" }`, `Bad health.intervall.*health = .*no such attribute`},
		{"app", "web", nginx + `update = { max_parallels = 2 }`, `Bad update.max_parallels.*update = .*no such attribute`},
		{"app", "web", nginx + `sidecars = { log = { image = "v", memry = "1Gi" } }`, `Bad sidecars.log.memry.*sidecars = .*no such attribute`},
		{"app", "web", nginx + `sidecars = { log = { cpu = "1x", image = "v" } }`, `Bad sidecars.log.cpu.*"1x"`},
		{"app", "web", nginx + `sidecars = { log = {} }`, `Missing sidecars.log.image`},
		{"app", "web", nginx + `health = { http = "/", port = "nope" }`, `Bad health.port.*no port "nope"`},
		{"app", "web", nginx + `timeouts = { create = "soon" }`, `Bad timeouts.create.*not a duration`},
		{"app", "web", nginx + `on_create_failure = "shrug"`, `Bad on_create_failure.*want keep or delete`},
		{"app", "web", nginx + `imagee = "x"`, `Unsupported argument`},
		{"app", "web", nginx + `stop = "now"`, `Bad stop.*want an object`},
		{"job", "mend", nginx + `schedule = "@daily"`, `Bad schedule.*1\s+fields`},
		{"job", "mend", nginx + "schedule = \"0 0 * * *\"\n  time_zone = \"Mars/Olympus\"", `Bad time_zone.*not\s+a\s+time\s+zone`},
		{"service", "web", `app = "web"` + "\n  " + `ports = { http = { port = 80, node_port = 80 } }`, `Bad ports.http.node_port.*80 is out of range: want 30000 to 32767`},
		{"service", "web", `app = "web"` + "\n  " + `ports = {}`, `At least one port is required`},
		{"config", "web", `data = { "a b" = "" }`, `Bad data\["a b"\].*not a key`},
		{"secret", "db", `generate = { password = { length = 4 } }`, `Bad generate.password.length.*4 is out of range`},
		{"token", "short", `role = "admin"` + "\n  " + `secret_wo = "hunter2"`, `Bad secret_wo.*40 to 128 letters`},
		{"token", "machine", secret + `role = "node"`, `Bad role.*ephemeral clusterd_join_token`},
		{"token", "when", secret + "role = \"admin\"\n  expires_at = \"soon\"", `Bad expires_at.*not a time`},
	}
	var config strings.Builder
	want := map[string]string{}
	for i, m := range mistakes {
		fmt.Fprintf(&config, "resource \"clusterd_%s\" \"m%d\" {\n  name = %q\n  %s\n}\n", m.kind, i, m.name, m.hcl)
		want[fmt.Sprintf("clusterd_%s.m%d", m.kind, i)] = m.want
	}
	refused(t, c.config(ns, "%s", config.String()), want)
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

// prefetch: a refresh of many objects of a kind is right, and finds those
// that are gone.
func prefetch(t *testing.T, c *cluster, ns string) story {
	const config = `
resource "clusterd_service" "many" {
  count = 12
  name  = "svc-${count.index}"
  app   = "web"
  ports = { http = { port = 80 } }
}`
	services := client.Of(c.Client(), api.Services)
	return story{steps: []resource.TestStep{
		{Config: config},
		{PreConfig: func() {
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
		}},
	}}
}

// dataApp: live status is in data sources.
func dataApp(_ *testing.T, _ *cluster, ns string) story {
	const config = `
resource "clusterd_app" "live" {
  name     = "live"
  image    = "nginx:1"
  replicas = 2
  update   = { healthy_for = "0s" }
}
data "clusterd_app" "live" { name = clusterd_app.live.id == "" ? "" : clusterd_app.live.name }
data "clusterd_nodes" "all" {}
data "clusterd_nodes" "none" { labels = { disk = "tape" } }
output "busy" { value = length(setintersection(data.clusterd_app.live.nodes, keys(data.clusterd_nodes.all.nodes))) > 0 }
`
	return story{steps: []resource.TestStep{
		{Config: config, Check: resource.ComposeTestCheckFunc(
			resource.TestCheckResourceAttr("data.clusterd_app.live", "namespace", ns),
			resource.TestCheckResourceAttr("data.clusterd_app.live", "ready", "2"),
			resource.TestCheckResourceAttr("data.clusterd_app.live", "replicas", "2"),
			resource.TestCheckResourceAttr("data.clusterd_app.live", "rollout.phase", "complete"),
			resource.TestCheckResourceAttr("data.clusterd_app.live", "pods.%", "2"),
			resource.TestCheckResourceAttr("data.clusterd_nodes.all", "nodes.w1.health", "ready"),
			resource.TestCheckResourceAttr("data.clusterd_nodes.none", "nodes.%", "0"),
			resource.TestCheckOutput("busy", "true"),
		)},
		{Config: config + `data "clusterd_app" "no" { name = "nobody" }`, ExpectError: regexp.MustCompile(`(?s)Cannot read app ` + ns + `/nobody.*not found`)},
	}}
}
