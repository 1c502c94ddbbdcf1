package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// oracle judges decisions from the objects alone, in the plainest way there is.
type oracle struct {
	nodes map[string]*api.Node
	on    map[string][]*api.Pod // by node
}

func (o *oracle) domain(node, key string) (string, bool) {
	if key == api.DomainNode {
		return node, true
	}
	v, ok := o.nodes[node].Meta.Labels[key]
	return v, ok
}

// mates counts pods that match in the domain of a node.
func (o *oracle) mates(node, key string, match func(*api.Pod) bool) (n int) {
	d, ok := o.domain(node, key)
	if !ok {
		return 0
	}
	for other, pods := range o.on {
		if e, ok := o.domain(other, key); ok && e == d {
			for _, pod := range pods {
				if match(pod) {
					n++
				}
			}
		}
	}
	return n
}

// admits reports whether a node takes a pod by its word alone.
func (o *oracle) admits(node string, pod *api.Pod) bool {
	n, at := o.nodes[node], api.Deref(pod.Spec.Placement)
	if n.Status.Health.Verdict != api.VerdictReady || n.Spec.Cordoned || n.Spec.Drain != nil {
		return false
	}
	for key, taint := range n.Spec.Taints {
		value, _, _ := strings.Cut(taint, ":")
		if !slices.Contains(at.Tolerate, key) && !slices.Contains(at.Tolerate, key+"="+value) {
			return false
		}
	}
	return at.Require["zone"] == "" || at.Require["zone"] == n.Meta.Labels["zone"]
}

// breach says what a pod on a node would break, "" if nothing.
func (o *oracle) breach(node string, pod *api.Pod) string {
	if !o.admits(node, pod) {
		return "the node takes no such pods"
	}
	n, at := o.nodes[node], api.Deref(pod.Spec.Placement)
	cpu, mem := pod.Spec.Requests()
	for _, other := range o.on[node] {
		c, m := other.Spec.Requests()
		cpu, mem = cpu+c, mem+m
	}
	if cpu > n.Status.Allocatable.CPU.Milli() || mem > n.Status.Allocatable.Memory.Bytes() || len(o.on[node]) >= n.Status.Allocatable.Pods {
		return "no room"
	}
	for _, other := range o.on[node] {
		if slices.ContainsFunc(other.Spec.NodePorts(), func(p api.Port) bool { return slices.Contains(pod.Spec.NodePorts(), p) }) {
			return "a port of " + other.Meta.Name
		}
	}
	is := func(app string) func(*api.Pod) bool { return func(p *api.Pod) bool { return p.Spec.App == app } }
	if at.OnePer != "" {
		if _, ok := o.domain(node, at.OnePer); !ok || o.mates(node, at.OnePer, is(pod.Spec.App)) > 0 {
			return "one_per"
		}
	}
	for app, key := range at.AntiAffinity {
		if o.mates(node, key, is(app)) > 0 {
			return "anti_affinity to " + app
		}
	}
	for other, pods := range o.on {
		for _, p := range pods {
			key, repels := api.Deref(p.Spec.Placement).AntiAffinity[pod.Spec.App]
			d, ok := o.domain(other, key)
			e, here := o.domain(node, key)
			if repels && ok && here && d == e {
				return "anti_affinity of " + p.Meta.Name
			}
		}
	}
	for app, key := range at.Affinity {
		everywhere := 0
		for _, pods := range o.on {
			for _, p := range pods {
				if p.Spec.App == app {
					everywhere++
				}
			}
		}
		_, ok := o.domain(node, key)
		if !ok || o.mates(node, key, is(app)) == 0 && (app != pod.Spec.App || everywhere > 0) {
			return "affinity to " + app
		}
	}
	if at.MaxSkew != nil {
		if _, ok := o.domain(node, at.Spread); !ok {
			return "outside of every " + at.Spread
		}
		mine := func(p *api.Pod) bool { return p.Spec.App == pod.Spec.App && p.Spec.Revision == pod.Spec.Revision }
		for other := range o.nodes {
			if _, ok := o.domain(other, at.Spread); ok && o.admits(other, pod) && o.mates(node, at.Spread, mine)+1-o.mates(other, at.Spread, mine) > *at.MaxSkew {
				return "max_skew"
			}
		}
	}
	return ""
}

