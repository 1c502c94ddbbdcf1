package controller

import (
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestPodsMoveSurgeFirst: pods that somebody wants moved are replaced, each once
// its replacement is ready, one at a time and without a moment in which fewer
// serve; a move that cannot be done lapses, and the pod stays.
func TestPodsMoveSurgeFirst(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3,"update":{"surge":1,"max_parallel":1,"min_available":2}}`), time.Minute)
		pods := client.Of(w.client, api.Pods)
		asked := map[string]bool{}
		move := func(pod *api.Pod) {
			pod.Status.Move = &api.Move{At: api.Now(), Why: "rebalance"}
			if _, err := pods.PutPart(w.ctx, pod, "move"); err != nil {
				t.Fatal(err)
			}
			asked[pod.Meta.UID] = true
		}
		for _, pod := range w.pods()[:2] {
			move(pod)
		}
		w.eventually("both have moved", 2*time.Minute, func() bool {
			if n := w.readyPods(""); n < 3 {
				t.Errorf("%d serve", n)
			}
			all := w.pods()
			if len(all) > 4 {
				t.Errorf("%d pods: more than surge", len(all))
			}
			for _, pod := range all {
				if asked[pod.Meta.UID] {
					return false
				}
			}
			return len(all) == 3
		})
		nodes := client.Of(w.client, api.Nodes)
		all, _, err := nodes.List(w.ctx, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			n.Spec.Cordoned = true
			if _, err := nodes.Put(w.ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		stays := w.pods()[0]
		move(stays)
		time.Sleep(api.MoveLapses + time.Minute)
		w.eventually("there are three pods again, that one too", time.Minute, func() bool {
			there := false
			for _, pod := range w.pods() {
				there = there || pod.Meta.UID == stays.Meta.UID && !pod.Meta.Deleting()
			}
			return there && len(w.pods()) == 3 && w.readyPods("") == 3
		})
	})
}
