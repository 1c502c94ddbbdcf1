//go:build !race

package provider_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// namespaceQuota: plan says that a quota leaves no room, before apply does.
func namespaceQuota(t *testing.T, c *cluster, _ string) story {
	config := func(quota, replicas string) string {
		return fmt.Sprintf(`
resource "clusterd_namespace" "stall" {
  name     = "stall"
  quota    = { cpu = "1", memory = "4Gi", replicas = %s, volumes = 3, storage = "1Gi" }
  defaults = { cpu = "50m", memory = "48Mi" }
}
resource "clusterd_app" "stall" {
  name      = "web"
  namespace = clusterd_namespace.stall.name
  image     = "nginx:1"
  replicas  = %s
  update    = { healthy_for = "0s" }
}`, quota, replicas)
	}
	const stall = "clusterd_namespace.stall"
	tooMany := regexp.MustCompile(`(?is)wants\s+5\s+pods;\s+namespace\s+stall\s+has\s+3\s+of\s+3\s+pods\s+left`)
	return story{steps: []resource.TestStep{
		{Config: config("3", "2"), ConfigPlanChecks: plans(stall, plancheck.ResourceActionCreate), Check: func(*terraform.State) error {
			if a := c.app(t, "stall", "web"); a.Effective.CPU != "50m" || a.Effective.Memory != "48Mi" {
				t.Errorf("the namespace's defaults are not in effect: %s, %s", a.Effective.CPU, a.Effective.Memory)
			}
			c.Await("the namespace says what it uses", func(ctx context.Context) (bool, error) {
				n, err := client.Of(c.Client(), api.Namespaces).Get(ctx, "", "stall")
				return err == nil && n.Status.Used == api.Used{CPU: "100m", Memory: "96Mi", Replicas: 2}, err
			})
			return nil
		}},
		{Config: config("3", "5"), ExpectError: tooMany},
		{Config: config("5", "5"), ConfigPlanChecks: plans(stall, plancheck.ResourceActionUpdate)},
	}}
}

// testQuota: a plan compares what it asks for with what a quota leaves.
func testQuota(t *testing.T, c *cluster) {
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
	if strings.Count(got, "quota.cpu raised") != 1 {
		t.Errorf("it is said more than once: %q", got)
	}
	testQuotaOfPlan(t, c, ns)
}

// testQuotaOfPlan: what a plan asks for together, of a namespace that it makes
// and of one that is there, is compared with the quota.
func testQuotaOfPlan(t *testing.T, c *cluster, there string) {
	app := func(p *plugin, namespace, name string, replicas tftypes.Value) string {
		t.Helper()
		return say(p.plan("clusterd_app", attrs{"name": str(name), "image": str("nginx:1"), "namespace": str(namespace), "replicas": replicas}).Diagnostics)
	}
	for namespace, quota := range map[string]string{"not-yet": "replicas", there: "cpu"} {
		p, _ := newPlugin(t, c.settings())
		if namespace == "not-yet" {
			all := tftypes.Object{AttributeTypes: map[string]tftypes.Type{"replicas": tftypes.Number}}
			p.plan("clusterd_namespace", attrs{"name": str(namespace), "quota": tftypes.NewValue(all, map[string]tftypes.Value{"replicas": number(10)})})
		}
		for name, replicas := range map[string]tftypes.Value{"a": number(5), "b": number(5), "late": tftypes.NewValue(tftypes.Number, tftypes.UnknownValue)} {
			if got := app(p, namespace, name, replicas); got != "" {
				t.Errorf("what fits %s says: %q", namespace, got)
			}
		}
		want := `warning AttributeName("replicas"): This plan asks for more than the quota of namespace ` + namespace + ": With this, " + quota + " would be "
		if got := app(p, namespace, "c", number(1)); !strings.HasPrefix(got, want) {
			t.Errorf("what does not fit %s says: %q", namespace, got)
		}
		// One that is planned again, as by apply, counts once.
		if got := app(p, namespace, "b", number(4)) + app(p, namespace, "c", number(1)); got != "" {
			t.Errorf("what fits %s after all says: %q", namespace, got)
		}
	}
	// Another's share is known by what is there.
	apps := client.Of(c.Client(), api.Apps)
	if _, err := apps.Create(t.Context(), &api.App{Meta: api.Meta{Namespace: there, Name: "a"}, Spec: api.AppSpec{Container: api.Container{Image: "nginx:1"}, Replicas: new(5)}}); err != nil {
		t.Fatal(err)
	}
	c.Await("the namespace says what it uses", func(ctx context.Context) (bool, error) {
		n, err := client.Of(c.Client(), api.Namespaces).Get(ctx, "", there)
		return err == nil && n.Status.Used.Replicas == 5, err
	})
	p, _ := newPlugin(t, c.settings())
	if got := app(p, there, "a", number(6)) + app(p, there, "b", number(4)); got != "" {
		t.Errorf("what fits beside what is there says: %q", got)
	}
	if got := app(p, there, "c", number(1)); !strings.Contains(got, "cpu would be 1.1 of 1") {
		t.Errorf("what does not fit beside what is there says: %q", got)
	}
	if err := apps.Delete(t.Context(), there, "a", ""); err != nil {
		t.Fatal(err)
	}
	c.Await("the app is gone", func(ctx context.Context) (bool, error) {
		_, err := apps.Get(ctx, there, "a")
		return api.Is(err, api.NotFound), nil
	})
}

// twoTeams: one team has used up its quota, which plan and apply say in the
// same words; the other one's apps come up meanwhile, for its share is its own.
func twoTeams(t *testing.T, c *cluster, _ string) story {
	const greedy, other = "greedy", "other"
	for _, name := range []string{greedy, other} {
		if _, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: name}, Spec: api.NamespaceSpec{Quota: &api.Quota{CPU: "1"}}}); err != nil {
			t.Fatal(err)
		}
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
	return story{steps: []resource.TestStep{
		{Config: app(greedy, "full", 10)},
		{Config: app(greedy, "full", 10) + app(greedy, "more", 11), ExpectError: refused},
		{Config: app(greedy, "full", 10) + app(other, "theirs", 10)},
	}}
}