func drawNodes(t *rapid.T) (nodes []*api.Node) {
	for i := range rapid.IntRange(0, 7).Draw(t, "nodes") {
		labels := map[string]string{}
		if zone := rapid.SampledFrom([]string{"a", "b", "c", ""}).Draw(t, "zone"); zone != "" {
			labels["zone"] = zone
		}
		n := testNode(fmt.Sprintf("w%d", i), fmt.Sprintf("%dm", 100*rapid.IntRange(1, 12).Draw(t, "cpu")), "1Gi", rapid.IntRange(1, 5).Draw(t, "room"), labels,
			rapid.SampledFrom([]api.Verdict{api.VerdictReady, api.VerdictReady, api.VerdictReady, api.VerdictDead}).Draw(t, "verdict"), rapid.IntRange(0, 5).Draw(t, "cordoned") == 0)
		if rapid.IntRange(0, 3).Draw(t, "tainted") == 0 {
			n.Spec.Taints = map[string]string{"dedicated": rapid.SampledFrom([]string{"x:no_schedule", "y:no_execute"}).Draw(t, "taint")}
		}
		if rapid.IntRange(0, 9).Draw(t, "drain") == 0 {
			n.Spec.Drain = new(api.Drain)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// drawPlacements gives each app one, as its pods have.
func drawPlacements(t *rapid.T, apps []string) map[string]*api.Placement {
	out := map[string]*api.Placement{}
	domain := func(what string) string { return rapid.SampledFrom([]string{"node", "zone"}).Draw(t, what) }
	for _, app := range apps {
		at := &api.Placement{}
		if rapid.Bool().Draw(t, "spreads") {
			at.Spread = domain("spread")
			if rapid.Bool().Draw(t, "hard") {
				n := rapid.IntRange(1, 2).Draw(t, "max_skew")
				at.MaxSkew = &n
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "one_per?") == 0 {
			at.OnePer = domain("one_per")
		}
		if rapid.IntRange(0, 3).Draw(t, "affinity?") == 0 {
			at.Affinity = map[string]string{rapid.SampledFrom(apps).Draw(t, "to"): domain("affinity")}
		}
		if rapid.IntRange(0, 3).Draw(t, "anti?") == 0 {
			at.AntiAffinity = map[string]string{rapid.SampledFrom(apps).Draw(t, "from"): domain("anti")}
		}
		if rapid.IntRange(0, 3).Draw(t, "tolerates") == 0 {
			at.Tolerate = []string{rapid.SampledFrom([]string{"dedicated", "dedicated=x"}).Draw(t, "tolerate")}
		}
		if rapid.IntRange(0, 4).Draw(t, "requires") == 0 {
			at.Require = map[string]string{"zone": "a"}
		}
		priority := rapid.SampledFrom([]int{20, 50, 50, 80}).Draw(t, "priority")
		at.Priority = &priority
		out[app] = at
	}
	return out
}

// TestPlacementKeepsItsPromises: whatever is asked of it, the scheduler never
// breaks capacity, ports, taints, max_skew, one_per, affinity or anti_affinity of
// either side; it leaves no pod out that would have fitted; it asks only pods
// of a lower priority to leave, and no more of them than the room takes; and it
// says the same twice.
func TestPlacementKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		apps := []string{"p", "q", "r"}
		placements := drawPlacements(t, apps)
		budgets := map[string]int{}
		for _, app := range apps {
			budgets["default/"+app] = rapid.IntRange(0, 3).Draw(t, "spare")
		}
		spare := func(app string, _ int) int { return budgets[app] }
		pod := func(i int) *api.Pod {
			app := rapid.SampledFrom(apps).Draw(t, "app")
			p := testPod(fmt.Sprintf("%s-%d", app, i), app, fmt.Sprintf("%dm", 100*rapid.IntRange(1, 5).Draw(t, "cpu")), "16Mi", placements[app])
			p.Status.Ready = rapid.Bool().Draw(t, "ready")
			if rapid.Bool().Draw(t, "host_network") {
				p.Spec.HostNetwork = new(true)
				p.Spec.Ports = map[string]api.Port{"a": rapid.SampledFrom([]api.Port{"80", "80/udp"}).Draw(t, "port")}
			}
			return p
		}
		var there, coming []*api.Pod
		before := oracle{map[string]*api.Node{}, map[string][]*api.Pod{}}
		for _, n := range nodes {
			before.nodes[n.Meta.Name] = n
		}
		for i := range rapid.IntRange(0, 8).Draw(t, "there") {
			p := pod(i)
			if len(nodes) == 0 {
				continue
			}
			p.Spec.Node = nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "on")].Meta.Name
			if before.breach(p.Spec.Node, p) != "" {
				continue
			}
			before.on[p.Spec.Node] = append(before.on[p.Spec.Node], p)
			there = append(there, p)
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "coming") {
			coming = append(coming, pod(100+i))
		}
		plan := func() decisions {
			p := newPicture()
			for _, n := range nodes {
				p.setNode(n)
			}
			var waiting []candidate
			for _, q := range there {
				p.setPod(q)
			}
			for _, q := range coming {
				waiting = append(waiting, newCandidate(q))
			}
			return planBinds(p, inOrder(waiting), 1000, spare)
		}
		ds := plan()
		if again := plan(); again.String() != ds.String() {
			t.Fatalf("not the same twice:\n%s\n%s", ds, again)
		}
		kept, places := map[string]int64{}, map[string]int{} // cpu and places promised to preemptors, by node
		asked := map[string]bool{}
		last := 101
		for _, d := range ds {
			priority := *d.pod.Spec.Placement.Priority
			if priority > last {
				t.Fatalf("%s of priority %d comes after one of %d", d.pod.Meta.Name, priority, last)
			}
			last = priority
			if d.node != "" {
				if why := before.breach(d.node, d.pod); why != "" {
					t.Fatalf("%s on %s breaks %s\n%s", d.pod.Meta.Name, d.node, why, ds)
				}
				before.on[d.node] = append(before.on[d.node], d.pod)
				continue
			}
			for name := range before.nodes {
				if before.breach(name, d.pod) == "" && kept[name] == 0 {
					t.Fatalf("%s would fit %s: %s\n%s", d.pod.Meta.Name, name, d.why, ds)
				}
			}
			if d.nominated == "" {
				continue
			}
			for _, v := range d.victims {
				if *v.Spec.Placement.Priority >= priority || v.Spec.Node != d.nominated || asked[v.Meta.UID] {
					t.Fatalf("%s of priority %d must not ask %s to leave\n%s", d.pod.Meta.Name, priority, v.Meta.Name, ds)
				}
				asked[v.Meta.UID] = true
			}
			cpu, _ := d.pod.Spec.Requests()
			kept[d.nominated] += cpu
			places[d.nominated]++
			room := before.nodes[d.nominated].Status.Allocatable.CPU.Milli() - kept[d.nominated]
			pods := before.nodes[d.nominated].Status.Allocatable.Pods - places[d.nominated]
			for _, q := range before.on[d.nominated] {
				if c, _ := q.Spec.Requests(); !asked[q.Meta.UID] {
					room -= c
					pods--
				}
			}
			if room < 0 || pods < 0 {
				t.Fatalf("%s will not fit %s after all\n%s", d.pod.Meta.Name, d.nominated, ds)
			}
			for _, v := range d.victims {
				if c, _ := v.Spec.Requests(); room-c >= 0 && pods >= 1 {
					t.Fatalf("%s need not have left %s\n%s", v.Meta.Name, d.nominated, ds)
				}
			}
		}
	})
}
