package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// The phases of a run. It goes one way, once:
//
//	            completions pods succeeded
//	running ─────────────────────────────────────────► succeeded
//	   │ more than retries pods failed, the deadline
//	   │ passed, or no node can ever run it ───────────► failed
//	   └─ the job changed, or the next tick replaces it ─► cancelled
//	 (policy) ─────────────────────────────────────────► skipped
//
// Pods are named <run>-<index>-<attempt>. Those that ended stay with their run:
// they say what is done, and their logs can be read. A pod that is lost with
// its node or was asked to stop, as by a drain, says nothing about the job: its
// index is tried again at once, and no retry is used up.

const (
	// Delays before the pod after one that failed, doubling.
	retryDelay    = time.Second
	retryDelayMax = time.Minute
	// shownPods is how many pods of a run its status names.
	shownPods = 20
)

// over reports whether nothing of a pod is left on a node, or ever will be.
func over(pod *api.Pod) bool {
	return pod.Status.Phase.Ended() || pod.Meta.Deleting() && pod.Spec.Node == ""
}

// byItself reports whether a pod ended before anybody asked it to.
func byItself(pod *api.Pod) bool {
	return !pod.Meta.Deleting() || !pod.Status.EndedAt.IsZero() && !pod.Status.EndedAt.After(*pod.Meta.DeletedAt)
}

// count fills in how far a run is, and ends it where that is certain.
func (j *jobWork) count(run *api.Run) {
	if run.Phase == api.RunSkipped {
		return
	}
	pods := j.of[run.Name]
	slices.SortFunc(pods, oldest)
	done := map[int]bool{}
	run.Active, run.Pods = 0, nil
	for _, pod := range pods[max(0, len(pods)-shownPods):] {
		run.Pods = append(run.Pods, pod.Meta.Name)
	}
	for _, pod := range pods {
		if !over(pod) {
			run.Active++
		}
		if pod.Status.Phase == api.PhaseSucceeded && byItself(pod) {
			done[indexOf(pod)] = true
		}
		if run.Phase == api.RunRunning {
			j.blame(run, pod)
		}
	}
	if run.Phase != api.RunRunning {
		return
	}
	j.expire(pods)
	run.Succeeded, run.Failed = len(done), len(run.FailedPods)
	switch c := j.hopeless(run, pods); {
	case run.Succeeded >= api.Deref(j.s.Completions):
		j.conclude(run, api.RunSucceeded, "", "", nil)
		j.event(false, "run_succeeded", "run %s succeeded after %s", run.Name, j.now.Sub(run.StartedAt).Round(time.Second))
	case run.Failed > api.Deref(j.s.Retries):
		j.fail(run, run.Cause)
	case c != nil:
		j.fail(run, c)
	}
}

func oldest(a, b *api.Pod) int {
	return cmp.Or(a.Meta.CreatedAt.Compare(b.Meta.CreatedAt), strings.Compare(a.Meta.Name, b.Meta.Name))
}

// blame counts a pod that failed, once and for good. One that cannot run as
// declared is stopped: it would wait for ever.
func (j *jobWork) blame(run *api.Run, pod *api.Pod) {
	failed := pod.Status.Phase == api.PhaseFailed || pod.Status.Fatal != nil && pod.Status.Phase != api.PhaseLost
	if !failed || !byItself(pod) || slices.Contains(run.FailedPods, pod.Meta.Name) {
		return
	}
	run.FailedPods = append(run.FailedPods, pod.Meta.Name)
	run.Cause = podCause(pod)
	delay := min(retryDelay<<min(len(run.FailedPods)-1, 10), retryDelayMax)
	run.RetryAt = j.now.Add(delay)
	next := "no retry is left"
	if n, most := len(run.FailedPods), api.Deref(j.s.Retries); n <= most {
		next = fmt.Sprintf("retry %d of %d follows", n, most)
	}
	j.event(true, "pod_failed", "%s failed, %s: %s", pod.Meta.Name, next, run.Cause.Message)
	if !over(pod) && !pod.Meta.Deleting() {
		j.remove = append(j.remove, removal{pod, "cannot run: " + run.Cause.Reason})
	}
}

// expire stops pods that have to leave their nodes, when their time is up: until
// then their work is waited for.
func (j *jobWork) expire(pods []*api.Pod) {
	for _, pod := range pods {
		l, leaves := j.see.leaving(pod)
		asked := slices.ContainsFunc(j.remove, func(r removal) bool { return r.pod == pod })
		if over(pod) || pod.Meta.Deleting() || !leaves || asked {
			continue
		}
		if left := l.by.Sub(j.now); left > 0 {
			j.sooner(left)
			continue
		}
		j.remove = append(j.remove, removal{pod, l.why + ": its deadline is over"})
		j.event(true, "pod_moved", "%s is stopped and tried again elsewhere: %s, and its deadline is over", pod.Meta.Name, l.why)
	}
}

