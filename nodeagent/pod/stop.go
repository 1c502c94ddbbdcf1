package pod

import (
	"maps"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// minLast is how long sidecars have after the main container, and main after
// pre_stop, whatever they used up of the pod's grace.
const minLast = time.Second

// linger is how long a connection may be on its way.
const linger = 250 * time.Millisecond

// stop ends the pod: it says so, waits until nobody sends clients any more,
// has main prepare, asks it to end and then the sidecars, the last first, forces
// them after the grace, and leaves nothing behind.
func (p *planner) stop() {
	s := &p.rec.Stop
	if s.Since.IsZero() {
		s.Since = p.now
		p.event(false, "stopping", "asked to stop")
	}
	p.forward(api.PhaseStopping)
	for _, name := range p.names() {
		p.adopt(name)
		r, ok := p.current(name)
		if !ok || r.State != runtime.Exited || r.Exit.Unknown {
			continue
		}
		l := p.life(name)
		l.Last = exitOf(r)
		p.setLife(name, l)
		if name == api.MainContainer && p.pod.Spec.Once && l.Ending.Since.IsZero() {
			p.finish(r) // it had done its work when it would have been asked
		}
	}
	if !p.drained() {
		return
	}
	if s.Signal.IsZero() {
		s.Signal = p.now
	}
	if !p.hooked() {
		return
	}
	alive := p.alive()
	if len(alive) == 0 {
		p.clean()
		if p.see.Gone && len(p.see.Runs) == 0 {
			p.forward(p.outcome())
			p.event(false, "stopped", "every container has ended")
		}
		return
	}
	backwards := append(p.inits(), p.sidecars()...)
	slices.Reverse(backwards)
	for _, name := range append([]string{api.MainContainer}, backwards...) {
		if _, ok := alive[name]; ok {
			p.end(name)
			return
		}
	}
}

// outcome is what a pod becomes once nothing of it is left: what it came to by
// itself, or else whether it had done what was asked of it.
func (p *planner) outcome() api.Phase {
	switch {
	case p.rec.Outcome != "":
		return p.rec.Outcome
	case p.rec.Status.Fatal != nil || p.pod.Spec.Once:
		return api.PhaseFailed
	}
	return api.PhaseSucceeded
}

// hooked reports whether main may be signalled: pre_stop has run, has had its
// time, or there is nothing to prepare. An agent that is restarted meanwhile
// runs it again.
func (p *planner) hooked() bool {
	s, f := &p.rec.Stop, p.see.Hook
	_, runs := p.alive()[api.MainContainer]
	if len(api.Deref(p.pod.Spec.Stop).PreStop) == 0 || s.Hooked || p.see.Disowned || !runs {
		return true
	}
	// The command is bounded itself; this is for a runtime that does not answer.
	bound := min(hookBound(p.pod)+500*time.Millisecond, graceOf(p.pod))
	switch {
	case f.Done && f.Err != "":
		p.event(true, "pre_stop_failed", "pre_stop: %s; main is asked to end all the same", f.Err)
	case f.Done:
	case p.past(s.Signal.Add(bound)):
		p.event(true, "pre_stop_failed", "pre_stop has not ended after %s; main is asked to end all the same", bound)
	default:
		if !f.Busy {
			p.do(step{Do: hook})
		}
		return false
	}
	s.Hooked = true
	return true
}

// hookBound is how long pre_stop may take: what is left of the grace is for main.
func hookBound(pod *api.Pod) time.Duration {
	grace := graceOf(pod)
	return max(grace-minLast, grace*3/4)
}

// alive returns the runs that go on, by container.
func (p *planner) alive() map[string]runtime.Status {
	out := map[string]runtime.Status{}
	for _, name := range p.names() {
		if r, ok := p.current(name); ok && r.State == runtime.Running {
			out[name] = r
		}
	}
	return out
}

// end asks a run to end, and forces it when its time is up.
func (p *planner) end(name string) {
	l := p.life(name)
	if l.Ending.Since.IsZero() {
		l.Ending = ending{Since: p.now, Why: "the pod stops"}
		p.setLife(name, l)
		p.do(step{Do: signal, Container: name, Attempt: l.Attempt, Arg: p.stopSignal(name)})
	}
	if l.Ending.Killed {
		return
	}
	deadline := p.rec.Stop.Signal.Add(graceOf(p.pod))
	if name != api.MainContainer {
		if least := l.Ending.Since.Add(minLast); deadline.Before(least) {
			deadline = least
		}
	}
	if !p.past(deadline) {
		return
	}
	l.Ending.Killed = true
	p.setLife(name, l)
	p.do(step{Do: signal, Container: name, Attempt: l.Attempt, Arg: "SIGKILL"})
}

// drained reports whether new clients are no longer sent here, so that the
// signal may be given. Both waits are bounded: a cluster that cannot answer
// must not keep a pod from stopping.
func (p *planner) drained() bool {
	s := &p.rec.Stop
	switch {
	case !s.Signal.IsZero(), p.see.Disowned, !p.rec.Served, p.see.Offline, len(p.alive()) == 0:
		return true
	case p.see.Drained:
		// Connections that were sent here just before are on their way yet.
		if s.Drained.IsZero() {
			s.Drained = p.now
		}
		return p.past(s.Drained.Add(linger))
	case s.Asked.IsZero() && p.see.Acked != api.PhaseStopping:
		return p.past(s.Since.Add(drainBound))
	case s.Asked.IsZero():
		s.Asked = p.now
		p.do(step{Do: drain})
	}
	// The API bounds the wait itself; this is for an API that goes away.
	return p.past(s.Asked.Add(drainBound + 500*time.Millisecond))
}

// clean removes what is left of the pod, and is done once the API knows.
func (p *planner) clean() {
	for _, id := range slices.Sorted(maps.Keys(p.see.Runs)) {
		labels := p.see.Runs[id].Labels
		p.do(step{Do: remove, Container: labels[LabelContainer], Attempt: attemptOf(labels)})
	}
	if !p.see.Gone {
		p.do(step{Do: removeSandbox})
	}
	p.out.Done = p.see.Gone && len(p.see.Runs) == 0 && (p.see.Disowned || p.see.Acked.Ended())
}
