package scheduler

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// inWorld runs the real scheduler over the real API in virtual time; wrap, if
// any, comes between the two.
func inWorld(t *testing.T, wrap func(http.Handler) http.Handler, f func(ctx context.Context, c *client.Client)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server, err := apiserver.Open(ctx, apiserver.Config{})
		if err != nil {
			t.Fatal(err)
		}
		var wg, api sync.WaitGroup
		behind, stop := context.WithCancel(context.WithoutCancel(ctx))
		api.Go(func() { server.Run(behind) })
		h := server.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "scheduler"})
		c := client.InProcess(h)
		if wrap != nil {
			h = wrap(h)
		}
		mine := client.InProcess(h)
		caches := reconcile.NewCaches(mine, hclog.NewNullLogger())
		wg.Go(func() { caches.Run(ctx) })
		wg.Go(func() { Run(ctx, Config{Client: mine, Caches: caches, Log: hclog.NewNullLogger()}) })
		f(ctx, c)
		cancel()
		wg.Wait()
		stop()
		api.Wait()
		server.Close()
	})
}

func addNode(t *testing.T, ctx context.Context, c *client.Client, name, cpu string) {
	t.Helper()
	nodes := client.Of(c, api.Nodes)
	n, err := nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: name}})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Allocatable = api.Resources{CPU: api.CPU(cpu), Memory: "64Gi", Pods: 200}
	if _, err = nodes.PutStatus(ctx, n); err != nil {
		t.Fatal(err)
	}
	n.Status.Health = api.NodeHealth{Verdict: api.VerdictReady}
	if _, err = nodes.PutPart(ctx, n, "health"); err != nil {
		t.Fatal(err)
	}
}

func addPod(t *testing.T, ctx context.Context, c *client.Client, name, cpu string) {
	t.Helper()
	pod := testPod(name, "web", cpu, "64Mi", nil)
	pod.Meta.UID, pod.Spec.Image = "", "nginx:1"
	if _, err := client.Of(c, api.Pods).Create(ctx, pod); err != nil {
		t.Fatal(err)
	}
}

func listPods(t *testing.T, ctx context.Context, c *client.Client) []*api.Pod {
	t.Helper()
	synctest.Wait()
	pods, _, err := client.Of(c, api.Pods).List(ctx, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

func TestWaitsAndWakes(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, c *client.Client) {
		addPod(t, ctx, c, "web-0", "600m")
		addPod(t, ctx, c, "web-1", "600m")
		if p := listPods(t, ctx, c)[0]; p.Status.Reason != api.Unschedulable || p.Status.Message != "no node fits: the cluster has no nodes; join one" {
			t.Fatalf("%+v", p.Status)
		}
		addNode(t, ctx, c, "w1", "1")
		pods := listPods(t, ctx, c)
		if pods[0].Spec.Node != "w1" || pods[1].Spec.Node != "" {
			t.Fatalf("on %q and %q", pods[0].Spec.Node, pods[1].Spec.Node)
		}
		time.Sleep(oftenest)
		if p := listPods(t, ctx, c)[1]; p.Status.Message != "no node fits: 1 needs 600m cpu and has 400m free" {
			t.Fatalf("%+v", p.Status)
		}
		revision := listPods(t, ctx, c)[1].Meta.Revision
		time.Sleep(time.Hour)
		if got := listPods(t, ctx, c)[1].Meta.Revision; got != revision {
			t.Error("writes a reason that has not changed")
		}
		first := listPods(t, ctx, c)[0]
		first.Status.Phase = api.PhaseFailed // room becomes free
		if _, err := client.Of(c, api.Pods).PutStatus(ctx, first); err != nil {
			t.Fatal(err)
		}
		if p := listPods(t, ctx, c)[1]; p.Spec.Node != "w1" {
			t.Fatalf("%+v", p)
		}
	})
}

