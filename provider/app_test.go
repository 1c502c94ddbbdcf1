//go:build !race

package provider_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

const web = "clusterd_app.web"

// testAppLife: create, empty plan, import, change in place, replace, destroy.
func testAppLife(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	app := func(name, rest string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name   = %q
  image  = "nginx:1.27"
  update = { healthy_for = "0s" }
  %s
}`, name, rest)
	}
	step := func(name, rest string, action plancheck.ResourceActionType, checks ...resource.TestCheckFunc) resource.TestStep {
		return resource.TestStep{Config: app(name, rest), ConfigPlanChecks: plans(web, action), Check: resource.ComposeTestCheckFunc(checks...)}
	}
	apply(t,
		step("web", "", plancheck.ResourceActionCreate,
			resource.TestCheckResourceAttr(web, "id", ns+"/web"),
			resource.TestCheckResourceAttr(web, "namespace", ns),
			resource.TestCheckNoResourceAttr(web, "replicas"),
			resource.TestCheckNoResourceAttr(web, "cpu")),
		resource.TestStep{ResourceName: web, ImportState: true, ImportStateVerify: true},
		resource.TestStep{ResourceName: web, ImportState: true, ImportStateId: "web", ImportStateVerify: true},
		resource.TestStep{ResourceName: web, ImportState: true, ImportStateId: "no such thing", ExpectError: regexp.MustCompile("Bad import id")},
		resource.TestStep{ResourceName: web, ImportState: true, ImportStateId: ns + "/nobody", ExpectError: regexp.MustCompile("non-existent")},
		step("web", `replicas = 3`, plancheck.ResourceActionUpdate,
			func(*terraform.State) error {
				if a := c.app(t, ns, "web"); a.Status.Ready != 3 {
					t.Errorf("apply returned with %d of 3 pods ready", a.Status.Ready)
				}
				return nil
			}),
		step("web", `wait = false`, plancheck.ResourceActionUpdate),
		step("web2", ``, plancheck.ResourceActionReplace,
			func(*terraform.State) error { c.gone(t, ns, "web"); return nil }),
		resource.TestStep{Config: c.config(ns, `
resource "clusterd_app" "web" {
  name      = "web2"
  namespace = "default"
  image     = "nginx:1.27"
}`), ConfigPlanChecks: plans(web, plancheck.ResourceActionReplace)},
	)
	c.gone(t, ns, "web2")
	c.gone(t, "default", "web2")
}

const everything = `
resource "clusterd_app" "web" {
  name      = "all"
  image     = %q
  command   = ["/bin/web"]
  args      = ["-p", "80"]
  env       = { LEVEL = "info", PORT = 8080 }
  cpu       = "0.1"
  memory    = "64Mi"
  ports     = { http = 80, dns = "53/udp" }
  replicas  = 2
  health    = { http = "/", port = "http", interval = "2s", timeout = "1s", grace_period = "5s", threshold = 2 }
  sidecars  = { log = { image = "vector:1", command = ["v"], args = [], env = { A = 1 }, cpu = "50m", memory = "32Mi", ports = { metrics = 9100 } } }
  placement = { require = {}, spread = "zone" }
  update    = { max_parallel = 2, surge = 1, min_available = 1, healthy_for = "0s", deadline = "1m", on_failure = "rollback" }
  stop      = { signal = "SIGQUIT", grace_period = "1s" }
  labels    = { team = "shop" }
  adopt     = false
  wait      = true
  timeouts  = { create = "2m", update = "2m", delete = "1m" }
  on_create_failure = "keep"
}`

// testAppEverything: every attribute there is, with no perpetual diff.
func testAppEverything(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	apply(t,
		resource.TestStep{Config: c.config(ns, everything, "nginx:1"), ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate)},
		resource.TestStep{ResourceName: web, ImportState: true},
		resource.TestStep{Config: c.config(ns, everything, "nginx:2"), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
	)
	c.gone(t, ns, "all")
}

// testEmpties: what JSON leaves out and Terraform does not.
func testEmpties(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	empties := func(rest string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name      = "empty"
  image     = "nginx:1"
  args      = []
  env       = {}
  ports     = { http = 80 }
  health    = { http = "", tcp = true, port = null, interval = "" }
  sidecars  = {}
  placement = {}
  update    = { healthy_for = "0s" }
  stop      = { signal = "" }
  labels    = {}
  scale     = var.scale
  %s
}
variable "scale" {
  type    = object({ max = number })
  default = null
}`, rest)
	}
	same := resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()}}
	apply(t,
		resource.TestStep{Config: empties(`cpu = "500m"`), ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate)},
		// the same amount in other words is no change
		resource.TestStep{Config: empties(`cpu = "0.5"`), ConfigPlanChecks: same},
		resource.TestStep{Config: empties(`cpu = 0.75`), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
	)
}

