package pod

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// book notes what became of the current run of a container.
func (p *planner) book(name string) {
	p.adopt(name)
	l := p.life(name)
	r, begun := p.current(name)
	exited := begun && r.State == runtime.Exited
	switch f, failed := p.see.Failed[name]; {
	case p.pod.Spec.Once && name == api.MainContainer && !begun && !p.rec.Status.StartedAt.IsZero():
		p.finish(runtime.Status{Exit: runtime.Exit{Unknown: true}}) // it ran, and nothing is left of it
	case exited && p.pod.Spec.Once && name == api.MainContainer:
		p.finish(r)
	case p.see.Rebuilt && (begun || l.Done):
		if exited && !r.Exit.Unknown {
			l.Last = exitOf(r)
		}
		p.event(true, "restarted", "%s starts again: the node was rebooted", name)
		p.setLife(name, life{Attempt: l.Attempt + 1, Last: l.Last})
	case l.Done:
	case failed && f.Attempt == l.Attempt:
		p.ended(name, f.At, &api.Exit{Code: 127, At: f.At}, "cannot_start", fmt.Sprintf("%s cannot start: %s", name, f.Err))
	case exited && r.Exit.Unknown:
		// The machine or the runtime went away under it: no fault of its own.
		p.event(true, "restarted", "%s ended and nobody saw how", name)
		p.setLife(name, life{Attempt: l.Attempt + 1, Streak: l.Streak, Last: l.Last})
	case exited && p.isInit(name) && r.Exit.Code == 0:
		p.event(false, "init_done", "%s is done%s", name, ran(r))
		p.setLife(name, life{Attempt: l.Attempt, Last: exitOf(r), Done: true})
		p.mended(name, "crash_loop", "out_of_memory", "cannot_start", "image_unavailable")
	case exited:
		if !r.StartedAt.IsZero() && r.Exit.At.Sub(r.StartedAt) >= p.restart().ResetAfter.D() {
			l.Streak = 0
			p.setLife(name, l)
		}
		reason, message := p.story(name, r)
		p.ended(name, orTime(r.Exit.At, p.now), exitOf(r), reason, message)
	}
}

// adopt takes the newest run of a container for the current one, should the
// record not know of it.
func (p *planner) adopt(name string) {
	for _, r := range p.see.Runs {
		if r.Labels[LabelContainer] != name {
			continue
		}
		if n := attemptOf(r.Labels); n > p.life(name).Attempt {
			p.setLife(name, life{Attempt: n, Streak: p.life(name).Streak, Healthy: p.life(name).Healthy})
		}
	}
}

// story says in words how a run ended.
func (p *planner) story(name string, r runtime.Status) (reason, message string) {
	l := p.life(name)
	switch {
	case r.Exit.OOM:
		return "out_of_memory", fmt.Sprintf("%s was killed%s for using more than its %s of memory", name, ran(r), limits(p.spec(name)).Memory)
	case l.Ending.Why != "":
		return "unhealthy", fmt.Sprintf("%s was restarted%s: %s%s", name, ran(r), l.Ending.Why, p.crammed(name))
	}
	return "crash_loop", fmt.Sprintf("%s exited with code %d%s%s", name, r.Exit.Code, ran(r), p.crammed(name))
}

// ran says how long a run was, to a readable precision.
func ran(r runtime.Status) string {
	if r.StartedAt.IsZero() || r.Exit.At.IsZero() {
		return ""
	}
	d := r.Exit.At.Sub(r.StartedAt)
	if d < time.Second {
		return " after " + d.Round(time.Millisecond).String()
	}
	return " after " + d.Round(100*time.Millisecond).String()
}

// ended books the bad end of the current run, and when the next begins. After
// too many in a row the pod ends: another node may have what this one lacks.
// Sidecars try on.
func (p *planner) ended(name string, at time.Time, exit *api.Exit, reason, message string) {
	l, policy := p.life(name), p.restart()
	what := reason
	if reason == "crash_loop" { // one end is none yet
		what = "exited"
	}
	p.event(true, what, "%s", message)
	streak := l.Streak + 1
	p.setLife(name, life{
		Attempt: l.Attempt + 1, Streak: streak, Last: exit, Reason: reason, Message: message,
		Until: at.Add(backoff(policy.Backoff.D(), policy.MaxBackoff.D(), streak, jitter(p.pod.Meta.UID, name, l.Attempt))),
	})
	certain := streak >= certainAt || reason == "cannot_start"
	spent := !p.isSidecar(name) && streak >= *policy.Attempts
	if !certain && !spent {
		return
	}
	cause := p.cause(name, reason, message)
	if reason == "cannot_start" {
		cause.Message += "; check command and image"
	} else {
		cause.OOM, cause.ExitCode, cause.Log = exit.OOM, &exit.Code, p.see.Tails[name]
		if streak > 1 {
			cause.Message = fmt.Sprintf("%s, %d times in a row", message, streak)
		}
	}
	if streak == certainAt {
		p.event(true, reason, "%s", cause.Message)
	}
	p.fatal(cause)
	// A pod that runs once is to be tried again by its owner.
	if spent || p.pod.Spec.Once && (name == api.MainContainer || !p.rec.Begun) {
		p.over(cause)
	}
}

// finish takes the end of main for that of a pod that runs once.
func (p *planner) finish(r runtime.Status) {
	const name = api.MainContainer
	if p.rec.Outcome != "" {
		return
	}
	if r.Exit.Unknown {
		p.over(p.cause(name, "unseen", "main ended and nobody saw how: its node was rebooted, or lost power"))
		return
	}
	l := p.life(name)
	l.Last = exitOf(r)
	p.setLife(name, l)
	if r.Exit.Code == 0 && l.Ending.Why == "" {
		p.event(false, "completed", "main is done%s", ran(r))
		p.over(nil)
		return
	}
	reason, message := p.story(name, r)
	if reason == "crash_loop" { // it is not started again
		reason = "exited"
	}
	cause := p.cause(name, reason, message)
	cause.OOM, cause.ExitCode, cause.Log = l.Last.OOM, &l.Last.Code, p.see.Tails[name]
	p.over(cause)
}

// over ends the pod by itself, well or for a cause. Nobody is served any more,
// so what still runs is asked to end without waiting for the proxies.
func (p *planner) over(cause *api.Cause) {
	p.rec.Outcome, p.rec.Status.Fatal = api.PhaseSucceeded, cause
	if cause != nil {
		p.rec.Outcome = api.PhaseFailed
		p.event(true, "failed", "the pod ends: %s", cause.Message)
	}
	s := &p.rec.Stop
	s.Since, s.Signal = orTime(s.Since, p.now), orTime(s.Signal, p.now)
}

// cause is the start of why the pod cannot run: what it is about.
func (p *planner) cause(name, reason, message string) *api.Cause {
	return &api.Cause{Reason: reason, Message: message, Pod: p.pod.Meta.Name, Node: p.pod.Spec.Node, Container: name}
}

// fatal declares what is certain now. What was declared of another container
// stays until it mends.
func (p *planner) fatal(c *api.Cause) {
	if old := p.rec.Status.Fatal; old == nil || old.Container == c.Container {
		p.rec.Status.Fatal = c
	}
}

// mended takes back what was declared of a container for one of the reasons.
func (p *planner) mended(name string, reasons ...string) {
	if f := p.rec.Status.Fatal; f != nil && f.Container == name && slices.Contains(reasons, f.Reason) {
		p.rec.Status.Fatal = nil
	}
}
