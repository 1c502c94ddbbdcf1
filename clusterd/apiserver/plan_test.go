package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// room is a Planner that has a node for so many pods.
type room int

func (n room) Place(_ context.Context, o api.Any, nodes bool) (*api.PlanPlacement, error) {
	wanted := 0
	switch v := o.(type) {
	case *api.App:
		wanted = api.Deref(v.Effective.Replicas)
	case *api.Job:
		wanted = v.Effective.Width()
	}
	p := &api.PlanPlacement{Wanted: wanted, Fits: min(wanted, int(n))}
	if p.Fits < wanted {
		p.Message = "no node fits: 1 needs 2 cpu and has 1 free"
	}
	if nodes {
		p.Nodes = map[string]string{"w1": "is cordoned"}
	}
	return p, nil
}

// Rebalance has nothing to move.
func (room) Rebalance(context.Context, func(*api.Pod) bool) (*api.Rebalance, error) {
	return &api.Rebalance{}, nil
}

func planOf(t *testing.T, c *client.Client, spec string) (p api.WritePlan) {
	t.Helper()
	body := json.RawMessage(`{"spec":` + spec + `}`)
	if err := c.Call(t.Context(), http.MethodPost, client.Path(api.Apps.Info(), "default", "web")+"/plan", nil, body, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPlanSaysWhatAWriteWouldDo: each field of the answer, and nothing is written.
func TestPlanSaysWhatAWriteWouldDo(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.cfg.Planner = room(2)
		apps := client.Of(c, api.Apps)
		p := planOf(t, c, `{"image":"nginx:1","replicas":3}`)
		if len(p.Errors) > 0 || len(p.Changes) != 2 || p.Rolls != nil || p.Placement.Fits != 2 || p.Placement.Wanted != 3 {
			t.Errorf("%+v", p)
		}
		var asked api.WritePlan
		body := json.RawMessage(`{"spec":{"image":"nginx:1"}}`)
		if err := c.Call(t.Context(), http.MethodPost, client.Path(api.Apps.Info(), "default", "web")+"/plan", url.Values{"nodes": {"true"}}, body, &asked); err != nil || asked.Placement.Nodes["w1"] != "is cordoned" || p.Placement.Nodes != nil {
			t.Errorf("%+v %+v (%v)", asked.Placement, p.Placement, err)
		}
		if len(p.Warnings) != 1 || p.Warnings[0].Path != "spec.replicas" || p.Warnings[0].Summary != "2 of 3 pods fit now" {
			t.Errorf("%+v", p.Warnings)
		}
		if _, err := apps.Get(t.Context(), "default", "web"); !api.Is(err, api.NotFound) {
			t.Fatalf("the plan wrote it: %v", err)
		}
		p = planOf(t, c, `{"image":"","replicas":-1,"repicas":2}`)
		if len(p.Errors) == 0 || !slices.ContainsFunc(p.Errors, func(f api.FieldError) bool { return strings.HasPrefix(f.Path, "spec.") }) {
			t.Errorf("%+v", p)
		}
		a := must(apps.Create(t.Context(), newApp("web")))(t)
		a.Status.Replicas = 2
		must(apps.PutStatus(t.Context(), a))(t)
		p = planOf(t, c, `{"image":"nginx:2","update":{"strategy":"recreate"}}`)
		if p.Rolls == nil || p.Rolls.Pods != 2 || !p.Rolls.Outage || len(p.Warnings) != 1 || !strings.HasPrefix(p.Warnings[0].Summary, "2 pods roll: all end before") {
			t.Errorf("%+v %+v", p.Rolls, p.Warnings)
		}
		p = planOf(t, c, `{"image":"nginx:2"}`)
		if p.Rolls == nil || p.Rolls.Outage || len(p.Warnings) != 0 || len(p.Changes) != 1 || p.Changes[0].String() != `~ spec.image = "nginx:1" -> "nginx:2"` {
			t.Errorf("%+v", p)
		}
		if p = planOf(t, c, `{"image":"nginx:1"}`); p.Rolls != nil || p.Changes != nil {
			t.Errorf("%+v", p)
		}
		if err := apps.Delete(t.Context(), "default", "web", ""); err != nil {
			t.Fatal(err)
		}
		p = planOf(t, c, `{"image":"nginx:2"}`)
		if len(p.Errors) > 0 || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0].Message, "is being deleted") {
			t.Errorf("%+v", p)
		}
	})
}