// testAppFailures: a failed update is rolled back, says why, and shows the same
// diff again.
func testAppFailures(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	app := func(image, update string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name     = "web"
  image    = %q
  replicas = 2
  update   = { healthy_for = "0s"%s }
}`, image, update)
	}
	again := resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction(web, plancheck.ResourceActionUpdate)}}
	serves := func(image string) {
		t.Helper()
		a := c.app(t, ns, "web")
		if a.Spec.Image != image || a.Status.Ready < 1 {
			t.Errorf("after a failed update the app has image %s and %d pods ready: want %s to serve", a.Spec.Image, a.Status.Ready, image)
		}
	}
	apply(t,
		resource.TestStep{Config: app("nginx:1", "")},
		resource.TestStep{Config: app("exit-1:1", ""), ConfigPlanChecks: again,
			ExpectError: regexp.MustCompile(`(?s)rollout of exit-1:1 failed and (was|is\s+being)\s+rolled\s+back to\s+nginx:1.*[Pp]od web-.*on node\s+w\d.*exit code\s+1.*about to\s+exit with 1.*clusterd\s+describe`)},
		resource.TestStep{PreConfig: func() { serves("nginx:1") }, Config: app("missing:1", ""), ConfigPlanChecks: again,
			ExpectError: regexp.MustCompile(`(?s)missing:1.*cannot\s+be\s+fetched`)},
		resource.TestStep{PreConfig: func() { serves("nginx:1") }, Config: app("nginx:1", ""), ConfigPlanChecks: resource.ConfigPlanChecks{
			PreApply: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()}}},
		resource.TestStep{Config: app("nginx:2", ""), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
		// paused: what was asked for is there, and broken
		resource.TestStep{Config: app("exit-2:1", `, on_failure = "pause"`), ExpectError: regexp.MustCompile(`(?s)exit-2:1\s+failed\s+and\s+is\s+paused`)},
		resource.TestStep{Config: app("nginx:3", ""), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
	)
}

// testAppCanary: apply succeeds once a canary holds, and says who decides; how
// many pods there are may follow the load or the nodes instead of a number.
func testAppCanary(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	app := func(image, rest string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name   = "web"
  image  = %q
  %s
}`, image, rest)
	}
	const canary = `update = { healthy_for = "0s", canary = 1 }
  `
	pods := func(desired int, held bool) resource.TestCheckFunc {
		return func(*terraform.State) error {
			a := c.app(t, ns, "web")
			if a.Status.Desired != desired || a.Status.Rollout.HeldSince.IsZero() == held {
				t.Errorf("%d pods are desired, rollout %+v", a.Status.Desired, a.Status.Rollout)
			}
			return nil
		}
	}
	promote := func() {
		a := c.app(t, ns, "web")
		a.Status.Intent.Promote = a.Status.Rollout.Number
		if _, err := client.Of(c.Client(), api.Apps).PutPart(t.Context(), a, "intent"); err != nil {
			t.Error(err)
		}
	}
	apply(t,
		resource.TestStep{Config: app("nginx:1", canary+"replicas = 2"), Check: pods(2, false)},
		resource.TestStep{Config: app("nginx:2", canary+"replicas = 2"), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate),
			Check: resource.ComposeTestCheckFunc(pods(2, true), resource.TestCheckResourceAttr(web, "image", "nginx:2"))},
		resource.TestStep{PreConfig: promote, Config: app("nginx:2", canary+"scale = { min = 2, max = 4, cpu = 70 }"),
			ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
		resource.TestStep{Config: app("nginx:2", "per_node = true"), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
	)
	// A change of what the app uses holds, too, and the apply of that ends.
	using := func(level string) string {
		return app("nginx:1", canary+"replicas = 2\n  configs = { LEVEL = \"${clusterd_config.web.name}/level\" }") +
			fmt.Sprintf("\nresource \"clusterd_config\" \"web\" {\n  name = \"web\"\n  data = { level = %q }\n}", level)
	}
	apply(t,
		resource.TestStep{Config: using("info"), Check: pods(2, false)},
		resource.TestStep{Config: using("debug"), ConfigPlanChecks: plans("clusterd_config.web", plancheck.ResourceActionUpdate), Check: pods(2, true)},
	)
}

