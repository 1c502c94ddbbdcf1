package scheduler

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/golden"
)

func TestPlanRebalanceGolden(t *testing.T) {
	golden.Plans(t, "testdata/rebalance", func(t *testing.T, parts map[string][]byte) string {
		var g struct {
			given
			Limit int
			Stay  string // app whose pods may not move
		}
		if err := json.Unmarshal(parts["given"], &g); err != nil {
			t.Fatal(err)
		}
		p, _ := g.build()
		return planRebalance(p, func(pod *api.Pod) bool { return pod.Spec.App != g.Stay }, cmp.Or(g.Limit, 10)).String()
	})
}

// TestRebalanceKeepsItsPromises: whatever the cluster is like, each move leaves
// less than before of what is outside all domains, close together in a domain,
// close together on a node, and the nodes' loads, the fullest first, in this
// order; it breaks nothing that
// pods want; no pod moves twice or without leave, and no more than the limit; and
// the picture is as it was.
func TestRebalanceKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		apps := []string{"p", "q", "r"}
		placements := drawPlacements(t, apps)
		o := oracle{map[string]*api.Node{}, map[string][]*api.Pod{}}
		p := newPicture()
		for _, n := range nodes {
			o.nodes[n.Meta.Name] = n
			p.setNode(n)
		}
		var all []*api.Pod
		for i := range rapid.IntRange(0, 14).Draw(t, "there") {
			app := rapid.SampledFrom(apps).Draw(t, "app")
			pod := testPod(fmt.Sprintf("%s-%d", app, i), app, fmt.Sprintf("%dm", 100*rapid.IntRange(1, 5).Draw(t, "cpu")), "16Mi", placements[app])
			pod.Status.Ready = rapid.IntRange(0, 4).Draw(t, "ready") > 0
			if len(nodes) == 0 {
				continue
			}
			pod.Spec.Node = nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "on")].Meta.Name
			if o.breach(pod.Spec.Node, pod) != "" {
				continue
			}
			o.on[pod.Spec.Node] = append(o.on[pod.Spec.Node], pod)
			p.setPod(pod)
			all = append(all, pod)
		}
		may := func(pod *api.Pod) bool { return pod.Spec.App != "r" }
		limit := rapid.IntRange(1, 4).Draw(t, "limit")
		measure := func() (out []int) {
			out = o.closeness(placements)
			for _, i := range p.fullest() {
				n, _ := p.load(i, 0, 0)
				out = append(out, n)
			}
			return out
		}
		was, free := maps.Clone(p.placed), slices.Clone(p.freeCPU)
		plan := planRebalance(p, may, limit)
		if again := planRebalance(p, may, limit); again.String() != plan.String() {
			t.Fatalf("not the same twice:\n%s\n%s", plan, again)
		}
		for uid, at := range was {
			if p.placed[uid].node != at.node {
				t.Fatalf("the picture has %s elsewhere", uid)
			}
		}
		if !slices.Equal(free, p.freeCPU) || len(plan.Moves) > limit {
			t.Fatalf("free %v, was %v; %d moves", p.freeCPU, free, len(plan.Moves))
		}
		before, moved := measure(), map[string]bool{}
		for _, m := range plan.Moves {
			pod := all[slices.IndexFunc(all, func(pod *api.Pod) bool { return pod.Meta.UID == m.UID })]
			if moved[m.UID] || !may(pod) || !pod.Status.Ready || m.From == m.To || o.nodes[m.From].Spec.Closed() != "" {
				t.Fatalf("%s must not move\n%s", pod.Meta.Name, plan)
			}
			moved[m.UID] = true
			if why := o.breach(m.To, pod); why != "" { // beside the old one
				t.Fatalf("%s on %s breaks %s\n%s", pod.Meta.Name, m.To, why, plan)
			}
			o.on[m.From] = slices.DeleteFunc(slices.Clone(o.on[m.From]), func(q *api.Pod) bool { return q == pod })
			if why := o.breach(m.To, pod); why != "" { // and without it
				t.Fatalf("%s alone on %s breaks %s\n%s", pod.Meta.Name, m.To, why, plan)
			}
			o.on[m.To] = append(o.on[m.To], pod)
			r := p.placed[m.UID].request
			p.unplace(m.UID)
			p.take(m.UID, r, p.at(m.To), pod)
			after := measure()
			if slices.Compare(after, before) >= 0 {
				t.Fatalf("%s: is %v, was %v\n%s", m, after, before, plan)
			}
			before = after
		}
	})
}

// closeness counts how many pods are in none of the domains they spread over,
// and adds the squares of how many of one revision are in one, and on one node.
func (o oracle) closeness(placements map[string]*api.Placement) []int {
	outside, perDomain, perNode := 0, map[string]int{}, map[string]int{}
	for name, pods := range o.on {
		for _, pod := range pods {
			revision := pod.Spec.App + "@" + pod.Spec.Revision
			perNode[revision+" "+name]++
			at := placements[pod.Spec.App]
			if at == nil || at.Spread == "" {
				continue
			}
			value, has := o.nodes[name].Meta.Labels[at.Spread]
			if at.Spread == api.DomainNode {
				value, has = name, true
			}
			if has {
				perDomain[revision+" "+value]++
			} else {
				outside++
			}
		}
	}
	squares := func(counts map[string]int) (sum int) {
		for _, n := range counts {
			sum += n * n
		}
		return sum
	}
	return []int{outside, squares(perDomain), squares(perNode)}
}