// TestPlanOfAJob: it says whether the job runs, whether a run fits, and what it
// takes of the quota, also where that is too much.
func TestPlanOfAJob(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.cfg.Planner = room(2)
		namespaces := client.Of(c, api.Namespaces)
		ns := must(namespaces.Get(t.Context(), "", "default"))(t)
		ns.Spec.Quota = &api.Quota{CPU: "2", Replicas: new(10)}
		must(namespaces.Put(t.Context(), ns))(t)
		plan := func(spec string) (p api.WritePlan) {
			t.Helper()
			if err := c.Call(t.Context(), http.MethodPost, client.Path(api.Jobs.Info(), "default", "report")+"/plan", nil, json.RawMessage(`{"spec":`+spec+`}`), &p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := plan(`{"image":"report:1","cpu":"500m","completions":3,"parallelism":3}`)
		if !p.Runs || p.Placement == nil || p.Placement.Wanted != 3 || len(p.Warnings) != 1 || p.Warnings[0].Path != "spec.parallelism" {
			t.Errorf("%+v", p)
		}
		if len(p.Quota) != 2 || p.Quota[0].String() != "cpu: 0 -> 1.5 of 2" || p.Quota[1].String() != "replicas: 0 -> 3 of 10" {
			t.Errorf("%+v", p.Quota)
		}
		p = plan(`{"image":"report:1","cpu":"500m","completions":5,"parallelism":5}`)
		if len(p.Errors) > 0 || len(p.Warnings) == 0 || len(p.Quota) != 2 || !p.Quota[0].Exceeded || p.Quota[1].Exceeded {
			t.Errorf("%+v", p)
		}
		if p = plan(`{"image":"report:1","schedule":"0 1 * * *"}`); p.Runs || p.Placement == nil {
			t.Errorf("%+v", p)
		}
	})
}

// TestWhyIsForUsers: an explanation shows what containers wrote, so a node does
// not get it, whatever it is about.
func TestWhyIsForUsers(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		must(client.Of(c, api.Apps).Create(t.Context(), newApp("web")))(t)
		makeNode(t, c, "w1", "1", "1Gi")
		pod := makePod(t, c, "web-1", "100m", "64Mi")
		pod.Spec.App = "web"
		pod = must(client.Of(c, api.Pods).Put(t.Context(), pod))(t)
		pod.Status.Phase, pod.Status.Fatal = api.PhaseRunning, &api.Cause{Reason: "crash_loop", Message: "main exited with code 7 three times", Log: []string{"no such file"}}
		must(client.Of(c, api.Pods).PutStatus(t.Context(), pod))(t)
		if err := c.Record(t.Context(), pod.Ref(), api.Event{Reason: "crash_loop", Message: "it did"}); err != nil {
			t.Fatal(err)
		}
		var x api.Explanation
		for _, k := range []api.Info{api.Apps.Info(), api.Pods.Info()} {
			name := map[string]string{"App": "web", "Pod": "web-1"}[k.Name]
			path := client.Path(k, "default", name) + "/why"
			if err := c.Call(t.Context(), http.MethodGet, path, nil, nil, &x); err != nil {
				t.Fatal(err)
			}
			if x.State == api.StateHealthy || len(x.Causes) != 1 || x.Causes[0].Log[0] != "no such file" || x.Causes[0].WayOut == "" {
				t.Errorf("%+v", x)
			}
			node := client.InProcess(s.InProcess(Identity{RoleNode, "w1"}))
			wantCode(t, node.Call(t.Context(), http.MethodGet, path, nil, nil, &x), api.Denied)
		}
		wantCode(t, c.Call(t.Context(), http.MethodGet, client.Path(api.Apps.Info(), "default", "nope")+"/why", nil, nil, &x), api.NotFound)
	})
}