// podCause says why a pod failed.
func podCause(pod *api.Pod) *api.Cause {
	if fatal := pod.Status.Fatal; fatal != nil {
		c := *fatal
		c.Pod, c.Node = cmp.Or(c.Pod, pod.Meta.Name), cmp.Or(c.Node, pod.Spec.Node)
		return &c
	}
	c := &api.Cause{Reason: cmp.Or(pod.Status.Reason, "failed"), Message: pod.Meta.Name + " " + why(pod), Pod: pod.Meta.Name, Node: pod.Spec.Node}
	if last := pod.Status.Containers[api.MainContainer].Last; last != nil {
		code := last.Code
		c.Container, c.ExitCode, c.OOM = api.MainContainer, &code, last.OOM
	}
	return c
}

// hopeless returns the cause when a run has had its time, or waits for a node
// that there is not.
func (j *jobWork) hopeless(run *api.Run, pods []*api.Pod) *api.Cause {
	if d := j.s.Deadline.D(); d > 0 {
		left := d - j.now.Sub(run.StartedAt)
		if left <= 0 {
			c := &api.Cause{Reason: "deadline", Message: fmt.Sprintf("has not ended within %s: %d of %d succeeded", d, run.Succeeded, api.Deref(j.s.Completions))}
			for _, pod := range pods {
				if !over(pod) {
					c.Pod, c.Node, c.Message = pod.Meta.Name, pod.Spec.Node, c.Message+"; "+pod.Meta.Name+" "+doing(pod)
					break
				}
			}
			return c
		}
		j.sooner(left)
	}
	var homeless *api.Pod
	for _, pod := range pods {
		switch {
		case over(pod):
		case !unschedulable(pod) || pod.Status.Crowded: // it runs, or will once there is room
			return nil
		case homeless == nil:
			homeless = pod
		}
	}
	if homeless == nil {
		return nil
	}
	if left := unplaceable - j.now.Sub(homeless.Meta.CreatedAt); left > 0 {
		j.sooner(left)
		return nil
	}
	return &api.Cause{Reason: api.Unschedulable, Message: homeless.Status.Message, Pod: homeless.Meta.Name}
}

// doing says what a pod of a job does, of which nobody wants to be ready.
func doing(pod *api.Pod) string {
	if st := pod.Status; st.Phase == api.PhaseRunning && st.Message == "" && st.Fatal == nil {
		return "still runs"
	}
	return why(pod)
}

func (j *jobWork) fail(run *api.Run, c *api.Cause) {
	j.conclude(run, api.RunFailed, c.Reason, c.Message, c)
	j.event(true, "run_failed", "run %s failed: %s", run.Name, c.Message)
}

// conclude ends a run, and stops what is left of it.
func (j *jobWork) conclude(run *api.Run, phase api.RunPhase, reason, message string, c *api.Cause) {
	run.Phase, run.Reason, run.Message, run.Cause, run.EndedAt, run.RetryAt = phase, reason, message, c, j.now, time.Time{}
	for _, pod := range j.of[run.Name] {
		asked := slices.ContainsFunc(j.remove, func(r removal) bool { return r.pod == pod })
		if !over(pod) && !pod.Meta.Deleting() && !asked {
			j.remove = append(j.remove, removal{pod, "the run has ended: it " + map[api.RunPhase]string{
				api.RunSucceeded: "succeeded", api.RunFailed: "failed", api.RunCancelled: "was cancelled"}[phase]})
		}
	}
}

// step makes the pods a run needs now.
func (j *jobWork) step(run *api.Run) {
	if run.Phase != api.RunRunning || j.blocker(run) != nil {
		return
	}
	if left := run.RetryAt.Sub(j.now); left > 0 && left <= retryDelayMax { // else the clock was set back
		j.sooner(left)
		return
	}
	if _, missing := j.see.contentsOf(j.s.PodTemplate); missing != nil {
		if left := contentGrace - j.now.Sub(run.StartedAt); left > 0 {
			j.sooner(min(left, time.Second)) // it may be written just now
		} else {
			j.fail(run, missing)
		}
		return
	}
	taken, busy := map[string]bool{}, map[int]bool{}
	for _, pod := range j.of[run.Name] {
		taken[pod.Meta.Name] = true
		if !over(pod) || pod.Status.Phase == api.PhaseSucceeded && byItself(pod) {
			busy[indexOf(pod)] = true
		}
	}
	room := api.Deref(j.s.Parallelism) - run.Active
	for i := 0; i < api.Deref(j.s.Completions) && room > 0 && len(j.create) < mostCreated; i++ {
		if !busy[i] {
			j.create = append(j.create, j.pod(run, i, taken))
			room--
		}
	}
}

