package controller

import (
	"cmp"
	"maps"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// hostsOf returns the nodes that each want a pod of a per_node app, in order:
// those placement allows. One that takes no new pods just now, cordoned or
// without its agent, keeps the pod it has.
func hostsOf(app *api.App, see facts) (hosts []string) {
	has := map[string]bool{}
	for _, pod := range see.pods {
		if !pod.Meta.Deleting() && !pod.Status.Phase.Ended() {
			has[hostOf(pod)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(see.nodes)) {
		n := see.nodes[name]
		health := n.Status.Health
		gone := health.Verdict == api.VerdictDead || health.Verdict == api.VerdictLeft
		if !gone && (has[name] || health.Schedulable()) && allows(app.Effective.Placement, n, has[name]) {
			hosts = append(hosts, name)
		}
	}
	return hosts
}

// hostOf returns the node a pod is or will be on; one that was made before the
// app was per_node has no target.
func hostOf(pod *api.Pod) string { return cmp.Or(pod.Spec.Node, pod.Spec.Target) }

// allows reports whether placement lets a pod run on a node, or stay there.
func allows(p *api.Placement, n *api.Node, there bool) bool {
	if !there {
		return n.Spec.Refuses(n.Meta.Labels, p) == ""
	}
	want := api.Deref(p)
	return n.Spec.Drain == nil && api.SelectsAll(want.Require, n.Meta.Labels) && api.Untolerated(moving(n), want.Tolerate) == ""
}

// perNode takes the pods one step towards one of the revision on each host. A
// node has no room for a second: the old pod ends before the new one is made.
// At most max_parallel hosts are without a healthy pod at a time.
func (r *rollout) perNode() {
	pods, stopping := map[string][]*api.Pod{}, map[string]bool{}
	for _, pod := range r.f.stopping {
		stopping[hostOf(pod)] = true
	}
	all := slices.Concat(r.f.current, r.f.older)
	for _, pod := range slices.Concat(ready(all), filter(all, func(pod *api.Pod) bool { return !pod.Status.Ready })) {
		host := hostOf(pod)
		switch {
		case !slices.Contains(r.hosts, host):
			r.drop(pod, "its node is not one of the app's any more")
		case len(pods[host]) > 0: // one that serves comes first, then a current one
			r.drop(pod, "more than one on its node")
		default:
			pods[host] = append(pods[host], pod)
		}
	}
	gate := r.gate()
	r.sooner(gate)
	under, available := 0, 0 // hosts without a healthy pod; pods that serve
	var old []*api.Pod
	for _, host := range r.hosts {
		switch have := pods[host]; {
		case len(have) == 0:
			if under++; !stopping[host] && gate <= 0 {
				r.addOn(r.is, host)
			}
		case have[0].Spec.Revision != r.is.revision:
			old = append(old, have[0])
		case !r.healthy(have[0]):
			under++
		}
		if have := pods[host]; len(have) > 0 && have[0].Status.Ready {
			available++
		}
	}
	slices.SortStableFunc(old, r.worth) // what serves least first
	for _, pod := range old {
		switch {
		case under >= r.parallel || gate > 0:
			return
		case !pod.Status.Ready:
			r.drop(pod, "old revision, not ready")
		case available > r.floor:
			r.drop(pod, "makes room")
			available--
		default:
			return
		}
		under++
	}
}

// refill makes pods for hosts that have none, and leaves the others alone.
func (r *rollout) refill(src source) {
	has := map[string]bool{}
	for _, pod := range r.f.all {
		has[hostOf(pod)] = has[hostOf(pod)] || !slices.Contains(r.finalize, pod)
	}
	gate := r.gate()
	for _, host := range r.hosts {
		switch {
		case has[host]:
		case gate > 0:
			r.sooner(gate)
		default:
			r.addOn(src, host)
		}
	}
}