// TestFailedElsewhere: the pod after one that failed goes to another node, though
// the first is the better one, until that is long ago.
func TestFailedElsewhere(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, c *client.Client) {
		addNode(t, ctx, c, "w1", "8")
		addNode(t, ctx, c, "w2", "2")
		pods := client.Of(c, api.Pods)
		next := func(name string) *api.Pod {
			t.Helper()
			if _, err := pods.Create(ctx, &api.Pod{Meta: api.Meta{Name: name, Namespace: "default"}, Spec: api.PodSpec{App: "web", Revision: "r1",
				PodTemplate: api.PodTemplate{Container: api.Container{Image: "nginx:1", CPU: "100m", Memory: "64Mi"}}}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			p, err := pods.Get(ctx, "default", name)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		first := next("web-1")
		first.Status.Phase = api.PhaseFailed
		if _, err := pods.PutStatus(ctx, first); err != nil {
			t.Fatal(err)
		}
		if p := next("web-2"); first.Spec.Node != "w1" || p.Spec.Node != "w2" {
			t.Fatalf("first on %q, then on %q", first.Spec.Node, p.Spec.Node)
		}
		if err := pods.Delete(ctx, "default", "web-2", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(hurtFor)
		if p := next("web-3"); p.Spec.Node != "w1" {
			t.Fatalf("later on %q", p.Spec.Node)
		}
	})
}

// TestRacesNeverOverCommit: a second scheduler binds behind this one's back,
// answers get lost, and batches fail. No node is ever over its capacity, and
// all that fits is placed in the end.
func TestRacesNeverOverCommit(t *testing.T) {
	var n atomic.Int64
	var behind func(i int64)
	wrap := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/batch" {
				h.ServeHTTP(w, r)
				return
			}
			switch i := n.Add(1); i % 4 {
			case 1:
				behind(i)
				h.ServeHTTP(w, r)
			case 2:
				http.Error(w, "overloaded", http.StatusServiceUnavailable)
			default:
				h.ServeHTTP(w, r)
			}
		})
	}
	inWorld(t, wrap, func(ctx context.Context, c *client.Client) {
		rival := func(i int64) {
			pod := testPod(fmt.Sprintf("rival-%d", i), "rival", "500m", "64Mi", nil)
			pod.Meta.UID, pod.Spec.Image = "", "nginx:1"
			p, err := client.Of(c, api.Pods).Create(ctx, pod)
			if err == nil {
				c.Batch(ctx, []api.BatchWrite{{Bind: &api.Binding{Namespace: p.Meta.Namespace, Pod: p.Meta.Name, UID: p.Meta.UID, Node: "w1"}}})
			}
		}
		behind = rival
		for i := range 5 {
			addNode(t, ctx, c, fmt.Sprintf("w%d", i+1), "2")
		}
		for i := range 40 {
			addPod(t, ctx, c, fmt.Sprintf("web-%d", i), "500m")
			if i%5 == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Minute)
		used, placed := map[string]int64{}, 0
		for _, p := range listPods(t, ctx, c) {
			if p.Spec.Node != "" {
				placed++
				cpu, _ := p.Spec.Requests()
				used[p.Spec.Node] += cpu
			}
		}
		if placed != 20 {
			t.Errorf("%d pods are placed, 20 fit", placed)
		}
		for node, cpu := range used {
			if cpu > 2000 {
				t.Errorf("%s has %dm of 2000m", node, cpu)
			}
		}
	})
}

func TestBindsManyInFewTransactions(t *testing.T) {
	var batches atomic.Int64
	wrap := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/batch" {
				batches.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	}
	inWorld(t, wrap, func(ctx context.Context, c *client.Client) {
		for i := range 400 {
			addPod(t, ctx, c, fmt.Sprintf("web-%d", i), "10m")
		}
		listPods(t, ctx, c)
		for i := range 4 {
			addNode(t, ctx, c, fmt.Sprintf("w%d", i+1), "64")
		}
		time.Sleep(time.Minute)
		for _, p := range listPods(t, ctx, c) {
			if p.Spec.Node == "" {
				t.Fatalf("%s has no node: %s", p.Meta.Name, p.Status.Message)
			}
		}
		if n := batches.Load(); n > 30 {
			t.Errorf("%d transactions for 400 binds", n)
		}
	})
}

