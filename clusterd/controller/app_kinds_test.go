package controller

import (
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// intend writes what a user asks of an app's rollouts.
func (w *world) intend(name string, change func(*api.App, *api.Intent)) {
	w.t.Helper()
	a := w.app(name)
	change(a, &a.Status.Intent)
	if _, err := client.Of(w.client, api.Apps).PutPart(w.ctx, a, "intent"); err != nil {
		w.t.Fatal(err)
	}
}

// edit changes a node's spec.
func (w *world) edit(name string, change func(*api.Node)) {
	w.t.Helper()
	nodes := client.Of(w.client, api.Nodes)
	n, err := nodes.GetDeclared(w.ctx, "", name)
	if err != nil {
		w.t.Fatal(err)
	}
	node := &api.Node{Meta: n.Meta}
	change(node)
	if _, err := nodes.Put(w.ctx, node); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) onNodes(image string) map[string]int {
	on := map[string]int{}
	for _, p := range w.pods() {
		if p.Status.Ready && !p.Meta.Deleting() && (image == "" || p.Spec.Image == image) {
			on[p.Spec.Node]++
		}
	}
	return on
}

func TestCanaryHoldsPromotesAborts(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		spec := func(image string) string {
			return `{"image":"` + image + `","replicas":3,"update":{"canary":1,"deadline":"1m"}}`
		}
		w.ended("web", w.apply("web", spec("good:1")), 20*time.Second)
		held := func() bool { return !w.app("web").Status.Rollout.HeldSince.IsZero() }

		g2 := w.apply("web", spec("good:2"))
		w.eventually("canary is held", 20*time.Second, held)
		for range 600 { // far beyond the deadline
			if n := w.readyPods(""); n != 4 {
				t.Fatalf("%d pods serve while a canary of 1 is beside 3", n)
			}
			time.Sleep(time.Second)
		}
		revision := w.app("web").Meta.Revision
		time.Sleep(10 * time.Minute)
		if a := w.app("web"); a.Meta.Revision != revision || a.Status.Rollout.Phase != api.RolloutInProgress {
			t.Fatalf("a held canary writes: revision %d after %d, %+v", a.Meta.Revision, revision, a.Status.Rollout)
		}
		w.intend("web", func(a *api.App, in *api.Intent) { in.Promote = a.Status.Rollout.Number })
		if ro := w.ended("web", g2, 2*time.Minute); ro.Phase != api.RolloutComplete || w.readyPods(ro.Revision) != 3 {
			t.Fatalf("promoted: %+v", ro)
		}

		g3 := w.apply("web", spec("good:3"))
		w.eventually("canary is held", 20*time.Second, held)
		w.intend("web", func(a *api.App, in *api.Intent) { in.Abort = a.Status.Rollout.Number })
		if ro := w.ended("web", g3, 10*time.Second); ro.Phase != api.RolloutRolledBack || ro.Cause.Reason != api.Aborted {
			t.Fatalf("aborted: %+v", ro)
		}
		if ro := w.ended("web", g3+1, time.Minute); ro.Phase != api.RolloutComplete || !ro.IsRollback() {
			t.Fatalf("after the abort: %+v", ro)
		}
		w.eventually("the old pods alone", 10*time.Second, func() bool { return len(w.pods()) == 3 && w.onNodes("good:3") != nil && len(w.onNodes("good:2")) == 3 })

		g5 := w.apply("web", spec("bad:1"))
		if ro := w.ended("web", g5, 20*time.Second); ro.Phase != api.RolloutRolledBack || ro.Cause.Reason != "crash_loop" {
			t.Fatalf("bad canary: %+v", ro)
		}
	})
}

