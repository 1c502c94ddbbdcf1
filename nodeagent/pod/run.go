package pod

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// run keeps every container running, each from when its turn has come.
func (p *planner) run() {
	if !p.see.Sandbox && !p.see.Hold {
		p.do(step{Do: addSandbox})
	}
	if !p.see.Hold {
		p.forward(api.PhaseStarting)
	}
	if p.see.Rebuilt {
		p.rec.Begun = false
	}
	p.disk()
	p.see.Hold = p.see.Hold || p.rec.unsaid(p.pod)
	for _, name := range p.names() {
		p.book(name)
	}
	if _, begun := p.current(api.MainContainer); begun && !p.rec.Begun {
		p.begun()
	}
	if !p.ending() {
		p.next()
	}
	if p.ending() {
		p.rec.undo(p.out.Steps)
		p.out.Steps = nil
		p.stop()
	}
}

func (p *planner) ending() bool { return !p.rec.Stop.Since.IsZero() }

// begun notes that main was begun, so whatever comes before it is over.
func (p *planner) begun() {
	p.rec.Begun = true
	for _, name := range p.inits() {
		l := p.life(name)
		l.Done = true
		p.setLife(name, l)
	}
}

// next moves on every container whose turn it is. Images of the others are
// fetched meanwhile.
func (p *planner) next() {
	for _, name := range p.names() {
		switch {
		case p.life(name).Done:
		case p.awaits(name) == "":
			p.advance(name)
		case !p.see.Hold:
			p.fetch(name, p.spec(name).Image)
		}
	}
}

// awaits names the container that another one has to wait for until it may
// begin; "" when its turn has come. Once main was begun, all restart on their own.
func (p *planner) awaits(name string) string {
	if p.rec.Begun {
		return ""
	}
	for _, init := range p.inits() {
		if init == name {
			return ""
		}
		if !p.life(init).Done {
			return init
		}
	}
	if name == api.MainContainer {
		for _, sidecar := range p.sidecars() {
			if r, begun := p.current(sidecar); !begun || r.State != runtime.Running || !p.life(sidecar).Healthy {
				return sidecar
			}
		}
	}
	return ""
}

// advance moves a container one step towards running.
func (p *planner) advance(name string) {
	l := p.life(name)
	r, begun := p.current(name)
	ref := p.spec(name).Image
	switch {
	case begun && r.State == runtime.Running:
		p.mended(name, "cannot_start", imageUnavailable, pullRefused)
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
		p.mended(name, imageUnavailable, pullRefused)
		return true
	}
	if f.Tries > 0 && f.Failed.Sub(f.First) >= imageGrace {
		first := p.rec.Status.Fatal == nil
		reason, message := f.trouble(ref)
		cause := p.cause(name, reason, message)
		p.fatal(cause)
		if first {
			p.event(true, reason, "%s", message)
		}
		if p.pod.Spec.Once && !p.rec.Begun {
			p.over(cause)
			return false
		}
	}
	if f.Busy || p.pulling(ref) {
		return false
	}
	if f.Tries > 0 {
		// The first tries come soon enough to be certain in time.
		next := f.Failed.Add(backoff(time.Second, imageGrace, f.Tries, jitter(p.pod.Meta.UID, ref, f.Tries)))
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

// Reasons of a container whose image is not to be had.
const (
	imageUnavailable = "image_unavailable"
	pullRefused      = "pull_refused"
)

// trouble says why an image cannot be had, and the way out.
func (f imageFact) trouble(ref string) (reason, message string) {
	if f.Refused {
		return pullRefused, fmt.Sprintf("the registry refuses image %s: %s; name a secret with username and password in pull_auth", ref, f.Err)
	}
	return imageUnavailable, fmt.Sprintf("image %s is not on the node and cannot be fetched: %s; check its name, or load it with: clusterd image load <oci-tar>", ref, f.Err)
}

// pulling reports whether this plan fetches the image already, for another container.
func (p *planner) pulling(ref string) bool {
	return slices.ContainsFunc(p.out.Steps, func(s step) bool { return s.Do == pull && s.Arg == ref })
}
