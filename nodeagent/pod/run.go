package pod

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// run keeps every container running.
func (p *planner) run() {
	if !p.see.Sandbox && !p.see.Hold {
		p.do(step{Do: addSandbox})
	}
	if !p.see.Hold {
		p.forward(api.PhaseStarting)
	}
	for _, name := range p.names() {
		p.book(name)
		p.advance(name)
	}
}

// book notes what became of the current run of a container.
func (p *planner) book(name string) {
	p.adopt(name)
	l := p.life(name)
	r, begun := p.current(name)
	switch f, failed := p.see.Failed[name]; {
	case begun && p.see.Rebuilt:
		l = life{Attempt: l.Attempt + 1, Last: l.Last}
		if r.State == runtime.Exited && !r.Exit.Unknown {
			l.Last = exitOf(r)
		}
		p.event(true, "restarted", "%s starts again: the node was rebooted", name)
		p.setLife(name, l)
	case failed && f.Attempt == l.Attempt:
		p.ended(name, f.At, &api.Exit{Code: 127, At: f.At}, "cannot_start", fmt.Sprintf("%s cannot start: %s", name, f.Err))
	case begun && r.State == runtime.Exited && r.Exit.Unknown:
		// The machine or the runtime went away under it: no fault of its own.
		p.event(true, "restarted", "%s ended and nobody saw how", name)
		p.setLife(name, life{Attempt: l.Attempt + 1, Streak: l.Streak, Last: l.Last})
	case begun && r.State == runtime.Exited:
		if !r.StartedAt.IsZero() && r.Exit.At.Sub(r.StartedAt) >= stableAfter {
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
	ran := ""
	if !r.StartedAt.IsZero() {
		ran = " after " + span(r.Exit.At.Sub(r.StartedAt))
	}
	l := p.life(name)
	switch {
	case r.Exit.OOM:
		return "crash_loop", fmt.Sprintf("%s was killed%s for using more than its %s of memory", name, ran, limits(p.spec(name)).Memory)
	case l.Ending.Why != "":
		return "unhealthy", fmt.Sprintf("%s was restarted%s: %s", name, ran, l.Ending.Why)
	}
	return "crash_loop", fmt.Sprintf("%s exited with code %d%s", name, r.Exit.Code, ran)
}

// span renders how long a run was, to a readable precision.
func span(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// ended books the bad end of the current run, and when the next begins.
func (p *planner) ended(name string, at time.Time, exit *api.Exit, reason, message string) {
	l := p.life(name)
	what := reason
	if reason == "crash_loop" { // one end is none yet
		what = "exited"
	}
	p.event(true, what, "%s", message)
	streak := l.Streak + 1
	p.setLife(name, life{
		Attempt: l.Attempt + 1, Streak: streak, Last: exit, Reason: reason, Message: message,
		Until: at.Add(backoff(streak, jitter(p.pod.Meta.UID, name, l.Attempt))),
	})
	if streak < certainAt && reason != "cannot_start" {
		return
	}
	cause := &api.Cause{Reason: reason, Message: message, Pod: p.pod.Meta.Name, Node: p.pod.Spec.Node, Container: name, OOM: exit.OOM, Log: p.see.Tails[name]}
	if reason == "cannot_start" {
		cause.Message += "; check command and image"
	} else {
		cause.ExitCode = &exit.Code
		cause.Message = fmt.Sprintf("%s, %d times in a row", message, streak)
	}
	if streak == certainAt {
		p.event(true, reason, "%s", cause.Message)
	}
	p.fatal(cause)
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

// advance moves a container one step towards running.
func (p *planner) advance(name string) {
	l := p.life(name)
	r, begun := p.current(name)
	ref := p.spec(name).Image
	switch {
	case begun && r.State == runtime.Running:
		p.mended(name, "cannot_start", "image_unavailable")
		if name == api.MainContainer {
			p.forward(api.PhaseRunning)
		}
		p.keep(name, r)
	case p.see.Hold:
	case begun && r.State == runtime.Created:
		p.do(step{Do: start, Container: name, Attempt: l.Attempt})
	case !p.past(l.Until):
	case !p.fetch(name, ref):
	default:
		p.mended(name, "image_unavailable")
		for _, old := range p.older(name) {
			p.do(step{Do: remove, Container: name, Attempt: old})
		}
		p.do(step{Do: begin, Container: name, Attempt: l.Attempt, Arg: ref}, step{Do: start, Container: name, Attempt: l.Attempt})
	}
}

// older lists the runs of a container before the current one.
func (p *planner) older(name string) []int {
	var old []int
	for _, r := range p.see.Runs {
		if n := attemptOf(r.Labels); r.Labels[LabelContainer] == name && n < p.life(name).Attempt {
			old = append(old, n)
		}
	}
	slices.Sort(old)
	return old
}

// fetch reports whether the image is here, and sees to it that it will be.
func (p *planner) fetch(name, ref string) bool {
	f := p.see.Images[ref]
	if f.Present {
		return true
	}
	if f.Tries > 0 && f.Failed.Sub(f.First) >= imageGrace {
		first := p.rec.Status.Fatal == nil
		p.fatal(&api.Cause{
			Reason: "image_unavailable", Pod: p.pod.Meta.Name, Node: p.pod.Spec.Node, Container: name,
			Message: fmt.Sprintf("image %s is not on the node and cannot be fetched: %s; check its name, or load it with: clusterd image load <oci-tar>", ref, f.Err),
		})
		if first {
			p.event(true, "image_unavailable", "image %s: %s", ref, f.Err)
		}
	}
	if f.Busy {
		return false
	}
	if f.Tries > 0 {
		// The first tries come soon enough to be certain in time.
		next := f.Failed.Add(min(backoff(f.Tries, jitter(p.pod.Meta.UID, ref, f.Tries)), imageGrace))
		if certain := f.First.Add(imageGrace); f.Failed.Before(certain) && next.After(certain) {
			next = certain
		}
		if !p.past(next) {
			return false
		}
	}
	p.do(step{Do: pull, Container: name, Arg: ref})
	return false
}
