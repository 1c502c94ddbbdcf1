package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A rollout fails when it is certain that it will not succeed: a pod of it
// cannot run as declared, fits no node that is or will be free, or time is up.
// The cause says which pod, where, and what is known of it.

// certain returns the cause when more pods of the revision cannot run as
// declared than the failure budget has.
func (r *rollout) certain() *api.Cause {
	budget := api.Deref(r.update.FailureBudget)
	fatal := filter(append(slices.Clone(r.f.current), r.f.ended...), func(pod *api.Pod) bool { return pod.Status.Fatal != nil && r.blames(pod) })
	if n := r.status.Rollout.Failed + len(fatal); len(fatal) > 0 && n > budget {
		pod := fatal[0]
		c := *pod.Status.Fatal
		c.Pod, c.Node = cmp.Or(c.Pod, pod.Meta.Name), cmp.Or(c.Node, pod.Spec.Node)
		if budget > 0 {
			c.Message += fmt.Sprintf("; %d pods of the revision have failed, and failure_budget is %d", n, budget)
		}
		return &c
	}
	failed := filter(r.f.ended, r.counts)
	if len(failed) > 0 && r.status.Failures+1 >= max(failuresMost, budget+1) {
		pod := failed[0]
		c := r.causeOf(pod, "crash_loop", fmt.Sprintf("%d pods of the revision have failed, %s the last: %s", r.status.Failures+1, pod.Meta.Name, why(pod)))
		return &c
	}
	return nil
}

// counts reports whether an ended pod says something about its revision: it
// was not asked to stop, its node did not die, and was not cut off.
func (r *rollout) counts(pod *api.Pod) bool {
	return pod.Spec.Revision == r.is.revision && !pod.Meta.Deleting() && pod.Status.Phase != api.PhaseLost && pod.Status.Reason != api.Isolated
}

// blames reports whether a failure of the pod is one of the rollout in
// progress. Of a revision that was healthy before, only new pods are.
func (r *rollout) blames(pod *api.Pod) bool {
	return r.status.Rollout.Phase == api.RolloutInProgress && r.counts(pod) && (!r.resize || r.fresh(pod))
}

// stalled returns the cause when a rollout cannot go on by itself, or has had
// its time.
func (r *rollout) stalled() *api.Cause {
	var waiting []*api.Pod // of the revision, and not healthy
	homeless := 0
	for _, pod := range r.f.current {
		if !r.healthy(pod) {
			waiting = append(waiting, pod)
			if unschedulable(pod) {
				homeless++
			}
		}
	}
	oldest := func(a, b *api.Pod) int {
		return cmp.Or(a.Meta.CreatedAt.Compare(b.Meta.CreatedAt), strings.Compare(a.Meta.Name, b.Meta.Name))
	}
	slices.SortFunc(waiting, oldest)
	idle := len(r.create) == 0 && len(r.remove) == 0 && len(r.f.stopping) == 0
	if homeless > 0 && homeless == len(waiting) && idle {
		pod := waiting[0]
		since := pod.Meta.CreatedAt
		if since.Before(r.status.Rollout.ProgressAt) {
			since = r.status.Rollout.ProgressAt
		}
		left := unplaceable - r.now.Sub(since)
		if left <= 0 {
			c := r.causeOf(pod, api.Unschedulable, pod.Status.Message)
			return &c
		}
		r.sooner(left)
	}
	ro := &r.status.Rollout
	deadline := r.update.Deadline.D()
	left := deadline + r.healthyFor - r.now.Sub(ro.ProgressAt)
	r.sooner(left)
	if left > 0 {
		return nil
	}
	progress := fmt.Sprintf("no progress for %s: %s", deadline, r.progress(len(r.f.current)-len(waiting), "the revision"))
	if len(waiting) > 0 {
		pod := waiting[0]
		c := r.causeOf(pod, "deadline", fmt.Sprintf("%s; %s: %s", progress, pod.Meta.Name, why(pod)))
		return &c
	}
	if was := r.app.Status.Message; strings.HasPrefix(was, api.WaitsForQuota) {
		return &api.Cause{Reason: "deadline", Message: progress + "; " + was}
	}
	if n := len(r.f.stopping); n > 0 {
		slices.SortFunc(r.f.stopping, oldest)
		pod := r.f.stopping[0]
		grace := api.Deref(pod.Spec.Stop).GracePeriod.D()
		if r.now.Sub(*pod.Meta.DeletedAt) < deadline+grace {
			ro.ProgressAt = r.now // it may take its time to stop
			r.sooner(deadline)
			return nil
		}
		c := r.causeOf(pod, "deadline", fmt.Sprintf("%s; %s has not stopped since %s", progress, pod.Meta.Name, pod.Meta.DeletedAt.Format(time.RFC3339)))
		return &c
	}
	return &api.Cause{Reason: "deadline", Message: progress}
}

func unschedulable(pod *api.Pod) bool {
	return pod.Spec.Node == "" && pod.Status.Reason == api.Unschedulable
}

// why says in words what a pod waits for or ended of.
func why(pod *api.Pod) string {
	st := pod.Status
	switch {
	case st.Fatal != nil:
		return st.Fatal.Message
	case st.Message != "":
		return st.Message
	case st.Reason != "":
		return "waits: " + strings.ReplaceAll(st.Reason, "_", " ")
	}
	if name, last := blamed(pod); last != nil {
		if last.OOM {
			return name + " was killed: it used more memory than its limit"
		}
		return fmt.Sprintf("%s last exited with code %d", name, last.Code)
	}
	switch {
	case st.Phase.Ended():
		return "is " + string(st.Phase)
	case pod.Spec.Node == "":
		return "has no node yet"
	case st.Phase == api.PhaseRunning:
		return "runs, but is not ready"
	case st.Phase == "" || st.Phase == api.PhasePending:
		return fmt.Sprintf("has not been begun by node %s", pod.Spec.Node)
	}
	return "is " + string(st.Phase)
}

// blamed returns the container that keeps a pod from serving, and how it last
// ended: of those that are not well, the one that begins first.
func blamed(pod *api.Pod) (name string, last *api.Exit) {
	order := slices.Concat(slices.Sorted(maps.Keys(pod.Spec.Init)), slices.Sorted(maps.Keys(pod.Spec.Sidecars)), []string{api.MainContainer})
	for _, name := range order {
		c := pod.Status.Containers[name]
		_, init := pod.Spec.Init[name]
		done := init && c.State == api.ContainerExited && c.Last != nil && c.Last.Code == 0
		if c.Last != nil && !c.Ready && !done {
			return name, c.Last
		}
	}
	return "", nil
}

// causeOf says which pod it was and what is known of it.
func (r *rollout) causeOf(pod *api.Pod, reason, message string) api.Cause {
	c := api.Cause{Reason: reason, Message: message, Pod: pod.Meta.Name, Node: pod.Spec.Node}
	if fatal := pod.Status.Fatal; fatal != nil {
		c.Container, c.ExitCode, c.OOM, c.Log = fatal.Container, fatal.ExitCode, fatal.OOM, fatal.Log
	} else if name, last := blamed(pod); last != nil {
		code := last.Code
		c.Container, c.ExitCode, c.OOM = name, &code, last.OOM
	}
	return c
}
