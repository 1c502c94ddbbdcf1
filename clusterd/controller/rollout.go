package controller

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// The phases of a rollout. Each goes one way through it, once:
//
//	             all pods healthy
//	in_progress ─────────────────────────────► complete
//	     │ failed for certain ──┬─ nothing healthy before, or itself a rollback ─► failed
//	     │ or aborted           ├─ on_failure = pause ───────────────────────────► paused
//	     │                      └─ else: last healthy revision put back ─────────► rolled_back
//	     └─ something newer is asked for ────────────────────────────────────────► superseded
//
// A rollback that the quota has no room for is a pause. One with a canary holds
// on its way until it is promoted or aborted.

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
	see facts
	now time.Time

	update                api.Update
	want, parallel, floor int
	surge                 int      // pods above want
	hosts                 []string // of a per_node app: where pods are wanted
	leaves                map[*api.Pod]leave
	healthyFor            time.Duration
	resize                bool             // same revision as the last healthy one
	is                    source           // of the rollout's pods
	was                   source           // of the pods that were healthy last
	lack                  *api.Cause       // the config or secret that it waits for
	ordinals              map[int]*api.Pod // of a stateful app: who holds each, ended or not
	starved               string           // what the quota says to what it has no room for
	taken                 map[string]bool
	next                  map[string]int // by revision: no name with a smaller number is free
}

// source is what pods are made from.
type source struct {
	template api.PodTemplate
	revision string
	contents map[string]string
}

func newRollout(app *api.App, p *appPlan, f fleet, see facts) *rollout {
	u, ro := api.Deref(app.Effective.Update), &p.status.Rollout
	a := *app
	a.Status.Desired = p.status.Desired
	r := &rollout{appPlan: p, app: app, f: f, see: see, now: see.now, update: u,
		want: p.status.Desired, surge: api.Deref(u.Surge), parallel: max(api.Deref(u.MaxParallel), 1), floor: api.Floor(&a),
		healthyFor: u.HealthyFor.D(), is: source{app.Effective.Template(), ro.Revision, ro.Contents},
		leaves: map[*api.Pod]leave{}, taken: map[string]bool{}, next: map[string]int{},
	}
	for _, pod := range f.all {
		r.taken[pod.Meta.Name] = true
	}
	for _, pod := range slices.Concat(f.current, f.older) {
		if l, ok := see.leaving(pod); ok {
			r.leaves[pod] = l
		}
	}
	if len(r.leaves) > 0 && r.surge == 0 && (r.want == 1 || r.floor >= r.want) && app.Effective.Stateful == nil {
		r.surge = 1
	}
	if healthy := p.status.LastHealthy(); healthy != nil {
		var s api.AppSpec
		if json.Unmarshal(healthy.Spec, &s) == nil {
			r.was = source{s.WithDefaults().Pinned(healthy.Images).Template(), healthy.Revision, healthy.Contents}
		}
		if healthy.Revision == ro.Revision {
			r.resize, r.healthyFor = true, 0
		}
	}
	if app.Effective.Stateful != nil {
		r.enrol()
	}
	return r
}

// healthy reports whether a pod has been ready for long enough, and no container
// of it has ended meanwhile; that of a sidecar need not make the pod unready. One
// that is called crashing waits until its node takes that back.
func (r *rollout) healthy(pod *api.Pod) bool {
	if !pod.Status.Ready || pod.Status.Fatal != nil && r.blames(pod) {
		return false
	}
	since := pod.Status.ReadyAt
	for _, c := range pod.Status.Containers {
		if c.Last != nil && c.Last.At.After(since) {
			since = c.Last.At
		}
	}
	left := r.healthyFor - r.now.Sub(since)
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
	if ro.Number > 0 && r.status.Intent.Abort == ro.Number {
		r.fail(&api.Cause{Reason: api.Aborted, Message: "aborted by a user"})
		return
	}
	if r.waitForContents() {
		return
	}
	if len(r.f.older) == 0 && len(r.f.current) == r.want && healthy == r.want {
		ro.Phase, ro.EndedAt, ro.HeldSince = api.RolloutComplete, r.now, time.Time{}
		r.event(false, "rollout_complete", "generation %d is complete: %d of revision %s", ro.Generation, r.want, ro.Revision)
		r.heal()
		return
	}
	if c := r.certain(); c != nil {
		r.fail(c)
		return
	}
	r.replaceFatal()
	if slices.ContainsFunc(r.f.ended, func(pod *api.Pod) bool { return pod.Meta.Deleting() && pod.Spec.Revision != ro.Revision }) {
		ro.ProgressAt = r.now // an old pod is gone and has left its room
	}
	r.bury(nil)
	r.step()
	if !ro.HeldSince.IsZero() {
		return // somebody else's turn
	}
	if c := r.stalled(); c != nil {
		r.create, r.remove = nil, nil
		r.fail(c)
	}
}