// testAppCreateFails: the object of a failed create stays for its logs, and the
// next plan replaces it; or goes at once.
func testAppCreateFails(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	app := func(image, rest string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name   = "web"
  image  = %q
  update = { healthy_for = "0s" }
  %s
}`, image, rest)
	}
	failed := regexp.MustCompile(`(?s)rollout of exit-1:1 failed.*about to exit with 1.*the\s+next\s+plan\s+replaces\s+it`)
	var uid string
	apply(t,
		resource.TestStep{Config: app("exit-1:1", ""), ExpectError: failed},
		resource.TestStep{PreConfig: func() { uid = c.app(t, ns, "web").Meta.UID }, Config: app("nginx:1", ""), ConfigPlanChecks: plans(web, plancheck.ResourceActionReplace),
			Check: func(*terraform.State) error {
				if a := c.app(t, ns, "web"); a.Meta.UID == uid {
					t.Error("the failed app was not replaced")
				}
				return nil
			}},
	)
	apply(t, resource.TestStep{Config: app("exit-1:1", `on_create_failure = "delete"`), ExpectError: regexp.MustCompile("rollout of exit-1:1 failed")})
	c.gone(t, ns, "web")
}

// testAppDrift: what others declare shows, and what changes by itself does not.
func testAppDrift(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	config := c.config(ns, `
resource "clusterd_app" "web" {
  name     = "web"
  image    = "nginx:1"
  replicas = 1
  update   = { healthy_for = "0s" }
}`)
	update := plans(web, plancheck.ResourceActionUpdate)
	three := 3
	apply(t,
		resource.TestStep{Config: config},
		resource.TestStep{PreConfig: func() {
			c.writeApp(t, ns, "web", func(a *api.App) {
				a.Spec.Replicas, a.Spec.Env, a.Spec.Health = &three, map[string]string{"X": "1"}, &api.Health{TCP: new(true), Port: "80"}
			})
		}, Config: config, ConfigPlanChecks: update},
		resource.TestStep{PreConfig: func() { c.deleteApp(t, ns, "web") }, Config: config, ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate)},
	)
}

// deleteApp deletes an app behind Terraform's back.
func (c *cluster) deleteApp(t *testing.T, namespace, name string) {
	t.Helper()
	apps, from := client.Of(c.Client(), api.Apps), c.app(t, namespace, name).Meta.Revision
	if err := apps.Delete(t.Context(), namespace, name, ""); err != nil {
		t.Fatal(err)
	}
	for ev, err := range apps.Watch(t.Context(), namespace, nil, from) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == api.EventDelete && ev.Object.Meta.Name == name {
			return
		}
	}
}

// testAppClash: an object that exists is not touched, unless asked to.
func testAppClash(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), &api.App{Meta: api.Meta{Namespace: ns, Name: "web"},
		Spec: api.AppSpec{Container: api.Container{Image: "theirs:1"}, Update: &api.Update{HealthyFor: "0s"}}}); err != nil {
		t.Fatal(err)
	}
	app := func(rest string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name   = "web"
  image  = "ours:1"
  update = { healthy_for = "0s" }
  %s
}`, rest)
	}
	apply(t,
		resource.TestStep{Config: app(""), ExpectError: regexp.MustCompile(`(?s)App appclash/web exists already.*written by user:.*testcluster.* at 20\d\d-.*import \{\s+to = clusterd_app.NAME.*id = "appclash/web".*adopt = true`)},
		resource.TestStep{PreConfig: func() {
			if a := c.app(t, ns, "web"); a.Spec.Image != "theirs:1" {
				t.Errorf("a clash changed the image to %s", a.Spec.Image)
			}
		}, Config: app("adopt = true"), ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate)},
	)
}

// testAppConflict: a change that the plan has not seen is not overwritten. The
// cluster changes between refresh and apply, which only -refresh=false allows
// to stage: the state is old by then.
func testAppConflict(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	app := func(image string) string {
		return c.config(ns, `
resource "clusterd_app" "web" {
  name   = "web"
  image  = %q
  update = { healthy_for = "0s" }
}
`, image)
	}
	stale := func() { c.writeApp(t, ns, "web", func(a *api.App) { a.Spec.Args = []string{"theirs"} }) }
	old := resource.TestCase{
		AdditionalCLIOptions: &resource.AdditionalCLIOptions{Plan: resource.PlanOptions{NoRefresh: true}},
	}
	applyCase(t, old,
		resource.TestStep{Config: app("nginx:1")},
		resource.TestStep{PreConfig: stale, Config: app("nginx:2"), ExpectError: regexp.MustCompile(`(?s)Cannot update app appconflict/web.*outside of this plan by user:.*plan\s+again`)},
		resource.TestStep{PreConfig: func() {
			if a := c.app(t, ns, "web"); a.Spec.Image != "nginx:1" {
				t.Errorf("a stale plan was applied: the image is %s", a.Spec.Image)
			}
		}, RefreshState: true, ExpectNonEmptyPlan: true},
	)
}

// testAppNoWait: wait = false returns at once.
func testAppNoWait(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	apply(t, resource.TestStep{Config: c.config(ns, `
resource "clusterd_app" "web" {
  name  = "web"
  image = "exit-1:1"
  wait  = false
}`), ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate)})
	c.gone(t, ns, "web")
}