// TestPreemption: a pod of a higher priority takes the room of a lower one,
// which is asked to leave and says why; nobody steals the room meanwhile, though
// the one who left is back at once and wants it again.
func TestPreemption(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, c *client.Client) {
		pods := client.Of(c, api.Pods)
		addNode(t, ctx, c, "w1", "1")
		addPod(t, ctx, c, "low-0", "1")
		low := listPods(t, ctx, c)[0]
		if low.Spec.Node != "w1" {
			t.Fatalf("%+v", low)
		}
		high := testPod("high-0", "high", "900m", "64Mi", &api.Placement{Priority: new(80)})
		high.Meta.UID, high.Spec.Image = "", "nginx:1"
		if _, err := pods.Create(ctx, high); err != nil {
			t.Fatal(err)
		}
		addPod(t, ctx, c, "low-1", "800m") // as the app's loop does
		all := listPods(t, ctx, c)
		if !all[1].Meta.Deleting() || all[0].Status.Reason != api.MakingRoom || all[0].Spec.Node != "" {
			t.Fatalf("%+v\n%+v", all[0].Status, all[1])
		}
		time.Sleep(2 * time.Second) // events of one object are written once a second
		ring, err := client.Of(c, api.EventRings).Get(ctx, "default", "pod-low-0")
		if err != nil || ring.Spec.Entries[len(ring.Spec.Entries)-1].Reason != "preempted" {
			t.Errorf("%v %+v", err, ring)
		}
		if err := pods.Finalize(ctx, "default", "low-0", low.Meta.UID); err != nil { // it has stopped
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		all = listPods(t, ctx, c)
		if all[0].Spec.Node != "w1" || all[1].Spec.Node != "" {
			t.Fatalf("high on %q, low on %q", all[0].Spec.Node, all[1].Spec.Node)
		}
	})
}

// TestWokenOnlyByWhatHelps: a pod that waits for a label is not looked at again
// because room became free, and one that waits for another app is once that came.
func TestWokenOnlyByWhatHelps(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, c *client.Client) {
		pods := client.Of(c, api.Pods)
		addNode(t, ctx, c, "w1", "1")
		synctest.Wait() // it is seen to be ready, and not only to join
		near := testPod("near", "near", "100m", "64Mi", &api.Placement{Affinity: map[string]string{"web": "node"}})
		near.Meta.UID, near.Spec.Image = "", "nginx:1"
		if _, err := pods.Create(ctx, near); err != nil {
			t.Fatal(err)
		}
		if p := listPods(t, ctx, c)[0]; p.Status.Message != "no node fits: 1 has no pod of app web (affinity)" {
			t.Fatalf("%+v", p.Status)
		}
		addPod(t, ctx, c, "web-0", "100m")
		if p := listPods(t, ctx, c)[0]; p.Spec.Node != "w1" {
			t.Fatalf("%+v", p)
		}
	})
	l := &loop{wake: make(chan struct{}, 1), picture: newPicture(), waiting: newBacklog()}
	for name, need := range map[string]needs{"label": needNode, "room": needRoom | needNode, "app": needPods | needNode} {
		w := newCandidate(testPod(name, "web", "1m", "1Mi", nil))
		w.parked = need
		l.waiting.put(w)
	}
	l.awaken(needRoom)
	if l.waiting.all["uid-label"].parked == 0 || l.waiting.all["uid-room"].parked != 0 || l.waiting.all["uid-app"].parked == 0 {
		t.Errorf("%+v", l.waiting.all)
	}
	l.awaken(needNode)
	if l.waiting.all["uid-label"].parked != 0 || l.waiting.all["uid-app"].parked != 0 {
		t.Errorf("%+v", l.waiting.all)
	}
}
