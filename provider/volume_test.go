//go:build !race

package provider_test

import (
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// testVolume: a volume grows in place, does not shrink, comes to be with its
// first pod, and is not deleted while it is protected or used.
func testVolume(t *testing.T, c *cluster) {
	const data = "clusterd_volume.data"
	ns := c.namespace(t)
	config := func(volume, rest string) string {
		return c.config(ns, `
resource "clusterd_volume" "data" {
  name = "data"
  %s
}
%s`, volume, rest)
	}
	app := `
resource "clusterd_app" "db" {
  name   = "db"
  image  = "redis:7"
  mounts = { "/data" = { volume = clusterd_volume.data.name }, "/tmp" = { scratch = "8Mi" } }
  update = { healthy_for = "0s" }
}`
	volumes := client.Of(c.Client(), api.Volumes)
	home := ""
	apply(t,
		resource.TestStep{Config: config(`size = "64Mi"`, ""), ConfigPlanChecks: plans(data, plancheck.ResourceActionCreate),
			Check: resource.TestCheckNoResourceAttr(data, "deletion_protection")},
		resource.TestStep{Config: config(`size = "64Mi"`, app), ConfigPlanChecks: plans("clusterd_app.db", plancheck.ResourceActionCreate)},
		resource.TestStep{PreConfig: func() {
			v, err := volumes.Get(t.Context(), ns, "data")
			if err != nil || v.Status.Node == "" || v.Status.Phase != api.VolumeBound {
				t.Fatalf("%+v %v", v, err)
			}
			home = v.Status.Node
		}, Config: config(`size = "128Mi"`, app), ConfigPlanChecks: plans(data, plancheck.ResourceActionUpdate)},
		resource.TestStep{Config: config(`size = "32Mi"`, app), ExpectError: regexp.MustCompile(`(?is)is\s+128Mi\s+and\s+cannot\s+shrink\s+to\s+32Mi`)},
		resource.TestStep{Config: config("size = \"128Mi\"\n  node = \"w9\"", app), ExpectError: regexp.MustCompile(`(?is)the\s+data\s+is\s+on\s+node\s+w\d\s+for\s+good`)},
		resource.TestStep{Config: c.config(ns, ""), ExpectError: regexp.MustCompile(`(?is)is\s+protected\s+from\s+deletion:\s+set\s+deletion_protection\s+=\s+false`)},
		resource.TestStep{Config: config("size = \"128Mi\"\n  deletion_protection = false", app), ConfigPlanChecks: plans(data, plancheck.ResourceActionUpdate)},
		resource.TestStep{PreConfig: func() {
			if v, err := volumes.Get(t.Context(), ns, "data"); err != nil || v.Status.Node != home {
				t.Errorf("it moved from %s: %+v %v", home, v, err)
			}
			if err := volumes.Delete(t.Context(), ns, "data", ""); !api.Is(err, api.Conflict) {
				t.Errorf("deleted while it is used: %v", err)
			}
		}, Config: config("size = \"128Mi\"\n  deletion_protection = false", app)},
	)
	if _, err := volumes.Get(t.Context(), ns, "data"); !api.Is(err, api.NotFound) {
		t.Errorf("the volume is still there after destroy (%v)", err)
	}
}

// testPowers: what the namespace does not allow is an error at its attribute.
func testPowers(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	config := func(rest string) string {
		return c.config(ns, "resource \"clusterd_app\" \"web\" {\n  name = \"web\"\n  image = \"nginx:1\"\n  %s\n}", rest)
	}
	refused := func(rest, at string) resource.TestStep {
		return resource.TestStep{Config: config(rest), PlanOnly: true, ExpectError: regexp.MustCompile(`(?s)` + at + `.*[Nn]amespace\s+powers\s+does\s+not\s+allow\s+it`)}
	}
	apply(t,
		refused(`security = { privileged = true }`, "security"),
		refused(`security = { add = ["NET_ADMIN"] }`, "security"),
		refused(`host_network = true`, "host_network"),
		refused(`mounts = { "/logs" = { host = "/var/log" } }`, "mounts"),
		resource.TestStep{Config: config(`security = { drop = ["ALL"], add = ["CHOWN"], read_only_root = true, user = "10001" }`), ConfigPlanChecks: plans("clusterd_app.web", plancheck.ResourceActionCreate)},
	)
}
