package provider_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

const mend = "clusterd_job.mend"

func (c *cluster) job(t *testing.T, namespace, name string) *api.Job {
	t.Helper()
	j, err := client.Of(c.Client(), api.Jobs).Get(t.Context(), namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// testJobLife: apply returns when the run has succeeded; a change of the
// template or of the triggers runs it again in place, and nothing else does.
func testJobLife(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	runs := func(want int, name string) resource.TestCheckFunc {
		return func(*terraform.State) error {
			st := c.job(t, ns, "mend").Status
			if len(st.Runs) != want || st.Runs[0].Name != name || st.Runs[0].Phase != api.RunSucceeded {
				t.Errorf("apply returned with %+v, want %d runs, and %s to have succeeded", st.Runs, want, name)
			}
			return nil
		}
	}
	step := func(rest string, action plancheck.ResourceActionType, checks ...resource.TestCheckFunc) resource.TestStep {
		return resource.TestStep{Config: c.config(ns, "resource \"clusterd_job\" \"mend\" {\n  name  = \"mend\"\n  image = \"exit-0:1\"\n  %s\n}", rest),
			ConfigPlanChecks: plans(mend, action), Check: resource.ComposeTestCheckFunc(checks...)}
	}
	apply(t,
		step("", plancheck.ResourceActionCreate, runs(1, "mend-1"), resource.TestCheckResourceAttr(mend, "id", ns+"/mend")),
		resource.TestStep{ResourceName: mend, ImportState: true, ImportStateVerify: true},
		step("keep = 3", plancheck.ResourceActionUpdate, runs(1, "mend-1")),
		step("keep = 3\n  triggers = { schema = 1 }", plancheck.ResourceActionUpdate, runs(2, "mend-3")),
		step("keep = 3\n  triggers = { schema = 2 }", plancheck.ResourceActionUpdate, runs(3, "mend-4")),
		step("keep = 3\n  triggers = { schema = 2 }\n  env = { A = 1 }\n  completions = 3\n  parallelism = 2", plancheck.ResourceActionUpdate, runs(3, "mend-5")),
		// Every attribute there is, with no perpetual diff, and with a schedule without a wait.
		step(`command     = ["/mend"]
  args        = ["-v"]
  cpu         = "50m"
  memory      = "32Mi"
  labels      = { team = "shop" }
  init        = { first = { command = ["/init"], image = "exit-0:1" } }
  sidecars    = { log = { image = "vector:1" } }
  placement   = { prefer = { disk = "ssd" }, priority = 10 }
  stop        = { grace_period = "1s" }
  pull        = "if_absent"
  completions = 2
  parallelism = 2
  retries     = 0
  deadline    = "1h"
  schedule    = "0 0 1 1 *"
  time_zone   = "Europe/Berlin"
  concurrency = "replace"
  catch_up    = "10m"
  keep        = 2
  suspend     = true
  deletion_protection = false
  timeouts    = { create = "2m", update = "2m", delete = "1m" }
  on_create_failure = "keep"
  wait        = true`, plancheck.ResourceActionUpdate),
		resource.TestStep{ResourceName: mend, ImportState: true},
		// Drift, and what is gone.
		resource.TestStep{PreConfig: func() {
			j := c.job(t, ns, "mend")
			j.Spec.Schedule = "1 0 1 1 *"
			if _, err := client.Of(c.Client(), api.Jobs).Put(t.Context(), j); err != nil {
				t.Fatal(err)
			}
		}, Config: c.config(ns, "resource \"clusterd_job\" \"mend\" {\n  name  = \"mend\"\n  image = \"exit-0:1\"\n  schedule = \"0 0 1 1 *\"\n}"), ConfigPlanChecks: plans(mend, plancheck.ResourceActionUpdate)},
		resource.TestStep{PreConfig: func() {
			if err := client.Of(c.Client(), api.Jobs).Delete(t.Context(), ns, "mend", ""); err != nil {
				t.Fatal(err)
			}
			c.Await("the job is gone", func(ctx context.Context) (bool, error) {
				_, err := client.Of(c.Client(), api.Jobs).Get(ctx, ns, "mend")
				return api.Is(err, api.NotFound), nil
			})
		}, Config: c.config(ns, "resource \"clusterd_job\" \"mend\" {\n  name  = \"mend\"\n  image = \"exit-0:1\"\n  schedule = \"0 0 1 1 *\"\n}"), ConfigPlanChecks: plans(mend, plancheck.ResourceActionCreate)},
	)
	pods, _, err := client.Of(c.Client(), api.Pods).List(t.Context(), ns, nil)
	if err != nil || len(pods) > 0 {
		t.Errorf("%d pods are left after destroy (%v)", len(pods), err)
	}
}

// testJobFails: a failed run fails apply with its cause; the job of a failed
// create is replaced by the next, and a failed change is told at refresh.
func testJobFails(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	job := func(image, rest string) string {
		return c.config(ns, "resource \"clusterd_job\" \"mend\" {\n  name  = \"mend\"\n  image = %q\n  %s\n}", image, rest)
	}
	failed := regexp.MustCompile(`(?s)run mend-1 failed.*[Pp]od\s+mend-1-0-0\s+on\s+node\s+w\d.*exit code\s+3.*about to\s+exit with 3.*clusterd\s+describe\s+job`)
	apply(t,
		resource.TestStep{Config: job("exit-3:1", "retries = 0"), ExpectError: failed},
		resource.TestStep{Config: job("exit-0:1", ""), ConfigPlanChecks: plans(mend, plancheck.ResourceActionReplace)},
		resource.TestStep{Config: job("exit-3:1", "retries = 0"), ExpectError: regexp.MustCompile(`(?s)run\s+mend-2\s+failed`)},
		resource.TestStep{Config: job("exit-0:1", ""), ConfigPlanChecks: plans(mend, plancheck.ResourceActionUpdate)},
		resource.TestStep{Config: job("never-ready:1", "deadline = \"2s\""), ExpectError: regexp.MustCompile(`(?s)has\s+not\s+ended\s+within\s+2s`)},
		resource.TestStep{Config: job("exit-0:2", "")},
		resource.TestStep{Config: job("exit-0:2", `schedule = "@daily"`), ExpectError: regexp.MustCompile(`(?s)Bad schedule.*1\s+fields`)},
		resource.TestStep{Config: job("exit-0:2", "schedule = \"0 0 * * *\"\n  time_zone = \"Mars/Olympus\""), ExpectError: regexp.MustCompile(`(?s)Bad time_zone.*not\s+a\s+time\s+zone`)},
		resource.TestStep{Config: job("exit-0:2", "")},
	)
	apply(t, resource.TestStep{Config: job("exit-3:1", "retries = 0\n  on_create_failure = \"delete\""), ExpectError: failed})
	if _, err := client.Of(c.Client(), api.Jobs).Get(t.Context(), ns, "mend"); !api.Is(err, api.NotFound) {
		t.Errorf("the job of a failed create is still there (%v)", err)
	}
}

// testQuota: plan says that a quota leaves no room, before apply does.
func testQuota(t *testing.T, c *cluster) {
	config := func(quota, replicas string) string {
		return c.config("default", `
resource "clusterd_namespace" "stall" {
  name     = "stall"
  quota    = { cpu = "1", memory = "4Gi", replicas = %s, volumes = 3, storage = "1Gi" }
  defaults = { cpu = "50m", memory = "48Mi" }
}
resource "clusterd_app" "web" {
  name      = "web"
  namespace = clusterd_namespace.stall.name
  image     = "nginx:1"
  replicas  = %s
  update    = { healthy_for = "0s" }
}`, quota, replicas)
	}
	const stall = "clusterd_namespace.stall"
	tooMany := regexp.MustCompile(`(?is)wants\s+5\s+pods;\s+namespace\s+stall\s+has\s+3\s+of\s+3\s+pods\s+left`)
	apply(t,
		resource.TestStep{Config: config("3", "2"), ConfigPlanChecks: plans(stall, plancheck.ResourceActionCreate)},
		resource.TestStep{ResourceName: stall, ImportState: true, ImportStateVerify: true},
		resource.TestStep{Config: config("3", "2"), Check: func(*terraform.State) error {
			if a := c.app(t, "stall", "web"); a.Effective.CPU != "50m" || a.Effective.Memory != "48Mi" {
				t.Errorf("the namespace's defaults are not in effect: %s, %s", a.Effective.CPU, a.Effective.Memory)
			}
			c.Await("the namespace says what it uses", func(ctx context.Context) (bool, error) {
				n, err := client.Of(c.Client(), api.Namespaces).Get(ctx, "", "stall")
				return err == nil && n.Status.Used == api.Used{CPU: "100m", Memory: "96Mi", Replicas: 2}, err
			})
			return nil
		}},
		resource.TestStep{Config: config("3", "5"), ExpectError: tooMany},
		resource.TestStep{Config: config("5", "5"), ConfigPlanChecks: plans(stall, plancheck.ResourceActionUpdate)},
	)

	ns := c.namespace(t)
	if _, err := client.Of(c.Client(), api.Namespaces).Put(t.Context(), &api.Namespace{Meta: api.Meta{Name: ns}, Spec: api.NamespaceSpec{Quota: &api.Quota{CPU: "1"}}}); err != nil {
		t.Fatal(err)
	}
	p, _ := newPlugin(t, c.settings())
	const want = `warning AttributeName("replicas"): The cluster would refuse this now: `
	got := say(p.plan("clusterd_app", attrs{"name": str("web"), "image": str("nginx:1"), "namespace": str(ns), "replicas": number(11)}).Diagnostics)
	if !strings.HasPrefix(got, want) || !strings.Contains(got, "11 pods of 100m cpu are 1.1; namespace "+ns+" has 1 of 1 cpu left") {
		t.Errorf("a plan beyond the quota says: %q", got)
	}
	testTwoTeams(t, c, ns)
}

// testTwoTeams: one team has used up its quota, which plan and apply say in the
// same words; the other one's apps come up meanwhile, for its share is its own.
func testTwoTeams(t *testing.T, c *cluster, greedy string) {
	other := greedy + "-other"
	if _, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: other}, Spec: api.NamespaceSpec{Quota: &api.Quota{CPU: "1"}}}); err != nil {
		t.Fatal(err)
	}
	app := func(namespace, name string, replicas int) string {
		return fmt.Sprintf(`
resource "clusterd_app" %q {
  name      = %q
  namespace = %q
  image     = "nginx:1"
  replicas  = %d
  update    = { healthy_for = "0s" }
}`, name, name, namespace, replicas)
	}
	refused := regexp.MustCompile(`(?is)11\s+pods\s+of\s+100m\s+cpu\s+are\s+1\.1;\s+namespace\s+` + greedy + `\s+has\s+0m?\s+of\s+1\s+cpu\s+left`)
	apply(t,
		resource.TestStep{Config: c.config(greedy, "%s", app(greedy, "full", 10))},
		resource.TestStep{Config: c.config(greedy, "%s%s", app(greedy, "full", 10), app(greedy, "more", 11)), ExpectError: refused},
		resource.TestStep{Config: c.config(greedy, "%s%s", app(greedy, "full", 10), app(other, "theirs", 10))},
	)
}
