package apiserver

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// mover moves these pods, and one that is gone meanwhile.
type mover struct {
	room
	pods []*api.Pod
}

func (m *mover) Rebalance(_ context.Context, movable func(*api.Pod) bool) (*api.Rebalance, error) {
	p := &api.Rebalance{Moves: []api.PodMove{{Namespace: "default", Pod: "gone-1", UID: "gone"}}}
	for _, pod := range m.pods {
		if movable(pod) {
			p.Moves = append(p.Moves, api.PodMove{Namespace: pod.Meta.Namespace, Pod: pod.Meta.Name, UID: pod.Meta.UID})
		}
	}
	return p, nil
}

// TestRebalanceMarksPods: a plan marks nothing; what is carried out marks the
// pods of settled apps of the namespace, once, and an agent's status leaves the
// mark where it is.
func TestRebalanceMarksPods(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		apps, pods := client.Of(c, api.Apps), client.Of(c, api.Pods)
		m := &mover{}
		s.cfg.Planner = m
		for _, name := range []string{"web", "new"} {
			a := must(apps.Create(t.Context(), newApp(name)))(t)
			a.Status.ObservedGeneration, a.Status.Rollout.Phase = a.Meta.Generation, api.RolloutComplete
			if name == "new" {
				a.Status.Rollout.Phase = api.RolloutInProgress
			}
			must(apps.PutStatus(t.Context(), a))(t)
			pod := makePod(t, c, name+"-1", "100m", "64Mi")
			pod.Spec.App = name
			m.pods = append(m.pods, must(pods.Put(t.Context(), pod))(t))
		}
		ask := func(query url.Values) (p api.Rebalance) {
			t.Helper()
			if err := c.Call(t.Context(), http.MethodPost, "/v1/rebalance", query, nil, &p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		marked := func(name string) bool { return must(pods.Get(t.Context(), "default", name))(t).Status.Move != nil }
		if p := ask(url.Values{"dry_run": {"true"}}); len(p.Moves) != 2 || marked("web-1") {
			t.Errorf("%+v", p)
		}
		if p := ask(url.Values{"namespace": {"shop"}}); len(p.Moves) != 1 || marked("web-1") {
			t.Errorf("another namespace: %+v", p)
		}
		if p := ask(nil); len(p.Moves) != 2 || !marked("web-1") || marked("new-1") {
			t.Errorf("%+v", p)
		}
		pod := must(pods.Get(t.Context(), "default", "web-1"))(t)
		pod.Status.Phase, pod.Status.Move = api.PhaseRunning, nil
		must(pods.PutStatus(t.Context(), pod))(t)
		if !marked("web-1") {
			t.Error("an agent's status took the mark away")
		}
		m.pods[0] = must(pods.Get(t.Context(), "default", "web-1"))(t)
		if p := ask(nil); len(p.Moves) != 1 {
			t.Errorf("it moves twice: %+v", p)
		}
		makeNode(t, c, "w1", "1", "1Gi")
		node := client.InProcess(s.InProcess(Identity{RoleNode, "w1"}))
		wantCode(t, node.Call(t.Context(), http.MethodPost, "/v1/rebalance", nil, nil, nil), api.Denied)
	})
}