func TestCanaryPromotesItself(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		spec := func(image string) string {
			return `{"image":"` + image + `","replicas":3,"update":{"canary":2,"auto_promote":"2m"}}`
		}
		w.ended("web", w.apply("web", spec("good:1")), 20*time.Second)
		g := w.apply("web", spec("good:2"))
		w.eventually("canary is held", 20*time.Second, func() bool { return !w.app("web").Status.Rollout.HeldSince.IsZero() })
		if n := w.readyPods(""); n != 5 {
			t.Errorf("%d pods serve", n)
		}
		time.Sleep(110 * time.Second)
		if ro := w.app("web").Status.Rollout; ro.Promoted {
			t.Fatal("promoted too early")
		}
		if ro := w.ended("web", g, time.Minute); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
	})
}

func TestRecreateNeverRunsTwoRevisions(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		spec := func(image string) string {
			return `{"image":"` + image + `","replicas":3,"update":{"strategy":"recreate"}}`
		}
		w.ended("web", w.apply("web", spec("good:1")), 20*time.Second)
		check := func(generation int64) *api.Rollout {
			var ro *api.Rollout
			w.eventually("end", time.Minute, func() bool {
				images := map[string]bool{}
				for _, p := range w.pods() {
					if !p.Status.Phase.Ended() {
						images[p.Spec.Image] = true
					}
				}
				if len(images) > 1 {
					t.Fatalf("both revisions exist: %v", images)
				}
				ro = w.app("web").Status.RolloutOf(generation)
				return ro != nil && ro.Phase.Terminal()
			})
			return ro
		}
		if ro := check(w.apply("web", spec("good:2"))); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
		g := w.apply("web", spec("bad:1"))
		if ro := check(g); ro.Phase != api.RolloutRolledBack {
			t.Fatalf("%+v", ro)
		}
		if ro := check(g + 1); ro.Phase != api.RolloutComplete || w.readyPods(ro.Revision) != 3 {
			t.Fatalf("%+v", ro)
		}
	})
}

func TestOnePodPerNode(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		spec := func(image string) string {
			return `{"image":"` + image + `","per_node":true,"placement":{"require":{"pool":"a|b"}}}`
		}
		pool := func(n *api.Node) { n.Meta.Labels = map[string]string{"pool": "a"} }
		w.edit("w1", pool)
		w.edit("w2", pool)
		ro := w.ended("log", w.apply("log", spec("good:1")), 20*time.Second)
		if on := w.onNodes(""); ro.Phase != api.RolloutComplete || len(on) != 2 || on["w1"] != 1 || on["w2"] != 1 {
			t.Fatalf("%+v on %v", ro, on)
		}
		if a := w.app("log"); a.Status.Desired != 2 {
			t.Errorf("desired %d", a.Status.Desired)
		}
		var lowest = 2
		g := w.apply("log", spec("good:2"))
		w.eventually("update", 2*time.Minute, func() bool {
			lowest = min(lowest, w.readyPods(""))
			ro = w.app("log").Status.RolloutOf(g)
			return ro != nil && ro.Phase.Terminal()
		})
		if ro.Phase != api.RolloutComplete || lowest != 1 || len(w.onNodes("good:2")) != 2 {
			t.Fatalf("%+v, lowest %d", ro, lowest)
		}

		w.edit("w1", func(n *api.Node) { n.Spec.Cordoned = true })
		w.edit("w3", pool)
		w.eventually("the new node has one, the cordoned one keeps it", 20*time.Second, func() bool { return len(w.onNodes("good:2")) == 3 })
		w.edit("w2", func(n *api.Node) { n.Spec.Taints = map[string]string{"dedicated": "shop:no_execute"} })
		w.eventually("the tainted node has none", 20*time.Second, func() bool { on := w.onNodes(""); return len(on) == 2 && on["w2"] == 0 })
		if a := w.app("log"); a.Status.Desired != 2 || a.Meta.Generation != g {
			t.Errorf("desired %d, generation %d", a.Status.Desired, a.Meta.Generation)
		}
	})
}

