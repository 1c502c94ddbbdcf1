package controller

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// The phases of a rollout. Each generation goes one way through it, once:
//
//	             all pods healthy
//	in_progress ─────────────────────────────► complete
//	     │ failed for certain ──┬─ nothing healthy before, or itself a rollback ─► failed
//	     │                      ├─ on_failure = pause ───────────────────────────► paused
//	     │                      └─ else: last healthy spec put back ─────────────► rolled_back
//	     └─ a newer generation ──────────────────────────────────────────────────► superseded

const (
	// unplaceable is how long pods that fit no node are waited for when nothing
	// else is under way that could help.
	unplaceable = 20 * time.Second
	// unplaced is how long a pod may look for a node before an old one makes room.
	unplaced = 3 * time.Second
	// failuresMost is how many pods of a new revision may fail for no certain
	// cause before their number is one.
	failuresMost = 3
	// Delays before a failed pod is replaced: none, then 10 s, doubling.
	failureDelay    = 10 * time.Second
	failureDelayMax = 5 * time.Minute
	failureForget   = 10 * time.Minute
)

// rollout works on the plan of one app at one moment.
type rollout struct {
	*appPlan
	app *api.App
	f   fleet
	now time.Time

	replicas, surge, parallel, floor int
	healthyFor                       time.Duration
	resize                           bool // same revision as the last healthy one
	template                         api.PodTemplate
	revision                         string
	taken                            map[string]bool
	next                             int // no name with a smaller number is free
}

func newRollout(app *api.App, p *appPlan, f fleet, now time.Time) *rollout {
	s, u := app.Effective, api.Deref(app.Effective.Update)
	r := &rollout{appPlan: p, app: app, f: f, now: now,
		replicas: api.Deref(s.Replicas), surge: api.Deref(u.Surge), parallel: max(api.Deref(u.MaxParallel), 1),
		healthyFor: u.HealthyFor.D(), template: s.Template(), revision: p.status.Rollout.Revision, taken: map[string]bool{},
	}
	r.floor = min(api.Deref(u.MinAvailable), r.replicas)
	for _, pod := range f.all {
		r.taken[pod.Meta.Name] = true
	}
	if healthy := p.status.LastHealthy(); healthy != nil && healthy.Revision == r.revision {
		r.resize, r.healthyFor = true, 0
	}
	return r
}

// isRollback reports whether the rollout puts back an earlier one.
func (r *rollout) isRollback() bool { return strings.HasPrefix(r.status.Rollout.Reason, rollbackOf) }

const rollbackOf = "rollback of generation "

// healthy reports whether a pod has been ready for long enough.
func (r *rollout) healthy(pod *api.Pod) bool {
	if !pod.Status.Ready {
		return false
	}
	left := r.healthyFor - r.now.Sub(pod.Status.ReadyAt)
	r.sooner(left)
	return left <= 0
}

// fresh reports whether a pod was made by this rollout.
func (r *rollout) fresh(pod *api.Pod) bool {
	return !pod.Meta.CreatedAt.Before(r.status.Rollout.StartedAt)
}

// proceed takes the rollout in progress one step further, or ends it.
func (r *rollout) proceed() {
	ro := &r.status.Rollout
	healthy := len(filter(r.f.current, r.healthy))
	if healthy > ro.Healthy {
		ro.Healthy, ro.ProgressAt = healthy, r.now
	}
	if len(r.f.older) == 0 && len(r.f.current) == r.replicas && healthy == r.replicas {
		ro.Phase, ro.EndedAt = api.RolloutComplete, r.now
		r.event(false, "rollout_complete", "generation %d is complete: %d of revision %s", ro.Generation, r.replicas, ro.Revision)
		r.heal()
		return
	}
	if c := r.certain(); c != nil {
		r.fail(c)
		return
	}
	if r.resize {
		r.replaceFatal()
	}
	if slices.ContainsFunc(r.f.ended, func(pod *api.Pod) bool { return pod.Meta.Deleting() && pod.Spec.Revision != r.revision }) {
		ro.ProgressAt = r.now // an old pod is gone and has left its room
	}
	r.bury(nil)
	r.step()
	if c := r.stalled(); c != nil {
		r.create, r.remove = nil, nil
		r.fail(c)
	}
}

