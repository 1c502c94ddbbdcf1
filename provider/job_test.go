//go:build !race

package provider_test

import (
	"context"
	"fmt"
	"regexp"
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

// jobLife: apply returns when the run has succeeded; a change of the
// template or of the triggers runs it again in place, and nothing else does.
func jobLife(t *testing.T, c *cluster, ns string) story {
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
		return resource.TestStep{Config: fmt.Sprintf("resource \"clusterd_job\" \"mend\" {\n  name  = \"mend\"\n  image = \"exit-0:1\"\n  %s\n}", rest),
			ConfigPlanChecks: plans(mend, action), Check: resource.ComposeTestCheckFunc(checks...)}
	}
	return story{steps: []resource.TestStep{
		step("", plancheck.ResourceActionCreate, runs(1, "mend-1"), resource.TestCheckResourceAttr(mend, "id", ns+"/mend")),
		{ResourceName: mend, ImportState: true, ImportStateVerify: true},
		step("keep = 3", plancheck.ResourceActionUpdate, runs(1, "mend-1")),
		step("keep = 3\n  triggers = { schema = 1 }", plancheck.ResourceActionUpdate, runs(2, "mend-3")),
		step("keep = 3\n  triggers = { schema = 2 }", plancheck.ResourceActionUpdate, runs(3, "mend-4")),
		step("keep = 3\n  triggers = { schema = 2 }\n  env = { A = 1 }\n  completions = 3\n  parallelism = 2", plancheck.ResourceActionUpdate, runs(3, "mend-5")),
	}}
}

// jobEverything: every attribute there is, with no perpetual diff, and with a
// schedule without a wait; drift, and what is gone.
func jobEverything(t *testing.T, c *cluster, ns string) story {
	const all = "clusterd_job.all"
	step := func(rest string, action plancheck.ResourceActionType) resource.TestStep {
		return resource.TestStep{Config: fmt.Sprintf("resource \"clusterd_job\" \"all\" {\n  name  = \"all\"\n  image = \"exit-0:1\"\n  %s\n}", rest), ConfigPlanChecks: plans(all, action)}
	}
	drifts := step(`schedule = "0 0 1 1 *"`, plancheck.ResourceActionUpdate)
	drifts.PreConfig = func() {
		j := c.job(t, ns, "all")
		j.Spec.Schedule = "1 0 1 1 *"
		if _, err := client.Of(c.Client(), api.Jobs).Put(t.Context(), j); err != nil {
			t.Fatal(err)
		}
	}
	disappears := step(`schedule = "0 0 1 1 *"`, plancheck.ResourceActionCreate)
	disappears.PreConfig = func() {
		if err := client.Of(c.Client(), api.Jobs).Delete(t.Context(), ns, "all", ""); err != nil {
			t.Fatal(err)
		}
		c.Await("the job is gone", func(ctx context.Context) (bool, error) {
			_, err := client.Of(c.Client(), api.Jobs).Get(ctx, ns, "all")
			return api.Is(err, api.NotFound), nil
		})
	}
	return story{[]resource.TestStep{
		step("suspend = true", plancheck.ResourceActionCreate),
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
		{ResourceName: all, ImportState: true},
		drifts, disappears,
	}, func() {
		pods, _, err := client.Of(c.Client(), api.Pods).List(t.Context(), ns, nil)
		if err != nil || len(pods) > 0 {
			t.Errorf("%d pods are left after destroy (%v)", len(pods), err)
		}
	}}
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
	)
	apply(t, resource.TestStep{Config: job("exit-3:1", "retries = 0\n  on_create_failure = \"delete\""), ExpectError: failed})
	if _, err := client.Of(c.Client(), api.Jobs).Get(t.Context(), ns, "mend"); !api.Is(err, api.NotFound) {
		t.Errorf("the job of a failed create is still there (%v)", err)
	}
}
