//go:build !race

package provider_test

import (
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// testDataLists: what the cluster says of everything that is not one app.
func testDataLists(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	const workload = `
resource "clusterd_app" "web" {
  name     = "web"
  image    = "nginx:1"
  replicas = 2
  ports    = { http = 80 }
  labels   = { team = "shop" }
  update   = { healthy_for = "0s" }
}
resource "clusterd_service" "web" {
  name  = "web"
  app   = clusterd_app.web.name
  ports = { http = { port = 8080 } }
}
`
	check := resource.TestCheckResourceAttr
	apply(t,
		resource.TestStep{Config: c.config(ns, "%s", workload)},
		resource.TestStep{Config: c.config(ns, "%s", workload+`
data "clusterd_apps" "shop" { labels = { team = "shop" } }
data "clusterd_apps" "none" { labels = { team = "nobody" } }
data "clusterd_pods" "web" { app = "web" }
data "clusterd_service" "web" { name = "web" }
data "clusterd_cluster" "this" {}
data "clusterd_events" "web" {
  kind = "app"
  name = "web"
}
data "clusterd_events" "quiet" {
  kind = "app"
  name = "nobody"
}
data "clusterd_logs" "web" {
  app  = "web"
  tail = 1
}
data "clusterd_placement" "all" {
  replicas  = 4
  placement = { one_per = "node" }
}
data "clusterd_placement" "nowhere" { cpu = "900" }
`), Check: resource.ComposeTestCheckFunc(
			check("data.clusterd_apps.shop", "apps.web.ready", "2"),
			check("data.clusterd_apps.shop", "apps.web.phase", "complete"),
			check("data.clusterd_apps.none", "apps.%", "0"),
			check("data.clusterd_pods.web", "pods.%", "2"),
			check("data.clusterd_service.web", "ports.http.port", "8080"),
			check("data.clusterd_service.web", "endpoints.%", "2"),
			resource.TestCheckResourceAttrPair("data.clusterd_service.web", "virtual_ip", "clusterd_service.web", "virtual_ip"),
			check("data.clusterd_cluster.this", "nodes", "3"),
			check("data.clusterd_cluster.this", "servers.s1.role", "leader"),
			resource.TestMatchResourceAttr("data.clusterd_cluster.this", "free.millicpu", regexp.MustCompile(`^[1-9]\d+$`)),
			check("data.clusterd_events.web", "events.01.reason", "rollout_started"),
			check("data.clusterd_events.quiet", "events.%", "0"),
			check("data.clusterd_logs.web", "pods.%", "2"),
			check("data.clusterd_placement.all", "fits", "3"),
			check("data.clusterd_placement.all", "nodes.w2.fits", "true"),
			check("data.clusterd_placement.nowhere", "fits", "0"),
			resource.TestMatchResourceAttr("data.clusterd_placement.nowhere", "nodes.w1.reason", regexp.MustCompile(`^needs 900 cpu and has `)),
			resource.TestMatchResourceAttr("data.clusterd_placement.nowhere", "message", regexp.MustCompile(`^no node fits: 3 need 900 cpu`)),
		)},
		resource.TestStep{Config: c.config(ns, `data "clusterd_events" "web" {
  kind = "nonsense"
  name = "web"
}`), ExpectError: regexp.MustCompile(`(?s)Bad kind.*Unknown kind`)},
		resource.TestStep{Config: c.config(ns, `data "clusterd_logs" "web" { app = "nobody" }`), ExpectError: regexp.MustCompile(`Cannot read app`)},
		resource.TestStep{Config: c.config(ns, `data "clusterd_placement" "x" { placement = { one_pair = "node" } }`), ExpectError: regexp.MustCompile(`There is no such attribute|no such\s+attribute`)},
		resource.TestStep{Config: c.config(ns, `data "clusterd_service" "web" { name = "nobody" }`), ExpectError: regexp.MustCompile(`Cannot read service`)},
	)
}

// testFunctions: they compute as the cluster does, and name what they cannot read.
func testFunctions(t *testing.T, c *cluster) {
	apply(t,
		resource.TestStep{Config: c.config("default", `
output "repository" { value = provider::clusterd::parse_image("localhost:5000/shop/api:2").repository }
output "tag" { value = provider::clusterd::parse_image("nginx").tag }
output "bytes" { value = tostring(provider::clusterd::bytes("1.5Gi")) }
output "millicpu" { value = tostring(provider::clusterd::millicpu("0.25")) }`), Check: resource.ComposeTestCheckFunc(
			resource.TestCheckOutput("repository", "shop/api"),
			resource.TestCheckOutput("tag", "latest"),
			resource.TestCheckOutput("bytes", "1610612736"),
			resource.TestCheckOutput("millicpu", "250"))},
		resource.TestStep{Config: c.config("default", `output "it" { value = provider::clusterd::bytes("lots") }`), ExpectError: regexp.MustCompile(`"lots"\s+is\s+not\s+an\s+amount`)},
	)
}
