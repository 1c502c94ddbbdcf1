package command

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

func TestSpecDiff(t *testing.T) {
	was := `{"image":"nginx:1.0","replicas":3,"args":["-a"],"health":{"http":"/"}}`
	is := `{"image":"nginx:2.0","replicas":3,"args":["-a","-b"],"env":{"LEVEL":"info"}}`
	want := []string{"+ args[1] -b", "+ env.LEVEL info", "- health.http /", "~ image nginx:1.0 -> nginx:2.0"}
	if got := specDiff(json.RawMessage(was), json.RawMessage(is)); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := specDiff(json.RawMessage(was), json.RawMessage(was)); got != nil {
		t.Errorf("of the same: %q", got)
	}
}

func steered(c *testcluster.Cluster, ok func(*api.App) bool) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		a, err := client.Of(c.Client(), api.Apps).Get(ctx, api.DefaultNamespace, "steered")
		return err == nil && ok(a), err
	}
}

// testTop: nodes are asked through their tunnels what their pods use.
func testTop(t *testing.T, c *testcluster.Cluster) {
	a := &api.App{Meta: api.Meta{Name: "busy", Namespace: api.DefaultNamespace}}
	a.Spec.Image, a.Spec.CPU, a.Spec.Memory = "uses-300:1", "600m", "128Mi"
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	ok(t, "rollout", "status", "app/busy")
	out := ok(t, "top", "pods")
	line := ""
	for l := range strings.Lines(out) {
		if strings.Contains(l, "busy-") {
			line = l
		}
	}
	if f := strings.Fields(line); len(f) != 7 || f[5] != "64Mi" || f[6] != "50%" || !slices.Contains([]string{"49%", "50%", "51%"}, f[4]) {
		t.Errorf("top pods:\n%s", out)
	}
	if out := ok(t, "top", "nodes"); !strings.Contains(out, "64Mi") || !strings.Contains(out, "w2") {
		t.Errorf("top nodes:\n%s", out)
	}
	ok(t, "delete", "app/busy")
}

// testRollout changes app web by hand: each command follows its rollout to the end.
func testRollout(t *testing.T, c *testcluster.Cluster) {
	put := func(spec string) {
		t.Helper()
		apps := client.Of(c.Client(), api.Apps)
		d, err := apps.GetDeclared(t.Context(), api.DefaultNamespace, "steered")
		if api.Is(err, api.NotFound) {
			a := &api.App{Meta: api.Meta{Name: "steered", Namespace: api.DefaultNamespace}}
			if err := json.Unmarshal([]byte(spec), &a.Spec); err != nil {
				t.Fatal(err)
			}
			_, err = apps.Create(t.Context(), a)
		} else if err == nil {
			d.Spec = json.RawMessage(spec)
			_, err = apps.ReplaceDeclared(t.Context(), d, d.Meta.Generation)
		}
		if err != nil && !api.Is(err, api.NotFound) {
			t.Fatal(err)
		}
	}
	const fast = `,"cpu":"10m","memory":"8Mi","update":{"healthy_for":"0s","canary":1}}`
	put(`{"image":"nginx:1.0","replicas":2` + fast)
	if out := ok(t, "rollout", "status", "app/steered"); !strings.Contains(out, "generation 1 is complete") {
		t.Errorf("status: %s", out)
	}
	refused(t, "no canary holds", "rollout", "promote", "app/steered")
	refused(t, "nothing to abort", "rollout", "abort", "app/steered")
	refused(t, "no other healthy spec", "rollout", "undo", "app/steered")
	refused(t, "want app/<name>", "rollout", "status", "node/w1")

	put(`{"image":"nginx:2.0","replicas":2` + fast)
	if out := ok(t, "rollout", "status", "app/steered"); !strings.Contains(out, "canary of 1 is healthy since") || !strings.Contains(out, "clusterd rollout promote app/steered") {
		t.Errorf("status of a held canary: %s", out)
	}
	if out := ok(t, "rollout", "promote", "app/steered"); !strings.Contains(out, "generation 2 is complete") {
		t.Errorf("promote: %s", out)
	}
	put(`{"image":"nginx:3.0","replicas":2` + fast)
	ok(t, "rollout", "status", "app/steered")
	ok(t, "rollout", "abort", "app/steered")
	c.Await("the old spec is back", steered(c, func(a *api.App) bool {
		return a.Meta.Generation == 4 && a.Status.Rollout.Phase == api.RolloutComplete
	}))
	if out := ok(t, "rollout", "history", "app/steered"); !strings.Contains(out, "aborted: aborted by a user") || !strings.Contains(out, "~ image nginx:1.0 -> nginx:2.0") {
		t.Errorf("history: %s", out)
	}
	if out := ok(t, "restart", "app/steered", "--pull"); !strings.Contains(out, "are what they were") {
		t.Errorf("restart that finds the same images: %s", out)
	}
	if out := ok(t, "restart", "app/steered"); !strings.Contains(out, "canary of 1") {
		t.Errorf("restart of an app with a canary: %s", out)
	}
	if out := ok(t, "rollout", "promote", "app/steered"); !strings.Contains(out, "generation 4 is complete") {
		t.Errorf("promote: %s", out)
	}
	if out := ok(t, "scale", "app/steered", "1"); !strings.Contains(out, "1 of 1 pods are ready") {
		t.Errorf("scale: %s", out)
	}
	if out := ok(t, "rollout", "undo", "app/steered", "--to", "4"); !strings.Contains(out, "2 of 2 pods are ready") {
		t.Errorf("undo: %s", out)
	}
	// What went wrong is hardly how many there are: that stays.
	ok(t, "scale", "app/steered", "1")
	back := clusterd("", "rollout", "undo", "app/steered")
	if back.code != 0 || !strings.Contains(back.err, "puts back generation 1\n  ~ image nginx:2.0 -> nginx:1.0\n") {
		t.Errorf("undo: %+v", back)
	}
	if a, err := client.Of(c.Client(), api.Apps).Get(t.Context(), api.DefaultNamespace, "steered"); err != nil || *a.Spec.Replicas != 1 || a.Spec.Image != "nginx:1.0" {
		t.Errorf("after undo: %+v (%v)", a, err)
	}
	refused(t, "is not a number of pods", "scale", "app/steered", "many")
	ok(t, "delete", "app/steered")
}
