package controller

import (
	"cmp"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// step takes the pods one step towards what is wanted, the way the app says.
func (r *rollout) step() {
	switch {
	case r.update.Strategy == "recreate" && r.clear():
	case api.Deref(r.app.Effective.PerNode):
		r.perNode()
	case r.ordinals != nil:
		r.stepOrdinals()
	case r.onTrial():
		r.canary()
	default:
		cur, leaving := r.split(r.f.current)
		r.roll(group{r.is, cur, append(leaving, r.f.older...), r.want, r.floor})
	}
}

// clear asks all pods of other revisions to stop, and reports whether some are
// still there: with strategy = recreate nothing new starts beside them.
func (r *rollout) clear() bool {
	for _, pod := range r.f.older {
		r.drop(pod, "old revision")
	}
	other := func(pod *api.Pod) bool { return pod.Spec.Revision != r.is.revision }
	return len(r.f.older) > 0 || slices.ContainsFunc(r.f.stopping, other)
}

// split takes out the pods that have to leave their nodes.
func (r *rollout) split(pods []*api.Pod) (stay, leaving []*api.Pod) {
	for _, pod := range pods {
		if _, leaves := r.leaves[pod]; leaves {
			leaving = append(leaving, pod)
		} else {
			stay = append(stay, pod)
		}
	}
	return stay, leaving
}

// room is how many more pods may be: everything on a node counts against the
// wanted ones and surge, stopping pods too.
func (r *rollout) room() int {
	most := r.want + r.surge
	if n := r.trial(); n > 0 && len(r.leaves) == 0 {
		most = r.want + max(r.surge, n)
	} else if n > 0 {
		most = r.want + n + max(r.surge, 1)
	}
	return max(0, most-len(r.f.current)-len(r.f.older)-len(r.f.stopping)-len(r.create))
}

// group is pods that replace others: n of a source are wanted, in the place of
// the old ones, and floor ready ones must stay.
type group struct {
	source
	cur, old []*api.Pod
	n, floor int
}

// roll creates and removes pods towards n healthy ones of the source.
//
// Old ready pods go only when at least n pods serve without them; with no
// surge, or when the surge finds no node, the ready ones may go down to the
// floor. At most max_parallel pods are not healthy yet at a time.
func (r *rollout) roll(g group) {
	if extra := len(g.cur) - g.n; extra > 0 {
		r.choose(g.cur, extra)
		for _, pod := range g.cur[:extra] {
			r.drop(pod, "more than replicas")
		}
		g.cur = g.cur[extra:]
	}
	unhealthy := len(g.cur) - len(filter(g.cur, r.healthy))
	lacking := max(0, g.n-len(g.cur)-len(g.old))
	slots := max(0, r.parallel-unhealthy-lacking) // replacements that may begin
	room := r.room()
	fill := min(lacking, room)
	wanted := max(0, min(slots, len(g.old), g.n-len(g.cur)-fill))
	ahead := min(wanted, room-fill)
	if gate := r.gate(); gate > 0 {
		r.sooner(gate)
		fill, ahead = 0, 0
	}
	r.add(g.source, fill+ahead)
	r.yield(g, wanted-ahead, len(g.cur)+fill+ahead+len(g.old)-g.n)
}

// yield removes old pods: unready ones first, surplus of them for pods that
// were added, and blocked to make room for pods that could not be; then ready
// ones that are not needed any more.
func (r *rollout) yield(g group, blocked, surplus int) {
	unready := filter(g.old, func(pod *api.Pod) bool { return !pod.Status.Ready })
	slices.SortStableFunc(unready, r.worth)
	for _, pod := range unready[:max(0, min(len(unready), max(surplus, blocked)))] {
		r.drop(pod, cmp.Or(r.leaves[pod].why, "old revision")+", not ready")
		blocked--
	}
	serving := ready(g.old)
	available := len(filter(g.cur, r.healthy)) + len(serving)
	squeezed := 0
	switch {
	case r.surge == 0:
		squeezed = blocked
	case r.crowded(g.cur):
		squeezed = r.parallel - max(0, g.n-len(g.cur)-len(g.old))
	}
	for _, pod := range serving {
		leave, leaves := r.leaves[pod]
		switch {
		case available > g.n:
			r.drop(pod, cmp.Or(leave.why, "replaced"))
		case leaves && r.surge > 0:
			continue // its going makes no room that could be used
		case squeezed > 0 && available > g.floor:
			r.drop(pod, "makes room")
			squeezed--
		default:
			return
		}
		available--
	}
}

// drop asks a pod to stop.
func (r *rollout) drop(pod *api.Pod, why string) {
	r.remove = append(r.remove, removal{pod, why})
}

// crowded reports whether all that the rollout waits for is room on a node.
func (r *rollout) crowded(cur []*api.Pod) bool {
	homeless := 0
	for _, pod := range cur {
		switch {
		case r.healthy(pod):
		case !unschedulable(pod) || !pod.Status.Crowded: // room would not help
			return false
		default:
			if left := unplaced - r.now.Sub(pod.Meta.CreatedAt); left > 0 {
				r.sooner(left)
				return false
			}
			homeless++
		}
	}
	return homeless > 0 && len(r.f.stopping) == 0
}

// choose puts the n pods of one revision first that are to go: those worth least,
// and of one rank those on the nodes that have most of them, so that what stays
// is spread.
func (r *rollout) choose(pods []*api.Pod, n int) {
	slices.SortStableFunc(pods, r.worth)
	on := map[string]int{}
	for _, pod := range pods {
		on[pod.Spec.Node]++
	}
	for i := range n {
		at := i
		for j := i + 1; j < len(pods) && rank(pods[j]) == rank(pods[i]); j++ {
			if on[pods[j].Spec.Node] > on[pods[at].Spec.Node] {
				at = j
			}
		}
		pod := pods[at]
		on[pod.Spec.Node]--
		copy(pods[i+1:at+1], pods[i:at]) // those it overtook keep their order
		pods[i] = pod
	}
}

// worth orders pods of one revision by what would be lost with them: first
// what has no node, then what cannot run or is not ready, then the youngest.
func (r *rollout) worth(a, b *api.Pod) int {
	return cmp.Or(cmp.Compare(rank(a), rank(b)), b.Meta.CreatedAt.Compare(a.Meta.CreatedAt), strings.Compare(b.Meta.Name, a.Meta.Name))
}

// rank is what a pod is worth by how far it has come.
func rank(pod *api.Pod) int {
	switch {
	case pod.Spec.Node == "":
		return 0
	case pod.Status.Fatal != nil:
		return 1
	case !pod.Status.Ready:
		return 2
	}
	return 3
}