// A restart is a rollout of the same generation with a revision of its own,
// and rolls back like any other; once.
func TestRestartRollsOutAndBack(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		g := w.apply("web", `{"image":"good:1","replicas":3}`)
		first := *w.ended("web", g, 20*time.Second)
		w.intend("web", func(_ *api.App, in *api.Intent) { in.Restart = api.Now() })
		var ro *api.Rollout
		w.eventually("restarted", 2*time.Minute, func() bool {
			ro = w.app("web").Status.RolloutOf(g)
			return ro.Number == 2 && ro.Phase.Terminal()
		})
		if ro.Phase != api.RolloutComplete || ro.Revision == first.Revision || w.readyPods(ro.Revision) != 3 || ro.Reason != "restart" {
			t.Fatalf("%+v", ro)
		}
		healthy := *ro
		for _, m := range w.machine {
			m.fails("good")
		}
		w.intend("web", func(_ *api.App, in *api.Intent) { in.Restart = api.Now() })
		w.eventually("rolled back", 2*time.Minute, func() bool {
			ro = &w.app("web").Status.Rollout
			return ro.Number == 4 && ro.Phase.Terminal()
		})
		a := w.app("web")
		if ro.Phase != api.RolloutComplete || ro.Revision != healthy.Revision || ro.Reason != api.RollbackOf(g) || a.Meta.Generation != g {
			t.Fatalf("%+v at generation %d", ro, a.Meta.Generation)
		}
		if how := a.Status.RolloutOf(g); how.Phase != api.RolloutRolledBack || how.Cause == nil {
			t.Fatalf("who waits for generation %d is told %+v", g, how)
		}
		time.Sleep(time.Hour)
		if now := w.app("web"); now.Status.Rollout.Number != 4 || w.readyPods(healthy.Revision) != 3 {
			t.Fatalf("it goes on: %+v", now.Status.Rollout)
		}
	})
}

func TestDrainReplacesBeforeItStops(t *testing.T) {
	for name, surge := range map[string]string{"surge": "1", "without": "0"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, nil, func(w *world) {
				w.ended("web", w.apply("web", `{"image":"good:1","update":{"surge":`+surge+`}}`), 20*time.Second)
				node := w.pods()[0].Spec.Node
				w.edit(node, func(n *api.Node) { n.Spec.Drain = &api.Drain{Deadline: "10m"} })
				w.eventually("it runs elsewhere", 30*time.Second, func() bool {
					if n := w.readyPods(""); n < 1 {
						t.Fatal("nobody serves")
					}
					pods := w.pods()
					return len(pods) == 1 && pods[0].Spec.Node != node
				})
				if ro := w.app("web").Status.Rollout; ro.Number != 1 || ro.Phase != api.RolloutComplete {
					t.Errorf("a drain is no rollout: %+v", ro)
				}
			})
		})
	}
}

// Where no other node takes the pod, it stays until the drain's deadline.
func TestDrainWaitsUntilItsDeadline(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1"}`), 20*time.Second)
		w.edit("w1", func(n *api.Node) { n.Spec.Drain = &api.Drain{Deadline: "5m"} })
		start := time.Now()
		for time.Since(start) < 5*time.Minute-time.Second {
			if w.readyPods("") != 1 {
				t.Fatalf("stopped after %s", time.Since(start))
			}
			time.Sleep(time.Second)
		}
		w.eventually("stopped all the same", 10*time.Second, func() bool { return w.readyPods("") == 0 })
	})
}

func TestFailureBudget(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 20*time.Second)
		w.machine["w1"].fails("good")
		spec := `{"image":"good:2","replicas":3,"update":{"failure_budget":2}}`
		g := w.apply("web", spec)
		ro := w.ended("web", g, 5*time.Minute)
		if ro.Phase != api.RolloutRolledBack && ro.Failed == 0 {
			t.Fatalf("nothing was tried again: %+v", ro)
		}
		if ro.Phase == api.RolloutRolledBack && ro.Failed != 2 {
			t.Fatalf("%+v", ro)
		}
	})
}
