package scheduler

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/golden"
)

// given is the input of a golden test: what a cluster has and what waits.
type given struct {
	Nodes []struct {
		Name, CPU, Memory string
		Pods              int
		Labels            map[string]string
		Taints            map[string]string
		Verdict           api.Verdict
		Cordoned          bool
		Draining          bool
	}
	Pods []struct {
		Name, App, Revision, Node, CPU, Memory string
		Count                                  int
		Placement                              *api.Placement
		Mounts                                 map[string]api.Mount
		Ports                                  map[string]api.Port
		Ready, Deleting, HostNetwork           bool
	}
	Volumes []struct {
		Name, Node string
		Deleting   bool
	}
	MinAvailable map[string]int
	Hurt         map[string]map[string]int // by app and revision, as in web@1, and node
	Again        bool                      // plan twice: what is asked to leave goes in between
}

func (g given) build() (p *picture, pending []candidate) {
	p = newPicture()
	for _, n := range g.Nodes {
		v := n.Verdict
		if v == "" {
			v = api.VerdictReady
		}
		node := testNode(n.Name, n.CPU, n.Memory, n.Pods, n.Labels, v, n.Cordoned)
		node.Spec.Taints = n.Taints
		if n.Draining {
			node.Spec.Drain = new(api.Drain)
		}
		p.setNode(node)
	}
	p.volumes = map[string]*volume{}
	for _, v := range g.Volumes {
		o := &api.Volume{Meta: api.Meta{Name: v.Name}, Status: api.VolumeStatus{Node: v.Node}}
		if v.Deleting {
			o.Meta.DeletedAt = new(time.Time)
		}
		p.setVolume("default/"+v.Name, o)
	}
	for _, q := range g.Pods {
		for i := range max(q.Count, 1) {
			name := q.Name
			if q.Count > 0 {
				name = fmt.Sprintf("%s-%d", q.Name, i)
			}
			pod := testPod(name, q.App, q.CPU, q.Memory, q.Placement)
			pod.Spec.Mounts, pod.Spec.Ports, pod.Spec.HostNetwork = q.Mounts, q.Ports, &q.HostNetwork
			pod.Spec.Node, pod.Spec.Revision, pod.Status.Ready = q.Node, q.Revision, q.Ready
			if q.Deleting {
				pod.Meta.DeletedAt = new(time.Time)
			}
			if q.Node != "" {
				p.setPod(pod)
			} else {
				pending = append(pending, newCandidate(pod))
			}
		}
	}
	for revision, nodes := range g.Hurt {
		p.hurt["default/"+revision] = map[int]int{}
		for node, n := range nodes {
			p.hurt["default/"+revision][p.at(node)] = n
		}
	}
	return p, pending
}

func (g given) spare(app string, ready int) int {
	_, name, _ := strings.Cut(app, "/")
	return ready - g.MinAvailable[name]
}

func testNode(name, cpu, memory string, pods int, labels map[string]string, v api.Verdict, cordoned bool) *api.Node {
	n := &api.Node{Meta: api.Meta{Name: name, Labels: labels}, Spec: api.NodeSpec{Cordoned: cordoned}}
	n.Status.Allocatable = api.Resources{CPU: api.CPU(cpu), Memory: api.Memory(memory), Pods: pods}
	n.Status.Health.Verdict = v
	return n
}

func testPod(name, app, cpu, memory string, placement *api.Placement) *api.Pod {
	pod := &api.Pod{Meta: api.Meta{Name: name, Namespace: "default", UID: "uid-" + name}}
	pod.Spec.App, pod.Spec.CPU, pod.Spec.Memory, pod.Spec.Placement = app, api.CPU(cpu), api.Memory(memory), placement
	return pod
}

func TestPlanGolden(t *testing.T) {
	golden.Plans(t, "testdata", func(t *testing.T, parts map[string][]byte) string {
		var g given
		if err := json.Unmarshal(parts["given"], &g); err != nil {
			t.Fatal(err)
		}
		p, pending := g.build()
		plan := planBinds(p, inOrder(pending), 1000, g.spare)
		out := plan.String()
		if !g.Again {
			return out
		}
		var next []candidate
		for _, d := range plan {
			for _, v := range d.victims {
				p.unplace(v.Meta.UID)
				v.Spec.Node = "" // its app makes another
				next = append(next, newCandidate(v))
			}
			if d.node == "" {
				w := newCandidate(d.pod)
				w.nominated = d.nominated
				next = append(next, w)
			}
		}
		return out + "then\n" + planBinds(p, inOrder(next), 1000, g.spare).String()
	})
}

