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

// appLife: create, empty plan, import, change in place, replace, destroy.
func appLife(t *testing.T, c *cluster, ns string) story {
	app := func(name, rest string) string {
		return fmt.Sprintf(`
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
	return story{[]resource.TestStep{
		step("web", "", plancheck.ResourceActionCreate,
			resource.TestCheckResourceAttr(web, "id", ns+"/web"),
			resource.TestCheckResourceAttr(web, "namespace", ns),
			resource.TestCheckNoResourceAttr(web, "replicas"),
			resource.TestCheckNoResourceAttr(web, "cpu")),
		{ResourceName: web, ImportState: true, ImportStateVerify: true},
		{ResourceName: web, ImportState: true, ImportStateId: "web", ImportStateVerify: true},
		{ResourceName: web, ImportState: true, ImportStateId: "no such thing", ExpectError: regexp.MustCompile("Bad import id")},
		{ResourceName: web, ImportState: true, ImportStateId: ns + "/nobody", ExpectError: regexp.MustCompile("non-existent")},
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
		{Config: `
resource "clusterd_app" "web" {
  name      = "web2"
  namespace = "default"
  image     = "nginx:1.27"
}`, ConfigPlanChecks: plans(web, plancheck.ResourceActionReplace)},
	}, func() {
		c.gone(t, ns, "web2")
		c.gone(t, "default", "web2")
	}}
}

const everything = `
resource "clusterd_app" "all" {
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

// appEverything: every attribute there is, with no perpetual diff.
func appEverything(t *testing.T, c *cluster, ns string) story {
	const all = "clusterd_app.all"
	return story{[]resource.TestStep{
		{Config: fmt.Sprintf(everything, "nginx:1"), ConfigPlanChecks: plans(all, plancheck.ResourceActionCreate)},
		{ResourceName: all, ImportState: true},
		{Config: fmt.Sprintf(everything, "nginx:2"), ConfigPlanChecks: plans(all, plancheck.ResourceActionUpdate)},
	}, func() { c.gone(t, ns, "all") }}
}

// appEmpties: what JSON leaves out and Terraform does not.
func appEmpties(*testing.T, *cluster, string) story {
	const empty = "clusterd_app.empty"
	empties := func(rest string) string {
		return fmt.Sprintf(`
resource "clusterd_app" "empty" {
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
	return story{steps: []resource.TestStep{
		{Config: empties(`cpu = "500m"`), ConfigPlanChecks: plans(empty, plancheck.ResourceActionCreate)},
		// the same amount in other words is no change
		{Config: empties(`cpu = "0.5"`), ConfigPlanChecks: plans(empty, plancheck.ResourceActionNoop)},
		{Config: empties(`cpu = 0.75`), ConfigPlanChecks: plans(empty, plancheck.ResourceActionUpdate)},
	}}
}

// appFailures: a failed update is rolled back, says why, and shows the same
// diff again.
func appFailures(t *testing.T, c *cluster, ns string) story {
	app := func(image, update string) string {
		return fmt.Sprintf(`
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
	return story{steps: []resource.TestStep{
		{Config: app("nginx:1", "")},
		{Config: app("exit-1:1", ""), ConfigPlanChecks: again,
			ExpectError: regexp.MustCompile(`(?s)rollout of exit-1:1 failed and (was|is\s+being)\s+rolled\s+back to\s+nginx:1.*[Pp]od web-.*on node\s+w\d.*exit code\s+1.*about to\s+exit with 1.*clusterd\s+describe`)},
		{PreConfig: func() { serves("nginx:1") }, Config: app("missing:1", ""), ConfigPlanChecks: again,
			ExpectError: regexp.MustCompile(`(?s)missing:1.*cannot\s+be\s+fetched`)},
		{PreConfig: func() { serves("nginx:1") }, Config: app("nginx:1", ""), ConfigPlanChecks: plans(web, plancheck.ResourceActionNoop)},
		{Config: app("nginx:2", ""), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
		// paused: what was asked for is there, and broken
		{Config: app("exit-2:1", `, on_failure = "pause"`), ExpectError: regexp.MustCompile(`(?s)exit-2:1\s+failed\s+and\s+is\s+paused`)},
		{Config: app("nginx:3", ""), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate)},
	}}
}

// appCanary: apply succeeds once a canary holds, and says who decides; how
// many pods there are may follow the load or the nodes instead of a number.
func appCanary(t *testing.T, c *cluster, ns string) story {
	const address = "clusterd_app.canary"
	app := func(image, rest string) string {
		return fmt.Sprintf(`
resource "clusterd_app" "canary" {
  name   = "canary"
  image  = %q
  %s
}`, image, rest)
	}
	promote := func() {
		a := c.app(t, ns, "canary")
		a.Status.Intent.Promote = a.Status.Rollout.Number
		if _, err := client.Of(c.Client(), api.Apps).PutPart(t.Context(), a, "intent"); err != nil {
			t.Error(err)
		}
	}
	two := func(held bool) resource.TestCheckFunc { return c.holds(t, ns, "canary", held) }
	return story{steps: []resource.TestStep{
		{Config: app("nginx:1", canary+"replicas = 2"), Check: two(false)},
		{Config: app("nginx:2", canary+"replicas = 2"), ConfigPlanChecks: plans(address, plancheck.ResourceActionUpdate),
			Check: resource.ComposeTestCheckFunc(two(true), resource.TestCheckResourceAttr(address, "image", "nginx:2"))},
		{PreConfig: promote, Config: app("nginx:2", canary+"scale = { min = 2, max = 4, cpu = 70 }"),
			ConfigPlanChecks: plans(address, plancheck.ResourceActionUpdate)},
		{Config: app("nginx:2", "per_node = true"), ConfigPlanChecks: plans(address, plancheck.ResourceActionUpdate)},
	}}
}

const canary = `update = { healthy_for = "0s", canary = 1 }
  `

// holds expects two pods of an app, and whether its canary holds.
func (c *cluster) holds(t *testing.T, namespace, name string, held bool) resource.TestCheckFunc {
	return func(*terraform.State) error {
		a := c.app(t, namespace, name)
		if a.Status.Desired != 2 || a.Status.Rollout.HeldSince.IsZero() == held {
			t.Errorf("%d pods of %s are desired, rollout %+v", a.Status.Desired, name, a.Status.Rollout)
		}
		return nil
	}
}

// appCanaryOfConfig: a change of what the app uses holds, too, and the apply of
// that ends.
func appCanaryOfConfig(t *testing.T, c *cluster, ns string) story {
	using := func(level string) string {
		return fmt.Sprintf(`
resource "clusterd_config" "canary" {
  name = "canary"
  data = { level = %q }
}
resource "clusterd_app" "using" {
  name     = "using"
  image    = "nginx:1"
  replicas = 2
  configs  = { LEVEL = "${clusterd_config.canary.name}/level" }
  %s
}`, level, canary)
	}
	return story{steps: []resource.TestStep{
		{Config: using("info"), Check: c.holds(t, ns, "using", false)},
		{Config: using("debug"), ConfigPlanChecks: plans("clusterd_config.canary", plancheck.ResourceActionUpdate), Check: c.holds(t, ns, "using", true)},
	}}
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

// appDrift: what others declare shows, and what changes by itself does not.
func appDrift(t *testing.T, c *cluster, ns string) story {
	const address = "clusterd_app.drift"
	const config = `
resource "clusterd_app" "drift" {
  name     = "drift"
  image    = "nginx:1"
  replicas = 1
  update   = { healthy_for = "0s" }
}`
	three := 3
	return story{steps: []resource.TestStep{
		{Config: config},
		{PreConfig: func() {
			c.writeApp(t, ns, "drift", func(a *api.App) {
				a.Spec.Replicas, a.Spec.Env, a.Spec.Health = &three, map[string]string{"X": "1"}, &api.Health{TCP: new(true), Port: "80"}
			})
		}, Config: config, ConfigPlanChecks: plans(address, plancheck.ResourceActionUpdate)},
		{PreConfig: func() { c.deleteApp(t, ns, "drift") }, Config: config, ConfigPlanChecks: plans(address, plancheck.ResourceActionCreate)},
	}}
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

// appClash: an object that exists is not touched, unless asked to.
func appClash(t *testing.T, c *cluster, ns string) story {
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), &api.App{Meta: api.Meta{Namespace: ns, Name: "clash"},
		Spec: api.AppSpec{Container: api.Container{Image: "theirs:1"}, Update: &api.Update{HealthyFor: "0s"}}}); err != nil {
		t.Fatal(err)
	}
	app := func(rest string) string {
		return fmt.Sprintf(`
resource "clusterd_app" "clash" {
  name   = "clash"
  image  = "ours:1"
  update = { healthy_for = "0s" }
  %s
}`, rest)
	}
	return story{steps: []resource.TestStep{
		{Config: app(""), ExpectError: regexp.MustCompile(`(?s)App ` + ns + `/clash exists already.*written by user:.*testcluster.* at 20\d\d-.*import \{\s+to = clusterd_app.NAME.*id = "` + ns + `/clash".*adopt = true`)},
		{PreConfig: func() {
			if a := c.app(t, ns, "clash"); a.Spec.Image != "theirs:1" {
				t.Errorf("a clash changed the image to %s", a.Spec.Image)
			}
		}, Config: app("adopt = true"), ConfigPlanChecks: plans("clusterd_app.clash", plancheck.ResourceActionCreate)},
	}}
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
