package controller

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/golden"
)

func TestPlanDrainGolden(t *testing.T) {
	golden.Plans(t, "testdata/drain", func(t *testing.T, parts map[string][]byte) string {
		var given struct {
			Deadline, Started api.Duration
			Pods              []struct {
				Name, App, Job, Node, Message string
				Phase                         api.Phase
				Ready, Deleting               bool
			}
		}
		if err := json.Unmarshal(parts["given"], &given); err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
		n := &api.Node{Meta: api.Meta{Name: "w1"}}
		if given.Deadline != "" {
			n.Effective.Drain = &api.Drain{Deadline: given.Deadline}
		}
		n.Status.Drain = &api.DrainStatus{Phase: api.DrainRunning, StartedAt: now.Add(-given.Started.D())}
		var all, here []*api.Pod
		for _, g := range given.Pods {
			pod := &api.Pod{Meta: api.Meta{Namespace: "shop", Name: g.Name, UID: g.Name}}
			pod.Spec.App, pod.Spec.Job, pod.Spec.Node = g.App, g.Job, g.Node
			pod.Status.Phase, pod.Status.Ready, pod.Status.Message = g.Phase, g.Ready, g.Message
			if g.Deleting {
				pod.Meta.DeletedAt = &now
			}
			all = append(all, pod)
			if g.Node == "w1" {
				here = append(here, pod)
			}
		}
		mates := func(pod *api.Pod) []*api.Pod {
			return slices.DeleteFunc(slices.Clone(all), func(o *api.Pod) bool { return o.Spec.App != pod.Spec.App })
		}
		return planDrain(n, here, mates, now).String()
	})
}

// TestDrainEndsAtItsDeadline: a pod that nobody replaces is waited for until the
// deadline, then stopped; the drain is over once it is gone, and a drain that is
// taken back leaves nothing.
func TestDrainEndsAtItsDeadline(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		nodes, pods := client.Of(w.client, api.Nodes), client.Of(w.client, api.Pods)
		bare := &api.Pod{Meta: api.Meta{Namespace: w.ns, Name: "bare"}}
		bare.Spec.Image, bare.Spec.Placement = "good:1", &api.Placement{Require: map[string]string{"zone": "z1"}}
		system := client.Of(client.InProcess(w.server.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "test"})), api.Pods)
		if _, err := system.Create(w.ctx, bare); err != nil {
			t.Fatal(err)
		}
		w.eventually("the pod runs", time.Minute, func() bool { p, _ := pods.Get(w.ctx, w.ns, "bare"); return p != nil && p.Status.Ready })
		set := func(d *api.Drain) {
			n, err := nodes.Get(w.ctx, "", "w1")
			if err != nil {
				t.Fatal(err)
			}
			n.Spec.Drain = d
			if _, err := nodes.Put(w.ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		drain := func() *api.DrainStatus {
			n, err := nodes.Get(w.ctx, "", "w1")
			if err != nil {
				t.Fatal(err)
			}
			return n.Status.Drain
		}
		set(&api.Drain{Deadline: "1m"})
		w.eventually("the drain waits", 10*time.Second, func() bool {
			d := drain()
			return d != nil && d.Phase == api.DrainRunning && d.Left == 1 && len(d.Waits) == 1
		})
		if took := w.eventually("the drain is over", 2*time.Minute, func() bool { return drain().Phase == api.DrainDone }); took < 50*time.Second {
			t.Errorf("over after %s, the deadline is a minute", took)
		}
		set(nil)
		w.eventually("no trace is left", 10*time.Second, func() bool { return drain() == nil })
	})
}

// TestDrainFollowsTheApps: the drain of a node with an app's only pod says what
// it waits for, and is over once the app has moved, without a moment in which
// nobody serves.
func TestDrainFollowsTheApps(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":1}`), time.Minute)
		on := w.pods()[0].Spec.Node
		nodes := client.Of(w.client, api.Nodes)
		node := func() *api.Node {
			n, err := nodes.Get(w.ctx, "", on)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		n := node()
		n.Spec.Drain = &api.Drain{}
		if _, err := nodes.Put(w.ctx, n); err != nil {
			t.Fatal(err)
		}
		waited := false
		w.eventually("the drain is over", time.Minute, func() bool {
			if w.readyPods("") == 0 {
				t.Error("nobody serves")
			}
			d := node().Status.Drain
			waited = waited || d != nil && d.Phase == api.DrainRunning && len(d.Waits) == 1
			return d != nil && d.Phase == api.DrainDone
		})
		if pods := w.pods(); !waited || len(pods) != 1 || pods[0].Spec.Node == on {
			t.Errorf("said what it waits for: %v; %d pods", waited, len(pods))
		}
	})
}
