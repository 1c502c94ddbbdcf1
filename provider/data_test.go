//go:build !race

package provider_test

import (
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// dataLists: what the cluster says of everything that is not one app.
func dataLists(*testing.T, *cluster, string) story {
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
	const data = workload + `
data "clusterd_apps" "of_shop" { labels = { team = "shop" } }
data "clusterd_apps" "none" { labels = { team = "nobody" } }
data "clusterd_pods" "of_web" { app = "web" }
data "clusterd_service" "of_web" { name = "web" }
data "clusterd_cluster" "all" {}
data "clusterd_events" "of_web" {
  kind = "app"
  name = "web"
}
data "clusterd_events" "quiet" {
  kind = "app"
  name = "nobody"
}
data "clusterd_logs" "of_web" {
  app  = "web"
  tail = 1
}
data "clusterd_placement" "all" {
  replicas  = 4
  placement = { one_per = "node" }
}
data "clusterd_placement" "nowhere" { cpu = "900" }
`
	return story{steps: []resource.TestStep{
		{Config: workload},
		{Config: data, Check: resource.ComposeTestCheckFunc(
			check("data.clusterd_apps.of_shop", "apps.web.ready", "2"),
			check("data.clusterd_apps.of_shop", "apps.web.phase", "complete"),
			check("data.clusterd_apps.none", "apps.%", "0"),
			check("data.clusterd_pods.of_web", "pods.%", "2"),
			check("data.clusterd_service.of_web", "ports.http.port", "8080"),
			check("data.clusterd_service.of_web", "endpoints.%", "2"),
			resource.TestCheckResourceAttrPair("data.clusterd_service.of_web", "virtual_ip", "clusterd_service.web", "virtual_ip"),
			check("data.clusterd_cluster.all", "nodes", "3"),
			check("data.clusterd_cluster.all", "servers.s1.role", "leader"),
			resource.TestMatchResourceAttr("data.clusterd_cluster.all", "free.millicpu", regexp.MustCompile(`^[1-9]\d+$`)),
			check("data.clusterd_events.of_web", "events.01.reason", "rollout_started"),
			check("data.clusterd_events.quiet", "events.%", "0"),
			check("data.clusterd_logs.of_web", "pods.%", "2"),
			check("data.clusterd_placement.all", "fits", "3"),
			check("data.clusterd_placement.all", "nodes.w2.fits", "true"),
			check("data.clusterd_placement.nowhere", "fits", "0"),
			resource.TestMatchResourceAttr("data.clusterd_placement.nowhere", "nodes.w1.reason", regexp.MustCompile(`^needs 900 cpu and has `)),
			resource.TestMatchResourceAttr("data.clusterd_placement.nowhere", "message", regexp.MustCompile(`^no node fits: 3 need 900 cpu`)),
		)},
		{Config: data + `data "clusterd_events" "no" {
  kind = "nonsense"
  name = "web"
}`, ExpectError: regexp.MustCompile(`(?s)Bad kind.*Unknown kind`)},
		{Config: data + `data "clusterd_logs" "no" { app = "nobody" }`, ExpectError: regexp.MustCompile(`Cannot read app`)},
		{Config: data + `data "clusterd_placement" "no" { placement = { one_pair = "node" } }`, ExpectError: regexp.MustCompile(`There is no such attribute|no such\s+attribute`)},
		{Config: data + `data "clusterd_service" "no" { name = "nobody" }`, ExpectError: regexp.MustCompile(`Cannot read service`)},
	}}
}

// functions compute as the cluster does, and name what they cannot read.
func functions(*testing.T, *cluster, string) story {
	return story{steps: []resource.TestStep{
		{Config: `
output "repository_of_image" { value = provider::clusterd::parse_image("localhost:5000/shop/api:2").repository }
output "tag_of_image" { value = provider::clusterd::parse_image("nginx").tag }
output "bytes_of_amount" { value = tostring(provider::clusterd::bytes("1.5Gi")) }
output "millicpu_of_amount" { value = tostring(provider::clusterd::millicpu("0.25")) }`, Check: resource.ComposeTestCheckFunc(
			resource.TestCheckOutput("repository_of_image", "shop/api"),
			resource.TestCheckOutput("tag_of_image", "latest"),
			resource.TestCheckOutput("bytes_of_amount", "1610612736"),
			resource.TestCheckOutput("millicpu_of_amount", "250"))},
		{Config: `output "it" { value = provider::clusterd::bytes("lots") }`, ExpectError: regexp.MustCompile(`"lots"\s+is\s+not\s+an\s+amount`)},
	}}
}
