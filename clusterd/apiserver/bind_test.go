package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func makeNode(t *testing.T, c *client.Client, name string, cpu api.CPU, memory api.Memory) *api.Node {
	t.Helper()
	nodes := client.Of(c, api.Nodes)
	n := must(nodes.Create(t.Context(), &api.Node{Meta: api.Meta{Name: name}}))(t)
	n.Status.Allocatable = api.Resources{CPU: cpu, Memory: memory, Pods: 100}
	return must(nodes.PutStatus(t.Context(), n))(t)
}

func makePod(t *testing.T, c *client.Client, name string, cpu api.CPU, memory api.Memory) *api.Pod {
	t.Helper()
	p := &api.Pod{Meta: api.Meta{Namespace: "default", Name: name}}
	p.Spec.Container = api.Container{Image: "nginx:1", CPU: cpu, Memory: memory}
	return must(client.Of(c, api.Pods).Create(t.Context(), p))(t)
}

func bindPod(t *testing.T, c *client.Client, pod, node string) {
	t.Helper()
	if err := tryBind(t, c, pod, node); err != nil {
		t.Fatal(err)
	}
}

func tryBind(t *testing.T, c *client.Client, pod, node string) error {
	_, err := c.Batch(t.Context(), []api.BatchWrite{{Bind: &api.Binding{Namespace: "default", Pod: pod, Node: node}}})
	return err
}

func TestBindOnceAndOnlyWhatFits(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx := t.Context()
		makeNode(t, c, "w1", "1", "1Gi")
		makeNode(t, c, "w2", "1", "1Gi")
		makePod(t, c, "a", "600m", "64Mi")
		makePod(t, c, "b", "600m", "64Mi")
		bindPod(t, c, "a", "w1")
		bindPod(t, c, "a", "w1") // again is the same
		if err := tryBind(t, c, "a", "w2"); !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "bound to node w1 already") {
			t.Error(err)
		}
		if err := tryBind(t, c, "b", "w1"); !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "needs 600m cpu and 400m are free") {
			t.Error(err)
		}
		if err := tryBind(t, c, "b", "w9"); !api.Is(err, api.Conflict) {
			t.Error(err)
		}
		pods := client.Of(c, api.Pods)
		p := must(pods.Get(ctx, "default", "a"))(t)
		if p.Spec.Node != "w1" || p.Spec.Image != "nginx:1" || p.Meta.Generation != 2 {
			t.Errorf("bound pod is %+v", p)
		}
		p.Spec.Node = "w2"
		_, err := pods.Put(ctx, p)
		wantCode(t, err, api.Invalid)
		// A pod that ended gives its room back.
		p.Spec.Node = "w1"
		p.Status.Phase = api.PhaseFailed
		must(pods.PutStatus(ctx, p))(t)
		bindPod(t, c, "b", "w1")
		items, _, err := pods.List(ctx, "", client.By("node", "w1"))
		if err != nil || len(items) != 2 {
			t.Errorf("on w1: %v, %v", items, err)
		}
		// A pod cannot be smuggled onto a full node when it is created.
		q := &api.Pod{Meta: api.Meta{Namespace: "default", Name: "q"}}
		q.Spec.Container, q.Spec.Node = api.Container{Image: "nginx:1", CPU: "600m", Memory: "64Mi"}, "w1"
		_, err = pods.Create(ctx, q)
		wantCode(t, err, api.Conflict)
	})
}

// TestNothingIsBoundToTheDead: what replaces a lost pod does not follow it, even
// if the scheduler has not heard of the verdict yet.
func TestNothingIsBoundToTheDead(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		n := makeNode(t, c, "w1", "1", "1Gi")
		makePod(t, c, "a", "100m", "64Mi")
		for _, v := range []api.Verdict{api.VerdictDead, api.VerdictLeft} {
			n.Status.Health.Verdict = v
			n = must(client.Of(c, api.Nodes).PutPart(t.Context(), n, "health"))(t)
			if err := tryBind(t, c, "a", "w1"); !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "the verdict on node w1 is "+string(v)) {
				t.Error(err)
			}
		}
		n.Status.Health.Verdict = api.VerdictReady
		must(client.Of(c, api.Nodes).PutPart(t.Context(), n, "health"))(t)
		bindPod(t, c, "a", "w1")
	})
}

