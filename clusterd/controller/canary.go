package controller

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// trial is how many pods of the change run beside all the old ones; 0 when
// nothing is on trial: the canary was promoted, or there is nothing to compare
// it with.
func (r *rollout) trial() int {
	ro := &r.status.Rollout
	if r.update.Canary == nil || ro.Phase != api.RolloutInProgress || ro.Promoted || ro.IsRollback() || r.resize || r.was.revision == "" {
		return 0
	}
	return min(*r.update.Canary, r.want)
}

// onTrial reports whether a canary is on trial. One that was promoted is not.
func (r *rollout) onTrial() bool {
	ro := &r.status.Rollout
	if r.trial() == 0 {
		return false
	}
	if ro.Number > 0 && r.status.Intent.Promote == ro.Number {
		r.promote("by a user")
	} else if auto := r.update.AutoPromote.D(); auto > 0 && !ro.HeldSince.IsZero() && r.tried() {
		left := auto - r.now.Sub(ro.HeldSince)
		r.sooner(left)
		if left <= 0 {
			r.promote("healthy for " + auto.String())
		}
	}
	return !ro.Promoted
}

func (r *rollout) promote(why string) {
	ro := &r.status.Rollout
	ro.Promoted, ro.HeldSince, ro.ProgressAt = true, time.Time{}, r.now
	r.event(false, "canary_promoted", "canary of generation %d is promoted: %s", ro.Generation, why)
}

// tried reports whether as many pods of the change as are on trial are healthy.
func (r *rollout) tried() bool { return len(filter(r.f.current, r.healthy)) >= r.trial() }

// canary runs the pods on trial, keeps the old ones as many as they should be,
// and holds once all on trial are healthy. The deadline waits meanwhile.
func (r *rollout) canary() {
	stay, leaving := r.split(r.f.current)
	r.roll(group{source: r.is, cur: stay, old: leaving, n: r.trial()})
	r.spare()
	healthyOnes := func(pod *api.Pod) bool { return pod.Spec.Revision == r.was.revision }
	kept, moved := r.split(filter(r.f.older, healthyOnes))
	others := filter(r.f.older, func(pod *api.Pod) bool { return !healthyOnes(pod) })
	r.roll(group{r.was, kept, append(moved, others...), r.want, r.floor})
	r.hold()
}

// spare keeps ready pods of the change that would be missed: when one that was
// given up is tried again, more of them may be there than are on trial, and
// nothing else. They go as others come to serve in their place.
func (r *rollout) spare() {
	surplus := len(ready(r.f.current)) + len(ready(r.f.older)) - r.want
	r.remove = slices.DeleteFunc(r.remove, func(x removal) bool {
		if !x.pod.Status.Ready {
			return false
		}
		surplus--
		return surplus < 0
	})
}

// hold holds once all pods on trial are healthy, and while they are.
func (r *rollout) hold() {
	ro := &r.status.Rollout
	switch tried := r.tried(); {
	case tried && ro.HeldSince.IsZero():
		ro.HeldSince = r.now
		r.sooner(r.update.AutoPromote.D())
		r.event(false, "canary_held", "%s", r.held())
	case !tried && !ro.HeldSince.IsZero():
		ro.HeldSince, ro.ProgressAt = time.Time{}, r.now
	}
}

// held says what a canary waits for, and how it ends.
func (r *rollout) held() string {
	m, ro := r.app.Meta, &r.status.Rollout
	how := fmt.Sprintf("promote it with clusterd rollout promote app/%s -n %s, or give it up with clusterd rollout abort app/%s -n %s", m.Name, m.Namespace, m.Name, m.Namespace)
	if auto := r.update.AutoPromote.D(); auto > 0 {
		how = fmt.Sprintf("it is promoted by itself at %s; sooner with clusterd rollout promote app/%s -n %s", ro.HeldSince.Add(auto).Format(time.RFC3339), m.Name, m.Namespace)
	}
	return fmt.Sprintf("canary of %d is healthy since %s: %s", r.trial(), ro.HeldSince.Format(time.RFC3339), how)
}

// aim is how many healthy pods of the revision are aimed at now.
func (r *rollout) aim() int {
	if n := r.trial(); n > 0 {
		return n
	}
	return r.want
}

// progress says how many pods of a revision are healthy, and how many should be.
func (r *rollout) progress(healthy int, revision string) string {
	if more := healthy - r.aim(); more > 0 {
		return fmt.Sprintf("%d pods of %s are healthy, %d more than wanted", healthy, revision, more)
	}
	return fmt.Sprintf("%d of %d pods of %s are healthy", healthy, r.aim(), revision)
}
