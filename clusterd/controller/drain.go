package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A pod whose node is drained, or has a taint that moves it away, or that
// somebody wants moved, counts as one to be replaced, like a pod of an old
// revision: its replacement is ready before it goes, and only at the deadline it
// goes all the same; of a move, the deadline is its end. Nothing else evicts an
// app's pods, so what the app promises is kept in one place.

// leave says that a pod has to leave its node, why, and by when.
type leave struct {
	why string
	by  time.Time
}

// leaving reports whether a pod has to leave its node.
func (see facts) leaving(pod *api.Pod) (leave, bool) {
	n := see.nodes[pod.Spec.Node]
	if n == nil {
		return leave{}, false
	}
	if d := n.Effective.Drain; d != nil {
		start := n.Meta.WrittenAt
		if st := n.Status.Drain; st != nil {
			start = st.StartedAt // another write of the node does not begin it anew
		}
		return leave{"node " + n.Meta.Name + " is drained", start.Add(d.Deadline.D())}, true
	}
	if taint := api.Untolerated(moving(n), api.Deref(pod.Spec.Placement).Tolerate); taint != "" {
		return leave{fmt.Sprintf("node %s is tainted %s", n.Meta.Name, taint), n.Meta.WrittenAt.Add(taintDeadline)}, true
	}
	if m := pod.Status.Move; !m.Over(see.now) && pod.Spec.App != "" && pod.Spec.Target == "" {
		return leave{"moves off node " + n.Meta.Name + " (" + m.Why + ")", m.At.Add(api.MoveLapses)}, true
	}
	return leave{}, false
}

// moving are the taints of a node that move pods away.
func moving(n *api.Node) map[string]string {
	taints := maps.Clone(n.Spec.Taints)
	maps.DeleteFunc(taints, func(_, taint string) bool {
		_, effect := api.SplitTaint(taint)
		return effect != api.NoExecute
	})
	return taints
}

// taintDeadline is how long a replacement is waited for where a taint moves
// pods away: as long as a drain waits by default.
const taintDeadline = 10 * time.Minute

// expire stops pods that have to leave and whose time is up.
func (r *rollout) expire() {
	late := func(pod *api.Pod) bool {
		l, leaves := r.leaves[pod]
		if leaves {
			r.sooner(l.by.Sub(r.now))
		}
		return leaves && !r.now.Before(l.by)
	}
	for _, group := range []*[]*api.Pod{&r.f.current, &r.f.older} {
		for _, pod := range filter(*group, late) {
			r.drop(pod, r.leaves[pod].why+": its deadline is over")
			r.f.stopping = append(slices.Clone(r.f.stopping), pod)
		}
		*group = filter(*group, func(pod *api.Pod) bool { return !late(pod) })
	}
}

// drains says which pods have to leave their nodes, and what that waits for.
func (r *rollout) drains() string {
	var pods []*api.Pod
	var by time.Time
	for pod, l := range r.leaves {
		pods = append(pods, pod)
		if by.IsZero() || l.by.Before(by) {
			by = l.by
		}
	}
	if len(pods) == 0 {
		return ""
	}
	slices.SortFunc(pods, func(a, b *api.Pod) int { return strings.Compare(a.Meta.Name, b.Meta.Name) })
	m := fmt.Sprintf("%s: replacing %s", r.leaves[pods[0]].why, names(pods))
	for _, pod := range r.f.current {
		if _, leaves := r.leaves[pod]; !leaves && !pod.Status.Ready {
			return fmt.Sprintf("%s; waits for %s until %s: %s", m, pod.Meta.Name, by.Format(time.RFC3339), why(pod))
		}
	}
	return m
}

// evict lets the pods that have to leave go, as far as n serve without them.
func (r *rollout) evict(n int) {
	stay, leaving := r.split(slices.Concat(r.f.current, r.f.older))
	available := len(ready(stay)) + len(ready(leaving))
	for _, pod := range leaving {
		if pod.Status.Ready && available <= n {
			continue
		}
		if pod.Status.Ready {
			available--
		} else if len(stay) < n {
			continue // it may become ready yet
		}
		r.drop(pod, r.leaves[pod].why)
	}
}
