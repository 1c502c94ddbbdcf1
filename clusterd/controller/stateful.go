package controller

import (
	"cmp"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Pods of a stateful app are individuals. Each ordinal below replicas has at
// most one pod that is not over; the next one of it exists only once that has
// ended for certain, and has a larger epoch.
//
// What makes an epoch larger for good: it is counted in the app's status,
// beginning at a revision of the store, so that an app of the same name counts
// on where one before it ended; pods of one transaction share it; the
// transaction demands that the app is at the revision the plan was made for;
// and a pod is forgotten only once the count on record covers it.

// enrol finds out who holds which ordinal. Pods of ordinals that there are no
// longer count as old ones, and those that would act otherwise in isolation.
func (r *rollout) enrol() {
	r.ordinals = map[int]*api.Pod{}
	r.surge = 0
	if r.ordered() {
		r.parallel = 1
	}
	for _, pods := range [][]*api.Pod{r.f.ended, r.f.stopping, r.f.older, r.f.current} {
		for _, pod := range pods {
			r.ordinals[ordinalOf(pod)] = pod
			r.status.Epoch = max(r.status.Epoch, pod.Spec.Epoch)
		}
	}
	fits := func(pod *api.Pod) bool {
		return ordinalOf(pod) < r.want && pod.Spec.Isolation == r.app.Effective.Stateful.OnIsolation
	}
	r.f.older = append(slices.Clone(r.f.older), filter(r.f.current, func(pod *api.Pod) bool { return !fits(pod) })...)
	r.f.current = filter(r.f.current, fits)
}

// ordinalOf is which pod of its app it is. One that says nothing, of before the
// app was stateful, is none that could stay.
func ordinalOf(pod *api.Pod) int {
	if pod.Spec.Ordinal == nil {
		return api.MaxReplicas
	}
	return *pod.Spec.Ordinal
}

// numbered reports whether the record would still know a pod's epoch if the pod
// were forgotten.
func (r *rollout) numbered(pod *api.Pod) bool {
	return pod.Spec.Epoch <= r.app.Status.Epoch
}

// stepOrdinals goes one step towards one healthy pod of the revision per
// ordinal. Ordinals above replicas end from the top; missing ones start from 0
// up; old ones are replaced from the last down, but those that are not ready
// first, for they serve nobody: a pod that is stuck does not keep itself. A
// canary is the last ordinals.
func (r *rollout) stepOrdinals() {
	first, trial := 0, r.onTrial()
	if trial {
		first = r.want - r.trial()
	}
	r.dismiss()
	r.grow()
	r.man(r.status.Rollout.Phase == api.RolloutInProgress, func(n int) source {
		if n < first {
			return r.was
		}
		return r.is
	})
	r.relieve(first)
	if trial {
		r.hold()
	}
}

// dismiss ends pods of ordinals that there are no longer, unless they serve and
// too few others do.
func (r *rollout) dismiss() {
	surplus := filter(r.f.older, func(pod *api.Pod) bool { return ordinalOf(pod) >= r.want })
	slices.SortFunc(surplus, lastFirst)
	if r.ordered() && slices.ContainsFunc(r.f.stopping, func(pod *api.Pod) bool { return ordinalOf(pod) >= r.want }) {
		return
	}
	serving := len(ready(r.f.current)) + len(ready(r.f.older))
	for _, pod := range surplus {
		if pod.Status.Ready {
			if serving <= r.floor {
				return
			}
			serving--
		}
		r.drop(pod, "more than replicas")
		if r.ordered() {
			return
		}
	}
}

// man makes a pod for every ordinal that has none. In order, an ordinal waits
// for those before it that this rollout makes; what is older and not ready must
// not keep others from their place.
func (r *rollout) man(inOrder bool, of func(n int) source) {
	var vacant []int
	for n := range r.want {
		pod := r.ordinals[n]
		empty := pod == nil || slices.Contains(r.finalize, pod)
		if empty {
			vacant = append(vacant, n)
		}
		if inOrder && r.ordered() && (empty || r.fresh(pod) && !pod.Status.Ready && !pod.Meta.Deleting()) {
			break
		}
	}
	exist := slices.Concat(r.f.current, r.f.older, r.f.stopping)
	room := max(0, r.want-len(filter(exist, func(pod *api.Pod) bool { return !r.outOfReach(pod) })))
	vacant = vacant[:min(len(vacant), room)]
	switch gate := r.gate(); {
	case len(vacant) == 0:
	case gate > 0:
		r.sooner(gate)
	default:
		r.appoint(vacant, of)
	}
}

// outOfReach reports whether a pod is on a node that is dead: it may run there,
// and nobody can stop it. A node that is back has its pods back, whatever is
// still said of them.
func (r *rollout) outOfReach(pod *api.Pod) bool {
	n := r.see.nodes[pod.Spec.Node]
	back := n != nil && n.Status.Health.Verdict != api.VerdictDead && n.Status.Health.Verdict != api.VerdictLeft
	return pod.Status.Reason == api.Unreachable && !back
}

// appoint plans pods for ordinals, all of the next epoch.
func (r *rollout) appoint(ordinals []int, of func(n int) source) {
	ref := refOf(api.Apps, r.app)
	ordinals = slices.DeleteFunc(ordinals, func(n int) bool { return r.homeless(of(n).template, n) })
	if len(ordinals) == 0 {
		return
	}
	// The revision a new count begins at is larger than any epoch that came from
	// an app before, which spent one at most per revision.
	r.status.Epoch = max(r.status.Epoch+1, r.app.Meta.Revision)
	for _, n := range ordinals {
		src := of(n)
		template, sizes := claimed(src.template, n)
		r.claim(sizes)
		r.create = append(r.create, &api.Pod{
			Meta: api.Meta{Name: api.EpochName(ref.Name, n, r.status.Epoch), Namespace: ref.Namespace, Labels: r.app.Meta.Labels, Owner: &ref},
			Spec: api.PodSpec{
				PodTemplate: template, App: ref.Name, Revision: src.revision, Contents: src.contents,
				Ordinal: &n, Epoch: r.status.Epoch, Isolation: r.app.Effective.Stateful.OnIsolation,
			},
		})
	}
}

// relieve ends old pods, and those that have to leave their nodes, so that new
// ones can take their ordinals: of those from first on, at most max_parallel at
// a time are not healthy, or one if in order, and ready ones stay while fewer
// than min_available others serve.
func (r *rollout) relieve(first int) {
	old := filter(r.f.older, func(pod *api.Pod) bool { return ordinalOf(pod) < r.want })
	stay, leaving := r.split(r.f.current)
	healthy := len(filter(stay, r.healthy))
	slots := r.parallel - (r.want - healthy - len(old) - len(leaving)) // less those on their way
	serving := healthy + len(ready(old)) + len(ready(leaving))
	going := filter(append(old, leaving...), func(pod *api.Pod) bool {
		_, leaves := r.leaves[pod]
		return leaves || ordinalOf(pod) >= first
	})
	slices.SortFunc(going, lastFirst)
	for _, pod := range slices.Concat(filter(going, unready), ready(going)) {
		if slots <= 0 {
			return
		}
		why := cmp.Or(r.leaves[pod].why, "old revision")
		if !pod.Status.Ready {
			why += ", not ready"
		} else if serving <= r.floor {
			return
		} else {
			serving--
		}
		slots--
		r.drop(pod, why)
	}
}

func (r *rollout) ordered() bool { return api.Deref(r.app.Effective.Stateful).Order == "ordered" }

func lastFirst(a, b *api.Pod) int { return ordinalOf(b) - ordinalOf(a) }

func unready(pod *api.Pod) bool { return !pod.Status.Ready }