// TestBatchIsAllOrNothing: the error names each write that stood in the way.
func TestBatchIsAllOrNothing(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx := t.Context()
		makeNode(t, c, "w1", "1", "1Gi")
		var ops []api.BatchWrite
		for i := range 3 {
			makePod(t, c, fmt.Sprint("p", i), "400m", "64Mi")
			ops = append(ops, api.BatchWrite{Bind: &api.Binding{Namespace: "default", Pod: fmt.Sprint("p", i), Node: "w1"}})
		}
		_, err := c.Batch(ctx, ops)
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.Conflict || len(e.Fields) != 1 || e.Fields[0].Path != "writes[2]" {
			t.Fatalf("got %v", err)
		}
		items, _, _ := client.Of(c, api.Pods).List(ctx, "", client.By("node", "w1"))
		if len(items) != 0 {
			t.Fatalf("%d pods were bound", len(items))
		}
		if _, err := c.Batch(ctx, ops[:2]); err != nil {
			t.Fatal(err)
		}
		// Writes see each other: a namespace and what lives in it, in one transaction.
		raw := func(v string) json.RawMessage { return json.RawMessage(v) }
		_, err = c.Batch(ctx, []api.BatchWrite{
			{Create: raw(`{"kind":"Namespace","meta":{"name":"shop"}}`)},
			{Create: raw(`{"kind":"App","meta":{"name":"web","namespace":"shop"},"spec":{"image":"n:1"}}`)},
			{Put: raw(`{"kind":"App","meta":{"name":"web","namespace":"shop"},"spec":{"image":"n:2"}}`)},
			{Delete: &api.BatchDelete{Ref: api.Ref{Kind: "Pod", Namespace: "default", Name: "p0"}, UID: "of-long-ago", Final: true}},
		})
		if err != nil {
			t.Fatal(err)
		}
		a := must(client.Of(c, api.Apps).Get(ctx, "shop", "web"))(t)
		if a.Spec.Image != "n:2" || a.Meta.Generation != 2 {
			t.Errorf("app is %+v", a)
		}
		_, err = c.BatchIf(ctx, []api.BatchPrecondition{{Ref: a.Ref(), Generation: 1}}, ops[:1])
		wantCode(t, err, api.Precondition)
		// What one removes is room for the next, once.
		makePod(t, c, "p3", "400m", "64Mi")
		gone := must(client.Of(c, api.Pods).Get(ctx, "default", "p0"))(t)
		end := api.BatchWrite{Delete: &api.BatchDelete{Ref: gone.Ref(), UID: gone.Meta.UID, Final: true}}
		bind := api.BatchWrite{Bind: &api.Binding{Namespace: "default", Pod: "p3", Node: "w1"}}
		_, err = c.Batch(ctx, []api.BatchWrite{ops[2], end, bind})
		wantCode(t, err, api.Conflict) // not before
		once := api.BatchWrite{Delete: &api.BatchDelete{Ref: gone.Ref(), Final: true}}
		anew := api.BatchWrite{Create: raw(`{"kind":"Pod","meta":{"name":"p0","namespace":"default"},"spec":{"image":"n:1"}}`)}
		_, err = c.Batch(ctx, []api.BatchWrite{once, anew, once, ops[2], bind})
		wantCode(t, err, api.Conflict)
		if _, err := c.Batch(ctx, []api.BatchWrite{end, end, ops[2]}); err != nil {
			t.Error(err)
		}
	})
}

// TestRacingBindsNeverOvercommit: schedulers that all believe a node has room
// fill it, and not more.
func TestRacingBindsNeverOvercommit(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		const racers, each, nodes = 8, 12, 2
		for n := range nodes {
			makeNode(t, c, fmt.Sprint("w", n), "1", "10Gi")
		}
		for r := range racers {
			for i := range each {
				makePod(t, c, fmt.Sprintf("p%d-%d", r, i), "100m", "16Mi")
			}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		bound := 0
		for r := range racers {
			wg.Go(func() {
				for i := range each {
					err := tryBind(t, c, fmt.Sprintf("p%d-%d", r, i), fmt.Sprint("w", (r+i)%nodes))
					if err != nil && !api.Is(err, api.Conflict) {
						t.Error(err)
					}
					if err == nil {
						mu.Lock()
						bound++
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		if bound != nodes*10 {
			t.Errorf("%d pods of 100m were bound to %d nodes of 1 cpu", bound, nodes)
		}
		for n := range nodes {
			items, _, err := client.Of(c, api.Pods).List(t.Context(), "", client.By("node", fmt.Sprint("w", n)))
			if err != nil || len(items) != 10 {
				t.Errorf("w%d has %d pods: %v", n, len(items), err)
			}
		}
	})
}

// TestNodePortIsBoundOnce: of pods that want the same port of a node, one gets
// it, whoever binds and however, until it ends.
func TestNodePortIsBoundOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "4", "4Gi")
		makeNode(t, c, "w2", "4", "4Gi")
		pods := client.Of(c, api.Pods)
		sharing := func(name, node string, ports map[string]api.Port) *api.Pod {
			p := &api.Pod{Meta: api.Meta{Namespace: "default", Name: name}}
			p.Spec.Container, p.Spec.HostNetwork = api.Container{Image: "nginx:1", Ports: ports}, new(true)
			p.Spec.Node = node
			return p
		}
		for _, name := range []string{"a", "b"} {
			must(pods.Create(t.Context(), sharing(name, "", map[string]api.Port{"dns": "53/udp"})))(t)
		}
		must(pods.Create(t.Context(), sharing("c", "", map[string]api.Port{"dns": "53"})))(t) // the other protocol's
		bind := func(pod, node string) api.BatchWrite {
			return api.BatchWrite{Bind: &api.Binding{Namespace: "default", Pod: pod, Node: node}}
		}
		_, err := c.Batch(t.Context(), []api.BatchWrite{bind("a", "w1"), bind("b", "w1")})
		if !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "has port 53/udp of the node") {
			t.Errorf("both at once: %v", err)
		}
		if _, err := c.Batch(t.Context(), []api.BatchWrite{bind("a", "w1"), bind("c", "w1")}); err != nil {
			t.Error(err)
		}
		if err := tryBind(t, c, "b", "w1"); !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "default/a has port 53/udp of the node") {
			t.Errorf("one after the other: %v", err)
		}
		_, err = pods.Create(t.Context(), sharing("d", "w1", map[string]api.Port{"dns": "53/udp"}))
		wantCode(t, err, api.Conflict)
		bindPod(t, c, "b", "w2")

		must(pods.Create(t.Context(), sharing("e", "", map[string]api.Port{"dns": "53/udp"})))(t)
		a := must(pods.Get(t.Context(), "default", "a"))(t)
		a.Status.Phase = api.PhaseSucceeded
		must(pods.PutStatus(t.Context(), a))(t)
		bindPod(t, c, "e", "w1")
	})
}