// TestPlanIsExact: whatever the cluster, no node is over-committed, no filter
// is passed over, a pod that fits somewhere is placed, the picture's books
// balance, and the same input gives the same plan.
func TestPlanIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*api.Node
		for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
			nodes = append(nodes, testNode(fmt.Sprintf("w%d", i),
				fmt.Sprintf("%dm", 100*rapid.IntRange(0, 20).Draw(t, "cpu")), fmt.Sprintf("%dMi", 64*rapid.IntRange(0, 20).Draw(t, "mem")),
				rapid.IntRange(1, 5).Draw(t, "pods"), map[string]string{"zone": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone")},
				rapid.SampledFrom([]api.Verdict{api.VerdictReady, api.VerdictReady, api.VerdictDead}).Draw(t, "verdict"), rapid.Bool().Draw(t, "cordoned")))
		}
		var pods []candidate
		for i := range rapid.IntRange(0, 30).Draw(t, "pods") {
			var placement *api.Placement
			switch rapid.IntRange(0, 2).Draw(t, "placement") {
			case 0:
				placement = &api.Placement{Require: map[string]string{"zone": "a"}}
			case 1:
				placement = &api.Placement{Spread: "zone"}
			}
			pods = append(pods, newCandidate(testPod(fmt.Sprintf("p%d", i), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app"),
				fmt.Sprintf("%dm", 50*rapid.IntRange(1, 8).Draw(t, "cpu")), fmt.Sprintf("%dMi", 32*rapid.IntRange(1, 8).Draw(t, "mem")), placement)))
		}
		build := func() *picture {
			p := newPicture()
			for _, n := range nodes {
				p.setNode(n)
			}
			return p
		}
		p := build()
		plan := planBinds(p, inOrder(pods), 1000, nil)
		if again := planBinds(build(), inOrder(pods), 1000, nil); again.String() != plan.String() {
			t.Fatalf("not the same twice:\n%s\n%s", plan, again)
		}
		if len(plan) != len(pods) {
			t.Fatalf("%d decisions for %d pods", len(plan), len(pods))
		}
		truth := build() // counted again, one by one
		for _, d := range plan {
			r := requestOfPod(d.pod)
			a := &ask{truth, r, truth.rulesOf(truth.newClass(r))}
			fits := func(i int) bool {
				for _, f := range filters {
					if !f.fits(a, i) {
						return false
					}
				}
				return true
			}
			if d.node == "" {
				for i := range nodes {
					if fits(i) {
						t.Fatalf("%s fits %s but was refused: %s", d.pod.Meta.Name, nodes[i].Meta.Name, d.why)
					}
				}
				continue
			}
			i := truth.index[d.node]
			if !fits(i) {
				t.Fatalf("%s does not fit %s", d.pod.Meta.Name, d.node)
			}
			truth.take(d.pod.Meta.UID, r, i, d.pod)
		}
		for _, d := range plan {
			p.unplace(d.pod.Meta.UID)
		}
		clean := build()
		for i := range nodes {
			if p.freeCPU[i] != clean.freeCPU[i] || p.freeMem[i] != clean.freeMem[i] || p.freePods[i] != clean.freePods[i] || len(p.apps) != 0 {
				t.Fatalf("the books of node %d do not balance", i)
			}
		}
	})
}

func TestFitsAnswersAsThePlanWould(t *testing.T) {
	nodes := []*api.Node{testNode("w1", "1", "1Gi", 0, nil, api.VerdictReady, false), testNode("w2", "1", "1Gi", 0, nil, api.VerdictReady, true)}
	busy := testPod("other", "other", "700m", "64Mi", nil)
	busy.Spec.Node = "w1"
	template := testPod("x", "web", "100m", "64Mi", nil).Spec.PodTemplate
	got := Fits(nodes, []*api.Pod{busy}, "default", "web", &template, 5)
	if got.Placed != 3 || got.Why != "no node fits: 1 needs 100m cpu and has 0m free, 1 is cordoned" {
		t.Errorf("got %+v", got)
	}
}

// TestNodeChanges: labels, capacity and holes are seen by pods placed before.
func TestNodeChanges(t *testing.T) {
	p := newPicture()
	early := testPod("early", "web", "500m", "64Mi", nil)
	early.Spec.Node = "w1"
	p.setPod(early) // its node is not known yet
	if p.setNode(testNode("w1", "1", "1Gi", 10, nil, api.VerdictReady, false)) == 0 {
		t.Error("a new node helps nobody")
	}
	if p.freeCPU[0] != 500 || p.freePods[0] != 9 {
		t.Errorf("free: %dm, %d pods", p.freeCPU[0], p.freePods[0])
	}
	if p.setNode(testNode("w1", "1", "1Gi", 10, nil, api.VerdictReady, true)) != 0 {
		t.Error("a cordon helps somebody")
	}
	p.dropNode("w1")
	reasons, _ := p.whyNot(p.newClass(requestOfPod(early)))
	if why := sentence(reasons); !strings.Contains(why, "no nodes") {
		t.Error(why)
	}
	p.setNode(testNode("w1", "2", "1Gi", 10, map[string]string{"zone": "a"}, api.VerdictReady, false))
	if p.freeCPU[0] != 1500 {
		t.Errorf("free: %dm", p.freeCPU[0])
	}
}

// TestPlacedPodsShareTheirRequest: who asks for the same as others of the revision
// keeps no request of its own, and who asks for something else does.
func TestPlacedPodsShareTheirRequest(t *testing.T) {
	p := newPicture()
	p.setNode(testNode("w1", "4", "4Gi", 10, nil, api.VerdictReady, false))
	for _, name := range []string{"a", "b", "c"} {
		pod := testPod(name, "web", map[string]string{"c": "1"}[name], "64Mi", nil)
		pod.Spec.Node = "w1"
		p.setPod(pod)
	}
	a, b, c := p.placed["uid-a"], p.placed["uid-b"], p.placed["uid-c"]
	if a.request == nil || a.request != b.request || a.request == c.request || c.cpu != 1000 {
		t.Errorf("%p, %p and %p with %dm", a.request, b.request, c.request, c.cpu)
	}
}
