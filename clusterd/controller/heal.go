package controller

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// heal keeps the wanted pods alive when no rollout is under way. Of a rollout
// that was given up it replaces what it lost by what was healthy last; a first
// rollout that failed keeps its pods a while, for they say why, and then tries
// again: what they lacked may have come.
func (r *rollout) heal() {
	if r.status.Rollout.Phase == api.RolloutComplete {
		r.forgive()
		r.replaceFatal()
		r.bury(nil)
		r.step()
		return
	}
	src := r.is
	if r.was.revision != "" {
		src = r.was
		r.bury(nil)
	} else {
		r.bury(func(pod *api.Pod) bool {
			if pod.Status.Phase == api.PhaseLost || pod.Meta.Deleting() {
				return false
			}
			left := failureDelayMax - r.now.Sub(pod.Status.EndedAt)
			r.sooner(left)
			return left > 0
		})
	}
	if api.Deref(r.app.Effective.PerNode) {
		r.refill(src)
		return
	}
	if r.ordinals != nil {
		r.man(false, func(int) source { return src })
		r.evict(r.want - 1) // an ordinal has no second pod that could be ready before
		return
	}
	stay, _ := r.split(slices.Concat(r.f.current, r.f.older))
	kept := len(r.f.ended) - len(r.finalize)
	n := min(r.want-len(stay)-kept, r.room())
	if gate := r.gate(); n > 0 && gate > 0 {
		r.sooner(gate)
		return
	}
	r.add(src, n)
	r.evict(r.want)
}

// bury removes ended pods for good but for those to keep, and counts those
// that failed.
func (r *rollout) bury(keep func(*api.Pod) bool) {
	failed := false
	for _, pod := range r.f.ended {
		if keep != nil && keep(pod) || !r.numbered(pod) {
			continue
		}
		r.finalize = append(r.finalize, pod)
		if pod.Meta.Deleting() {
			continue
		}
		failed = failed || r.counts(pod)
		if pod.Status.Fatal != nil && r.blames(pod) {
			r.status.Rollout.Failed++
		}
		r.event(true, "replaced", "%s is %s and is replaced: %s", pod.Meta.Name, pod.Status.Phase, why(pod))
	}
	if failed {
		r.failure()
	}
}

func (r *rollout) failure() {
	r.status.Failures++
	r.status.FailedAt = r.now
}

// gate is how long to wait before the next pod may be made, so that pods that
// fail again and again do so ever more slowly.
func (r *rollout) gate() time.Duration {
	if r.status.Failures < 2 {
		return 0
	}
	delay := failureDelayMax
	if n := r.status.Failures - 2; n < 5 {
		delay = min(failureDelay<<n, failureDelayMax)
	}
	return delay - r.now.Sub(r.status.FailedAt)
}

// forgive forgets failures that are long ago.
func (r *rollout) forgive() {
	if r.status.Failures > 0 && r.now.Sub(r.status.FailedAt) >= failureForget {
		r.status.Failures, r.status.FailedAt = 0, time.Time{}
	}
}

// replaceFatal replaces one running pod that cannot run as declared: another
// node may have what this one lacks. A pod of the rollout in progress is one
// of its failures, see certain. Where none is in progress, a container that ran
// and ended has its restart.attempts first: its node ends the pod after them.
func (r *rollout) replaceFatal() {
	i := slices.IndexFunc(r.f.current, func(pod *api.Pod) bool {
		fatal := pod.Status.Fatal
		return fatal != nil && !pod.Status.Ready && (r.status.Rollout.Phase == api.RolloutInProgress || fatal.ExitCode == nil)
	})
	if i < 0 {
		return
	}
	if gate := r.gate(); gate > 0 {
		r.sooner(gate)
		return
	}
	pod := r.f.current[i]
	r.f.current = slices.Delete(slices.Clone(r.f.current), i, i+1)
	r.f.stopping = append(slices.Clone(r.f.stopping), pod)
	r.drop(pod, "cannot run: "+pod.Status.Fatal.Reason)
	r.event(true, "replaced", "%s cannot run and is replaced: %s", pod.Meta.Name, why(pod))
	r.failure()
	if r.blames(pod) {
		r.status.Rollout.Failed++
	}
}

// add plans n new pods.
func (r *rollout) add(src source, n int) {
	for range n {
		r.addOn(src, "")
	}
}

// addOn plans a new pod for one node, or for any.
func (r *rollout) addOn(src source, host string) {
	if !src.whole() {
		return // it could not start
	}
	ref, name := refOf(api.Apps, r.app), r.podName(src.revision)
	if r.denied(api.Pods.Ref(ref.Namespace, name)) {
		return
	}
	r.create = append(r.create, &api.Pod{
		Meta: api.Meta{Name: name, Namespace: ref.Namespace, Labels: r.app.Meta.Labels, Owner: &ref},
		Spec: api.PodSpec{PodTemplate: src.template, App: ref.Name, Revision: src.revision, Contents: src.contents, Target: host},
	})
}

// podName returns the first free name <app>-<revision>-<n>.
func (r *rollout) podName(revision string) string {
	for {
		name := api.Label(r.app.Meta.Name, fmt.Sprintf("-%s-%d", revision, r.next[revision]))
		if r.next[revision]++; !r.taken[name] {
			return name
		}
	}
}
