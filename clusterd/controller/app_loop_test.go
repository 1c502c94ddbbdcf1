package controller

import (
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func TestLifeOfAnApp(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		g1 := w.apply("web", `{"image":"good:1","replicas":3}`)
		if ro := w.ended("web", g1, 20*time.Second); ro.Phase != api.RolloutComplete {
			t.Fatalf("first rollout: %+v", ro)
		}
		nodes := map[string]int{}
		for _, p := range w.pods() {
			nodes[p.Spec.Node]++
		}
		if len(nodes) != 3 {
			t.Errorf("three replicas are on %v", nodes)
		}

		g2 := w.apply("web", `{"image":"good:2","replicas":3}`)
		var ro *api.Rollout
		w.eventually("update", 2*time.Minute, func() bool {
			if n := w.readyPods(""); n < 3 {
				t.Fatalf("only %d pods serve during an update with surge", n)
			}
			if n := len(w.pods()); n > 4 {
				t.Fatalf("%d pods exist: more than replicas + surge", n)
			}
			ro = w.app("web").Status.RolloutOf(g2)
			return ro != nil && ro.Phase.Terminal()
		})
		if ro.Phase != api.RolloutComplete || w.readyPods(ro.Revision) != 3 {
			t.Fatalf("update: %+v, %d ready", ro, w.readyPods(ro.Revision))
		}

		g3 := w.apply("web", `{"image":"good:2","replicas":5}`)
		if ro := w.ended("web", g3, 10*time.Second); ro.Phase != api.RolloutComplete || ro.Revision != w.app("web").Status.RolloutOf(g2).Revision {
			t.Fatalf("scale: %+v", ro)
		}
		g4 := w.apply("web", `{"image":"good:2","replicas":0}`)
		if ro := w.ended("web", g4, 10*time.Second); ro.Phase != api.RolloutComplete {
			t.Fatalf("scale to zero: %+v", ro)
		}
		w.eventually("no pods", 10*time.Second, func() bool { return len(w.pods()) == 0 })
	})
}

func TestFailedUpdateRollsBack(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		spec := `{"image":"good:1","replicas":3,"env":{"A":"1"}}`
		w.ended("web", w.apply("web", spec), 20*time.Second)
		g2 := w.apply("web", `{"image":"bad:1","replicas":4}`)
		var ro *api.Rollout
		took := w.eventually("rolled back", time.Minute, func() bool {
			if n := w.readyPods(""); n < 3 {
				t.Fatalf("only %d pods serve", n)
			}
			ro = w.app("web").Status.RolloutOf(g2)
			return ro != nil && ro.Phase.Terminal()
		})
		if took > 5*time.Second {
			t.Errorf("a certain cause took %s", took)
		}
		c := ro.Cause
		if ro.Phase != api.RolloutRolledBack || c == nil || c.Reason != "crash_loop" || c.Pod == "" || c.Node == "" || *c.ExitCode != 7 || len(c.Log) != 1 {
			t.Fatalf("rollout %+v cause %+v", ro, c)
		}
		back := w.ended("web", g2+1, 20*time.Second)
		a := w.app("web")
		if back.Phase != api.RolloutComplete || back.Reason != "rollback of generation 2" || a.Meta.Generation != g2+1 {
			t.Fatalf("rollback %+v at generation %d", back, a.Meta.Generation)
		}
		got, err := client.Of(w.client, api.Apps).GetDeclared(w.ctx, w.ns, "web")
		if err != nil || string(got.Spec) != spec {
			t.Fatalf("declared spec is %s (%v), want it verbatim", got.Spec, err)
		}
		w.eventually("only the old pods", 10*time.Second, func() bool { return len(w.pods()) == 3 && w.readyPods(back.Revision) == 3 })
		if !has(w, "App", "web", "rolled_back") {
			t.Error("no event tells of it")
		}
	})
}

func has(w *world, kind, name, reason string) bool {
	time.Sleep(2 * time.Second)
	rings, _, _ := client.Of(w.client, api.EventRings).List(w.ctx, "", nil)
	for _, r := range rings {
		if r.Spec.Subject.Kind == kind && r.Spec.Subject.Name == name {
			for _, e := range r.Spec.Entries {
				if e.Reason == reason {
					return true
				}
			}
		}
	}
	return false
}

func TestFirstRolloutFails(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		ro := w.ended("web", w.apply("web", `{"image":"bad:1","replicas":2}`), 10*time.Second)
		if ro.Phase != api.RolloutFailed || ro.Cause.Reason != "crash_loop" {
			t.Fatalf("%+v", ro)
		}
		time.Sleep(time.Hour)
		if a := w.app("web"); a.Meta.Generation != 1 || a.Status.Rollout.Phase != api.RolloutFailed || len(w.pods()) != 2 {
			t.Fatalf("%d pods, %+v", len(w.pods()), a.Status)
		}
	})
}