// blocker returns the run whose pods must have ended before this one makes any:
// those there are, and those it is given by this very plan. Two runs go on when
// both began while that was allowed.
func (j *jobWork) blocker(run *api.Run) *api.Run {
	if j.s.Concurrency == api.ConcurrencyAllow {
		return nil
	}
	for i := range j.status.Runs {
		other := &j.status.Runs[i]
		if other.Name != run.Name && (other.Active > 0 || slices.ContainsFunc(j.create, func(p *api.Pod) bool { return p.Spec.Run == other.Name })) {
			return other
		}
	}
	return nil
}

// pod makes the next attempt at an index.
func (j *jobWork) pod(run *api.Run, index int, taken map[string]bool) *api.Pod {
	name := ""
	for attempt := 0; name == "" || taken[name]; attempt++ {
		name = fmt.Sprintf("%s-%d-%d", run.Name, index, attempt)
	}
	t := j.s.PodTemplate
	t.Env = maps.Clone(t.Env)
	if t.Env == nil {
		t.Env = map[string]string{}
	}
	if _, set := t.Env[api.IndexEnv]; !set {
		t.Env[api.IndexEnv] = strconv.Itoa(index)
	}
	ref := refOf(api.Jobs, j.job)
	contents, _ := j.see.contentsOf(t)
	return &api.Pod{
		Meta: api.Meta{Name: name, Namespace: ref.Namespace, Labels: j.job.Meta.Labels, Owner: &ref},
		Spec: api.PodSpec{PodTemplate: t, Job: ref.Name, Run: run.Name, Revision: j.s.Revision(), Contents: contents, Once: true},
	}
}

// indexOf reads the index from a pod's name, <run>-<index>-<attempt>.
func indexOf(pod *api.Pod) int {
	parts := strings.Split(pod.Meta.Name, "-")
	if len(parts) < 2 {
		return -1
	}
	n, err := strconv.Atoi(parts[len(parts)-2])
	if err != nil {
		return -1
	}
	return n
}

// forget drops runs that ended long ago, of those that ran and of those that
// were skipped as many as keep says each stay, and pods that belong to none.
func (j *jobWork) forget() {
	kept := map[bool]int{}
	j.status.Runs = slices.DeleteFunc(j.status.Runs, func(r api.Run) bool {
		if !r.Phase.Ended() {
			return false
		}
		skipped := r.Phase == api.RunSkipped
		kept[skipped]++
		return kept[skipped] > api.Deref(j.s.Keep) && r.Active == 0
	})
	for _, name := range slices.Sorted(maps.Keys(j.of)) {
		run := j.status.RunOf(name)
		for _, pod := range j.of[name] {
			switch {
			case run != nil && !(pod.Meta.Deleting() && pod.Spec.Node == ""):
			case over(pod):
				j.finalize = append(j.finalize, pod)
			case !pod.Meta.Deleting():
				j.remove = append(j.remove, removal{pod, "it belongs to no run"})
			}
		}
	}
}

// message says what the job does or waits for.
func (j *jobWork) message() string {
	for i := range j.status.Runs {
		run := &j.status.Runs[i]
		if run.Phase != api.RunRunning {
			continue
		}
		if other := j.blocker(run); other != nil {
			return fmt.Sprintf("run %s waits until the pods of run %s have stopped", run.Name, other.Name)
		}
		m := fmt.Sprintf("run %s: %d of %d pods succeeded", run.Name, run.Succeeded, api.Deref(j.s.Completions))
		if run.Failed > 0 {
			m += fmt.Sprintf(", %d failed (retries = %d)", run.Failed, api.Deref(j.s.Retries))
		}
		for _, pod := range j.of[run.Name] {
			if !over(pod) && (pod.Status.Message != "" || pod.Status.Fatal != nil) {
				return m + "; " + pod.Meta.Name + ": " + why(pod)
			}
		}
		return m
	}
	if api.Deref(j.s.Suspend) {
		return "suspended: no run starts by itself"
	}
	for _, run := range j.status.Runs {
		switch run.Phase {
		case api.RunSkipped:
			continue
		case api.RunFailed:
			return fmt.Sprintf("run %s failed: %s", run.Name, run.Message)
		}
		break
	}
	return ""
}