// fail ends the rollout for a cause, and puts the last healthy spec back where
// it may.
func (r *rollout) fail(c *api.Cause) {
	st, ro := &r.status, &r.status.Rollout
	ro.Cause, ro.EndedAt = c, r.now
	healthy := st.LastHealthy()
	switch {
	case healthy == nil || r.isRollback() || r.sameSpec(healthy):
		ro.Phase = api.RolloutFailed
		r.event(true, "rollout_failed", "generation %d failed: %s", ro.Generation, c.Message)
		return
	case api.Deref(r.app.Effective.Update).OnFailure == "pause":
		ro.Phase = api.RolloutPaused
		r.event(true, "rollout_paused", "generation %d failed and is paused: %s", ro.Generation, c.Message)
		return
	}
	ro.Phase = api.RolloutRolledBack
	r.event(true, "rolled_back", "generation %d failed and generation %d is put back: %s", ro.Generation, healthy.Generation, c.Message)
	r.rollback = healthy.Spec
	back := api.Rollout{
		Generation: ro.Generation + 1, Revision: healthy.Revision, Phase: api.RolloutInProgress, Image: healthy.Image,
		Reason: fmt.Sprint(rollbackOf, ro.Generation), StartedAt: r.now, ProgressAt: r.now, Spec: healthy.Spec,
	}
	r.retire(r.now)
	st.Rollout, st.ObservedGeneration, st.Failures, st.FailedAt = back, back.Generation, 0, time.Time{}
}

// sameSpec reports whether an earlier rollout had what is declared now: putting
// that back would change nothing.
func (r *rollout) sameSpec(before *api.Rollout) bool {
	var s api.AppSpec
	return json.Unmarshal(before.Spec, &s) != nil || reflect.DeepEqual(s, r.app.Spec)
}

// step creates and removes pods towards replicas healthy ones of the revision.
//
// Old ready pods go only when at least replicas pods serve without them; with
// no surge, or when the surge finds no node, the ready ones may go down to
// min_available. At most max_parallel pods are not healthy yet at a time.
// Everything on a node counts against replicas + surge, stopping pods too.
func (r *rollout) step() {
	cur, old := r.f.current, r.f.older
	if n := len(cur) - r.replicas; n > 0 {
		slices.SortStableFunc(cur, r.worth)
		for _, pod := range cur[:n] {
			r.remove = append(r.remove, removal{pod, "more than replicas"})
		}
		cur = cur[n:]
	}
	unhealthy := len(cur) - len(filter(cur, r.healthy))
	lacking := max(0, r.replicas-len(cur)-len(old))
	slots := max(0, r.parallel-unhealthy-lacking) // replacements that may begin
	room := max(0, r.replicas+r.surge-len(r.f.current)-len(old)-len(r.f.stopping))
	fill := min(lacking, room)
	wanted := max(0, min(slots, len(old), r.replicas-len(cur)-fill))
	ahead := min(wanted, room-fill)
	if gate := r.gate(); gate > 0 {
		r.sooner(gate)
		fill, ahead = 0, 0
	}
	r.add(fill + ahead)
	r.yield(cur, old, wanted-ahead, len(cur)+fill+ahead+len(old)-r.replicas)
}