func TestPauseOnFailure(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 20*time.Second)
		ro := w.ended("web", w.apply("web", `{"image":"bad:1","replicas":3,"update":{"on_failure":"pause"}}`), 20*time.Second)
		if ro.Phase != api.RolloutPaused {
			t.Fatalf("%+v", ro)
		}
		time.Sleep(10 * time.Minute)
		if w.app("web").Meta.Generation != 2 || w.readyPods("") != 3 {
			t.Fatal("a paused rollout goes on")
		}
		if ro := w.ended("web", w.apply("web", `{"image":"good:2","replicas":3}`), time.Minute); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
	})
}

func TestRollbackOfARollbackNever(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":1}`), 20*time.Second)
		w.ended("web", w.apply("web", `{"image":"good:2","replicas":1,"update":{"surge":0,"deadline":"30s"}}`), 20*time.Second)
		// The healthy revision is lost while the bad one is tried, and what is
		// put back finds no machine: it must end as failed, once.
		g := w.apply("web", `{"image":"never:1","replicas":1,"update":{"surge":0,"deadline":"30s"}}`)
		time.Sleep(20 * time.Second)
		w.machine["w1"].power(false)
		ro := w.ended("web", g, 2*time.Minute)
		if ro.Phase != api.RolloutRolledBack || ro.Cause.Reason != "deadline" {
			t.Fatalf("%+v %+v", ro, ro.Cause)
		}
		back := w.ended("web", g+1, 10*time.Minute)
		if back.Phase != api.RolloutFailed {
			t.Fatalf("%+v", back)
		}
		time.Sleep(time.Hour)
		if w.app("web").Meta.Generation != g+1 {
			t.Fatal("it went on")
		}
	})
}

func TestUnschedulableIsCertain(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2}`), 20*time.Second)
		g := w.apply("web", `{"image":"good:1","replicas":2,"cpu":"3"}`)
		took := w.eventually("end", time.Minute, func() bool {
			if n := w.readyPods(""); n != 2 {
				t.Fatalf("%d pods serve: none should go for a pod that no room helps", n)
			}
			r := w.app("web").Status.RolloutOf(g)
			return r != nil && r.Phase.Terminal()
		})
		ro := w.app("web").Status.RolloutOf(g)
		if ro.Phase != api.RolloutRolledBack || ro.Cause.Reason != "unschedulable" || ro.Cause.Message != "no node fits: 2 need 3 cpu and have 2 at most" {
			t.Fatalf("%+v %+v", ro, ro.Cause)
		}
		if took > 25*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// A node that is full has no room for a surge pod: an old one makes room.
func TestFullClusterStillUpdates(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2,"cpu":"1"}`), 20*time.Second)
		g := w.apply("web", `{"image":"good:2","replicas":2,"cpu":"1"}`)
		lowest := 2
		w.eventually("end", 2*time.Minute, func() bool {
			lowest = min(lowest, w.readyPods(""))
			r := w.app("web").Status.RolloutOf(g)
			return r != nil && r.Phase.Terminal()
		})
		if ro := w.app("web").Status.RolloutOf(g); ro.Phase != api.RolloutComplete || lowest != 1 {
			t.Fatalf("%+v, lowest %d", ro, lowest)
		}
	})
}

func TestSupersede(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 20*time.Second)
		g2 := w.apply("web", `{"image":"never:1","replicas":3}`)
		time.Sleep(5 * time.Second)
		g3 := w.apply("web", `{"image":"good:3","replicas":3}`)
		if ro := w.ended("web", g3, time.Minute); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
		if ro := w.ended("web", g2, time.Second); ro.Phase != api.RolloutSuperseded {
			t.Fatalf("%+v", ro)
		}
	})
}

func TestDeleteAnApp(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2}`), 20*time.Second)
		apps := client.Of(w.client, api.Apps)
		if err := apps.Delete(w.ctx, w.ns, "web", ""); err != nil {
			t.Fatal(err)
		}
		w.eventually("gone", 10*time.Second, func() bool { return w.app("web") == nil })
		if n := len(w.pods()); n != 0 {
			t.Errorf("the app went before %d of its pods", n)
		}
	})
}

// A pod that fails again and again is replaced ever more slowly.
func TestFailingPodsAreReplacedSlowly(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":1}`), 20*time.Second)
		pods := client.Of(w.client, api.Pods)
		seen := map[string]bool{}
		for range 3600 {
			for _, p := range w.pods() {
				if seen[p.Meta.UID] = true; p.Status.Ready {
					p.Status.Phase, p.Status.Ready = api.PhaseFailed, false
					pods.PutStatus(w.ctx, p)
				}
			}
			time.Sleep(time.Second)
		}
		if n := len(seen); n < 10 || n > 25 {
			t.Errorf("%d pods in an hour", n)
		}
		if a := w.app("web"); a.Status.Rollout.Phase != api.RolloutComplete {
			t.Errorf("%+v", a.Status)
		}
	})
}
