package apiserver

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func makeNamespace(t *testing.T, c *client.Client, name string, spec api.NamespaceSpec) {
	t.Helper()
	must(client.Of(c, api.Namespaces).Put(t.Context(), &api.Namespace{Meta: api.Meta{Name: name}, Spec: spec}))(t)
}

func appOf(ns, name string, replicas int, cpu api.CPU) *api.App {
	return &api.App{Meta: api.Meta{Name: name, Namespace: ns}, Spec: api.AppSpec{Replicas: &replicas, Container: api.Container{Image: "nginx:1", CPU: cpu}}}
}

// messages returns the places an error speaks of, and what it says there.
func messages(err error) map[string]string {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return nil
	}
	out := map[string]string{}
	for _, f := range e.Fields {
		out[f.Path] = f.Message
	}
	return out
}

func TestQuotaRefusesGrowth(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps, jobs := t.Context(), client.Of(c, api.Apps), client.Of(c, api.Jobs)
		makeNamespace(t, c, "shop", api.NamespaceSpec{Quota: &api.Quota{CPU: "4", Replicas: new(10)}})
		must(apps.Create(ctx, appOf("shop", "web", 7, "400m")))(t)
		_, err := apps.Create(ctx, appOf("shop", "api", 5, "500m"))
		wantCode(t, err, api.Conflict)
		fields := messages(err)
		const want = "5 pods of 500m cpu are 2.5; namespace shop has 1.2 of 4 cpu left: ask for less, or have its quota.cpu raised"
		// Two reasons at the same place: the message of each is there.
		if e, _ := errors.AsType[*api.Error](err); len(e.Fields) != 2 || e.Fields[0].Path != "spec.replicas" || e.Fields[0].Message != want ||
			!strings.HasPrefix(fields["spec.replicas"], "wants 5 pods; namespace shop has 3 of 10 pods left") {
			t.Errorf("%v", err)
		}
		must(apps.Create(ctx, appOf("shop", "api", 2, "500m")))(t)
		job := &api.Job{Meta: api.Meta{Name: "mend", Namespace: "shop"}, Spec: api.JobSpec{Completions: new(8), Parallelism: new(2)}}
		job.Spec.Image = "mend:1"
		_, err = jobs.Create(ctx, job)
		if f := messages(err); !strings.HasPrefix(f["spec.parallelism"], "wants 2 pods") {
			t.Errorf("%v", err)
		}
		job.Spec.Parallelism = new(1)
		must(jobs.Create(ctx, job))(t)

		// A quota below what is used refuses only what grows.
		makeNamespace(t, c, "shop", api.NamespaceSpec{Quota: &api.Quota{CPU: "1", Replicas: new(3)}})
		web := appOf("shop", "web", 7, "400m")
		web.Spec.Env = map[string]string{"A": "1"}
		must(apps.Put(ctx, web))(t)
		must(apps.Put(ctx, appOf("shop", "web", 6, "400m")))(t)
		_, err = apps.Put(ctx, appOf("shop", "web", 7, "100m")) // more pods of less cpu
		if f := messages(err); len(f) != 1 || !strings.HasPrefix(f["spec.replicas"], "wants 7 pods") {
			t.Errorf("%v", err)
		}
		// Other namespaces do not count, nor does one without a quota.
		must(apps.Create(ctx, appOf("default", "web", 5000, "1")))(t)

		// A batch that fits one by one, but not together.
		makeNamespace(t, c, "tiny", api.NamespaceSpec{Quota: &api.Quota{Replicas: new(3)}})
		a, b := appOf("tiny", "a", 2, ""), appOf("tiny", "b", 2, "")
		a.Kind, b.Kind = "App", "App"
		_, err = c.Batch(ctx, []api.BatchWrite{{Create: marshal(a)}, {Create: marshal(b)}})
		if f := messages(err); !strings.HasPrefix(f["writes[1].spec.replicas"], "wants 2 pods; namespace tiny has 1 of 3 pods left") {
			t.Errorf("%v", err)
		}
	})
}

// TestQuotaOfElasticPods: what may be more than it declares is charged as it is made.
func TestQuotaOfElasticPods(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, pods := t.Context(), client.Of(c, api.Pods)
		makeNamespace(t, c, "shop", api.NamespaceSpec{Quota: &api.Quota{Replicas: new(2)}})
		agent := &api.App{Meta: api.Meta{Name: "agent", Namespace: "shop"}, Spec: api.AppSpec{PerNode: new(true), Container: api.Container{Image: "a:1"}}}
		must(client.Of(c, api.Apps).Create(ctx, agent))(t)
		pod := func(name string) *api.Pod {
			p := &api.Pod{Meta: api.Meta{Name: name, Namespace: "shop"}, Spec: api.PodSpec{App: "agent"}}
			p.Spec.Container = api.Container{Image: "a:1", CPU: "100m", Memory: "64Mi"}
			return p
		}
		first := must(pods.Create(ctx, pod("agent-0")))(t)
		must(pods.Create(ctx, pod("agent-1")))(t)
		_, err := pods.Create(ctx, pod("agent-2"))
		if f := messages(err); !api.Is(err, api.Conflict) || !strings.HasPrefix(f[api.QuotaPath], "wants 3 pods; namespace shop has 2 of 2 pods left") {
			t.Errorf("%v", err)
		}
		_, err = client.Of(c, api.Apps).Create(ctx, appOf("shop", "web", 1, ""))
		wantCode(t, err, api.Conflict)
		first.Status.Phase = api.PhaseFailed // it gives its place back
		must(pods.PutStatus(ctx, first))(t)
		must(pods.Create(ctx, pod("agent-2")))(t)
	})
}