// yield removes old pods: unready ones first, surplus of them for pods that
// were added, and blocked to make room for pods that could not be; then ready
// ones that are not needed any more.
func (r *rollout) yield(cur, old []*api.Pod, blocked, surplus int) {
	unready := filter(old, func(pod *api.Pod) bool { return !pod.Status.Ready })
	slices.SortStableFunc(unready, r.worth)
	for _, pod := range unready[:max(0, min(len(unready), max(surplus, blocked)))] {
		r.remove = append(r.remove, removal{pod, "old revision, not ready"})
		blocked--
	}
	serving := ready(old)
	available := len(filter(cur, r.healthy)) + len(serving)
	squeezed := 0
	switch {
	case r.surge == 0:
		squeezed = blocked
	case r.crowded(cur):
		squeezed = r.parallel - max(0, r.replicas-len(cur)-len(old))
	}
	for _, pod := range serving {
		switch {
		case available > r.replicas:
			r.remove = append(r.remove, removal{pod, "replaced"})
		case squeezed > 0 && available > r.floor:
			r.remove = append(r.remove, removal{pod, "makes room"})
			squeezed--
		default:
			return
		}
		available--
	}
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

// heal keeps replicas pods alive when no rollout is under way. Of a rollout
// that was given up it replaces what it lost by what was healthy last; a first
// rollout that failed keeps its pods, for they say why.
func (r *rollout) heal() {
	if r.status.Rollout.Phase == api.RolloutComplete {
		r.forgive()
		r.replaceFatal()
		r.bury(nil)
		r.step()
		return
	}
	healthy := r.status.LastHealthy()
	if healthy == nil {
		r.bury(func(pod *api.Pod) bool { return pod.Status.Phase != api.PhaseLost && !pod.Meta.Deleting() })
	} else {
		r.bury(nil)
		var s api.AppSpec
		if json.Unmarshal(healthy.Spec, &s) == nil {
			r.template, r.revision = s.WithDefaults().Template(), healthy.Revision
		}
	}
	kept := len(r.f.ended) - len(r.finalize)
	n := r.replicas - len(r.f.current) - len(r.f.older) - kept
	n = min(n, r.replicas+r.surge-len(r.f.current)-len(r.f.older)-len(r.f.stopping))
	if gate := r.gate(); n > 0 && gate > 0 {
		r.sooner(gate)
		return
	}
	r.add(n)
}

// bury removes ended pods for good but for those to keep, and counts those
// that failed.
func (r *rollout) bury(keep func(*api.Pod) bool) {
	failed := false
	for _, pod := range r.f.ended {
		if keep != nil && keep(pod) {
			continue
		}
		r.finalize = append(r.finalize, pod)
		if pod.Meta.Deleting() {
			continue
		}
		failed = failed || r.counts(pod)
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
// node may have what this one lacks.
func (r *rollout) replaceFatal() {
	i := slices.IndexFunc(r.f.current, func(pod *api.Pod) bool {
		return pod.Status.Fatal != nil && !pod.Status.Ready && (r.status.Rollout.Phase != api.RolloutInProgress || !r.fresh(pod))
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
	r.remove = append(r.remove, removal{pod, "cannot run: " + pod.Status.Fatal.Reason})
	r.event(true, "replaced", "%s cannot run and is replaced: %s", pod.Meta.Name, why(pod))
	r.failure()
}

// add plans n new pods.
func (r *rollout) add(n int) {
	ref := refOf(api.Apps, r.app)
	for range n {
		r.create = append(r.create, &api.Pod{
			Meta: api.Meta{Name: r.podName(), Namespace: ref.Namespace, Labels: r.app.Meta.Labels, Owner: &ref},
			Spec: api.PodSpec{PodTemplate: r.template, App: ref.Name, Revision: r.revision},
		})
	}
}

// podName returns the first free name <app>-<revision>-<n>.
func (r *rollout) podName() string {
	for {
		name := label(r.app.Meta.Name, fmt.Sprintf("-%s-%d", r.revision, r.next))
		if r.next++; !r.taken[name] {
			return name
		}
	}
}

// label joins name and suffix to a DNS label: a name that is too long is cut,
// and told apart from others cut alike by a hash.
func label(name, suffix string) string {
	const most = 63
	if len(name)+len(suffix) <= most {
		return name + suffix
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("%s-%06x%s", name[:most-len(suffix)-7], h.Sum32()&0xffffff, suffix)
}

// worth orders pods of one revision by what would be lost with them: first
// what has no node, then what cannot run or is not ready, then the youngest.
func (r *rollout) worth(a, b *api.Pod) int {
	rank := func(pod *api.Pod) int {
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
	return cmp.Or(cmp.Compare(rank(a), rank(b)), b.Meta.CreatedAt.Compare(a.Meta.CreatedAt), strings.Compare(b.Meta.Name, a.Meta.Name))
}

// message says what the app waits for.
func (r *rollout) message() string {
	st := r.status
	if r.rollback != nil {
		return fmt.Sprintf("%s: %s", st.Rollout.Reason, st.History[0].Cause.Message)
	}
	switch ro := st.Rollout; ro.Phase {
	case api.RolloutInProgress:
		m := fmt.Sprintf("%d of %d pods of revision %s are healthy", len(filter(r.f.current, r.healthy)), r.replicas, ro.Revision)
		if ro.Reason != "" {
			m = ro.Reason + ": " + m
		}
		for _, pod := range r.f.current {
			if !pod.Status.Ready && (pod.Status.Message != "" || pod.Status.Fatal != nil) {
				return m + "; " + pod.Meta.Name + ": " + why(pod)
			}
		}
		return m
	case api.RolloutFailed, api.RolloutPaused:
		if ro.Cause != nil {
			return "rollout " + string(ro.Phase) + ": " + ro.Cause.Message
		}
	}
	if st.Ready >= r.replicas {
		return ""
	}
	m := fmt.Sprintf("%d of %d pods are ready", st.Ready, r.replicas)
	for _, pod := range r.f.current {
		if !pod.Status.Ready {
			return m + "; " + pod.Meta.Name + ": " + why(pod)
		}
	}
	return m
}