// fail ends the rollout for a cause, and puts the last healthy spec and
// contents back where it may.
func (r *rollout) fail(c *api.Cause) {
	st, ro := &r.status, &r.status.Rollout
	ro.Cause, ro.EndedAt, ro.HeldSince = c, r.now, time.Time{}
	healthy := st.LastHealthy()
	same := healthy != nil && r.sameSpec(healthy)
	full := r.see.refused[refOf(api.Apps, r.app)]
	if full != "" {
		told := *c
		told.Message += "; what was healthy last is not put back: " + full
		c, ro.Cause = &told, &told
	}
	switch {
	case healthy == nil || ro.IsRollback() || same && healthy.Revision == ro.Revision:
		ro.Phase = api.RolloutFailed
		r.event(true, "rollout_failed", "generation %d failed: %s", ro.Generation, c.Message)
		return
	case r.update.OnFailure == "pause" || full != "":
		ro.Phase = api.RolloutPaused
		r.event(true, "rollout_paused", "generation %d failed and is paused: %s", ro.Generation, c.Message)
		return
	}
	ro.Phase = api.RolloutRolledBack
	r.event(true, "rolled_back", "generation %d failed and revision %s of generation %d is put back: %s", ro.Generation, healthy.Revision, healthy.Generation, c.Message)
	back := *healthy
	back.Number, back.Generation, back.Reason = ro.Number+1, ro.Generation, api.RollbackOf(ro.Generation)
	r.putBackContents(ro, healthy)
	template := r.is.template
	if !same {
		back.Generation++
		r.rollback, r.rollbackTo, template = healthy.Spec, healthy.Number, r.was.template
	}
	back.Asked = api.Asked(r.afterPutBack(template), st.Intent.Restart)
	back.Phase, back.StartedAt, back.ProgressAt, back.EndedAt = api.RolloutInProgress, r.now, r.now, time.Time{}
	back.Healthy, back.Failed, back.Promoted = 0, 0, false
	r.retire(r.now)
	st.Rollout, st.ObservedGeneration, st.Failures, st.FailedAt = back, back.Generation, 0, time.Time{}
}

// sameSpec reports whether an earlier rollout had what is declared now, and the
// same images: putting that back would change nothing.
func (r *rollout) sameSpec(before *api.Rollout) bool {
	var s api.AppSpec
	return json.Unmarshal(before.Spec, &s) != nil || reflect.DeepEqual(s, r.app.Spec) && maps.Equal(before.Images, r.status.Rollout.Images)
}

// message says what the app waits for.
func (r *rollout) message() string {
	st := r.status
	if ro := st.Rollout; ro.IsRollback() && ro.StartedAt.Equal(r.now) && len(st.History) > 0 && st.History[0].Cause != nil {
		return fmt.Sprintf("%s: %s", ro.Reason, st.History[0].Cause.Message)
	}
	switch ro := st.Rollout; ro.Phase {
	case api.RolloutInProgress:
		if !ro.HeldSince.IsZero() {
			return r.held()
		}
		if r.lack != nil {
			return "waits: " + r.lack.Message
		}
		if r.starved != "" {
			return api.WaitsForQuota + r.starved
		}
		m := r.progress(len(filter(r.f.current, r.healthy)), "revision "+ro.Revision)
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
	if r.starved != "" {
		return api.WaitsForQuota + r.starved
	}
	if st.Ready >= r.want {
		return r.drains()
	}
	m := fmt.Sprintf("%d of %d pods are ready", st.Ready, r.want)
	for _, pod := range r.f.current {
		if !pod.Status.Ready {
			return m + "; " + pod.Meta.Name + ": " + why(pod)
		}
	}
	return m
}