// TestRacingWritersNeverExceedQuota: many clients that each see room for
// themselves. P6.
func TestRacingWritersNeverExceedQuota(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNamespace(t, c, "shop", api.NamespaceSpec{Quota: &api.Quota{CPU: "5", Replicas: new(20)}})
		makeNamespace(t, c, "bank", api.NamespaceSpec{Quota: &api.Quota{CPU: "5"}})
		var all sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for writer := range 12 {
			all.Go(func() {
				apps := client.Of(client.InProcess(s.InProcess(system)), api.Apps)
				for n := range 6 {
					_, err := apps.Put(t.Context(), appOf("shop", fmt.Sprintf("app-%d", (writer+n)%15), 1+(writer*n)%4, "250m"))
					mu.Lock()
					if api.Is(err, api.Conflict) {
						refused++
					} else if err != nil {
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		sum := func(ns string) (c2 api.Charge) {
			apps, _, err := client.Of(c, api.Apps).List(t.Context(), ns, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range apps {
				c2 = c2.Plus(a.Effective.Charge())
			}
			return c2
		}
		if got := sum("shop"); got.CPU > 5000 || got.Replicas > 20 || got.Replicas < 10 || refused == 0 {
			t.Errorf("%+v of 5 cpu and 20 pods, %d were refused", got, refused)
		}
		// What one team asks for takes nothing from the other.
		must(client.Of(c, api.Apps).Create(t.Context(), appOf("bank", "web", 20, "250m")))(t)
	})
}

// TestQuotaChargesWhatIsThere: after any writes and deletions, what a
// namespace has left is its quota less the sum of what is there.
func TestQuotaChargesWhatIsThere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		wrong := ""
		bubble(t, func(t *testing.T, s *Server, c *client.Client) {
			const quota = 12
			makeNamespace(t, c, "shop", api.NamespaceSpec{Quota: &api.Quota{Replicas: new(quota)}})
			apps, have := client.Of(c, api.Apps), map[string]int{}
			for range rapid.IntRange(1, 15).Draw(rt, "steps") {
				name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
				n := rapid.IntRange(-1, 8).Draw(rt, "replicas")
				others := 0
				for at, m := range have {
					if at != name {
						others += m
					}
				}
				if n < 0 {
					if _, there := have[name]; !there {
						continue
					}
					a := must(apps.Get(t.Context(), "shop", name))(t)
					if err := errors.Join(apps.Delete(t.Context(), "shop", name, ""), apps.Finalize(t.Context(), "shop", name, a.Meta.UID)); err != nil {
						t.Fatal(err)
					}
					delete(have, name)
					continue
				}
				_, err := apps.Put(t.Context(), appOf("shop", name, n, ""))
				if fits := n <= have[name] || others+n <= quota; fits != (err == nil) {
					wrong = fmt.Sprintf("%s wants %d beside %v: %v", name, n, have, err)
					return
				}
				if err == nil {
					have[name] = n
				}
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// TestNamespaceDefaults become real when an app is written, and change none
// that was.
func TestNamespaceDefaults(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		makeNamespace(t, c, "shop", api.NamespaceSpec{Defaults: &api.Defaults{CPU: "250m", Memory: "96Mi"}})
		a := appOf("shop", "web", 1, "")
		a.Spec.Sidecars = map[string]api.Container{"log": {Image: "l:1", Memory: "32Mi"}}
		got := must(apps.Create(ctx, a))(t)
		if e := got.Effective; e.CPU != "250m" || e.Memory != "96Mi" || e.Limits.Memory != "96Mi" || e.Sidecars["log"].CPU != "250m" || e.Sidecars["log"].Memory != "32Mi" {
			t.Errorf("%+v", e)
		}
		if got.Spec.CPU != "" || got.Spec.Sidecars["log"].CPU != "" {
			t.Errorf("spec is not what was declared: %+v", got.Spec)
		}
		makeNamespace(t, c, "shop", api.NamespaceSpec{Defaults: &api.Defaults{CPU: "1"}})
		if got := must(apps.Get(ctx, "shop", "web"))(t); got.Effective.CPU != "250m" {
			t.Error("an app that was written changed")
		}
	})
}

// TestDeletionProtection: what is protected is not deleted before it is not.
func TestDeletionProtection(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		a := newApp("web")
		a.Spec.DeletionProtection = new(true)
		must(apps.Create(ctx, a))(t)
		err := apps.Delete(ctx, "default", "web", "")
		if f := messages(err); !api.Is(err, api.Conflict) || f["spec.deletion_protection"] == "" {
			t.Errorf("%v", err)
		}
		a.Spec.DeletionProtection = nil
		must(apps.Put(ctx, a))(t)
		if err := apps.Delete(ctx, "default", "web", ""); err != nil {
			t.Error(err)
		}
	})
}
