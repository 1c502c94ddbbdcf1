// Package pod runs the pods of one node: it is the kubelet's role. Each pod
// has one worker; a worker gathers facts, planPod judges them, the worker
// carries the plan out.
//
// Invariants:
//   - A phase only moves forward, and a pod that ended holds nothing here.
//   - A container runs at most once at a time. "I do not know" starts nothing.
//   - What runs is adopted, never restarted, when the agent comes back, and
//     readiness does not flip with it.
//   - A pod that may have clients is signalled only after the proxies of the
//     cluster know, or after a bounded wait.
//   - Why a pod cannot run is said while it goes on trying.
package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

const (
	stableAfter = 10 * time.Minute // a run this long forgets the ends before it
	certainAt   = 3                // ends in a row that make a crash loop certain
	imageGrace  = 10 * time.Second // an image that cannot be had for this long will not come
	drainBound  = 2 * time.Second  // for the API, and for the proxies, each
	minBackoff  = time.Second
	maxBackoff  = time.Minute
	wellAfter   = time.Minute // healthy for this long, a container is no longer called crashing
	settle      = time.Second // a container that just crashed is up this long before it counts
)

// record is what a pod has been through on this node. It is checkpointed, and
// with it a restarted agent goes on where the last one stopped.
type record struct {
	Status api.PodStatus   `json:"status"`
	Lives  map[string]life `json:"lives,omitempty"`  // by container
	Served bool            `json:"served,omitempty"` // was ready once: clients may know it
	Stop   stopping        `json:"stop,omitzero"`
}

// life is the story of one container: a run after a run.
type life struct {
	Attempt int       `json:"attempt,omitempty"` // number of the current run, from 0
	Streak  int       `json:"streak,omitempty"`  // runs that ended badly, in a row
	Until   time.Time `json:"until,omitzero"`    // the current run does not begin before
	Last    *api.Exit `json:"last,omitempty"`
	Reason  string    `json:"reason,omitempty"` // why the last run ended
	Message string    `json:"message,omitempty"`
	Healthy bool      `json:"healthy,omitempty"`
	Ending  ending    `json:"ending,omitzero"`
}

// ending is a run that was asked to end.
type ending struct {
	Since  time.Time `json:"since,omitzero"`
	Why    string    `json:"why,omitempty"`
	Killed bool      `json:"killed,omitempty"`
}

// stopping is a pod that was asked to end.
type stopping struct {
	Since   time.Time `json:"since,omitzero"`
	Asked   time.Time `json:"asked,omitzero"` // when the proxies were asked to drain it
	Drained time.Time `json:"drained,omitzero"`
	Signal  time.Time `json:"signal,omitzero"`
}

// facts are what the node sees of a pod right now.
type facts struct {
	Unknown bool                      // the runtime did not answer: nothing below is certain
	Hold    bool                      // nothing new may start: the API may have other news
	Runs    map[string]runtime.Status // by container id, all the runtime has of the pod
	Sandbox bool                      // network and namespaces are there
	Rebuilt bool                      // … and are new: what ran before is in others, that are gone
	Gone    bool                      // … were torn down for good
	IP      string
	Images  map[string]imageFact // by reference
	Failed  map[string]failure   // by container: starts that went wrong
	Tails   map[string][]string  // by container: last lines of the run that just ended
	Probe   probeFact

	Disowned bool      // gone from the API, or lost: stop it without ceremony
	Offline  bool      // the control plane does not answer
	Acked    api.Phase // what the API knows
	Drained  bool      // the proxies know
}

type imageFact struct {
	Present bool
	Busy    bool // being fetched
	Image   runtime.Image
	First   time.Time // of the tries
	Failed  time.Time // the last try did
	Tries   int
	Err     string
}

type failure struct {
	Attempt int
	At      time.Time
	Err     string
}

// podPlan is what to do now, and what will be so.
type podPlan struct {
	Steps  []step
	Record record
	Events []api.Event
	Again  time.Time // plan again then at the latest; zero: only when something happens
	Done   bool      // nothing is left to do or to say: forget the pod
}

type verb string

const (
	addSandbox    verb = "+ sandbox"
	removeSandbox verb = "- sandbox"
	pull          verb = "+ image"
	begin         verb = "+"
	start         verb = ">"
	signal        verb = "!"
	remove        verb = "-"
	probe         verb = "?"
	drain         verb = "~ drain"
)

// step is one thing to do.
type step struct {
	Do        verb
	Container string
	Attempt   int
	Arg       string // image reference, signal
}

func (s step) String() string {
	switch s.Do {
	case addSandbox, removeSandbox, drain:
		return string(s.Do)
	case pull:
		return string(s.Do) + " " + s.Arg
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s/%d %s", s.Do, s.Container, s.Attempt, s.Arg))
}

// String prints the plan as terraform would.
func (p podPlan) String() string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	st := p.Record.Status
	fmt.Fprintf(&b, "= %s", st.Phase)
	if st.Ready {
		b.WriteString(" ready")
	}
	if st.Reason != "" {
		fmt.Fprintf(&b, " (%s: %s)", st.Reason, st.Message)
	}
	b.WriteByte('\n')
	if f := st.Fatal; f != nil {
		fmt.Fprintf(&b, "fatal %s: %s\n", f.Reason, f.Message)
	}
	for _, e := range p.Events {
		fmt.Fprintf(&b, "event %s: %s\n", e.Reason, e.Message)
	}
	if p.Done {
		b.WriteString("done\n")
	}
	return b.String()
}

// news is the plan on one line for the log, without the checks of every day.
func (p podPlan) news() string {
	p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(s step) bool { return s.Do == probe })
	return strings.ReplaceAll(strings.TrimSpace(p.String()), "\n", " | ")
}

// planPod says what the node does next about a pod. It is a function of its
// arguments alone; carrying out part of a plan and planning again leads to the
// same end.
//
//	pending → starting → running → stopping → succeeded
//	              └──────────┴─────────┴────→ failed
func planPod(pod *api.Pod, rec record, see facts, now time.Time) podPlan {
	p := &planner{pod: pod, see: see, now: now, out: podPlan{Record: api.Clone(rec)}}
	p.rec = &p.out.Record
	switch {
	case see.Unknown:
		p.again(now.Add(time.Second))
		return p.out
	case p.rec.Status.Phase.Ended():
		p.clean()
	case see.Disowned || pod.Meta.Deleting() || !p.rec.Stop.Since.IsZero():
		p.stop()
	default:
		p.run()
	}
	p.report()
	return p.out
}

type planner struct {
	pod *api.Pod
	see facts
	now time.Time
	rec *record
	out podPlan
}

func (p *planner) do(s ...step)      { p.out.Steps = append(p.out.Steps, s...) }
func (p *planner) again(t time.Time) { p.out.Again = earliest(p.out.Again, t) }

// past reports whether it is t already, and if not sees to a plan then.
func (p *planner) past(t time.Time) bool {
	if p.now.Before(t) {
		p.again(t)
		return false
	}
	return true
}

func orTime(t, or time.Time) time.Time {
	if t.IsZero() {
		return or
	}
	return t
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (p *planner) event(warning bool, reason, format string, args ...any) {
	p.out.Events = append(p.out.Events, api.Event{Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...), By: "agent"})
}

func (p *planner) forward(next api.Phase) {
	if st := &p.rec.Status; st.Phase != next && st.Phase.MayBecome(next) {
		st.Phase = next
	}
}

// names lists the containers in the order they are started: main last.
func (p *planner) names() []string {
	return append(slices.Sorted(maps.Keys(p.pod.Spec.Sidecars)), api.MainContainer)
}

func (p *planner) spec(name string) api.Container {
	if name == api.MainContainer {
		return p.pod.Spec.Container
	}
	return p.pod.Spec.Sidecars[name]
}

func (p *planner) life(name string) life { return p.rec.Lives[name] }

func (p *planner) setLife(name string, l life) {
	if p.rec.Lives == nil {
		p.rec.Lives = map[string]life{}
	}
	p.rec.Lives[name] = l
}

// current returns the current run of a container, if it was begun.
func (p *planner) current(name string) (runtime.Status, bool) {
	r, ok := p.see.Runs[ID(p.pod.Meta.UID, name, p.life(name).Attempt)]
	return r, ok
}

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
		if r.State == runtime.Exited {
			l.Last = exitOf(r)
		}
		p.event(true, "restarted", "%s starts again: the node was rebooted", name)
		p.setLife(name, l)
	case failed && f.Attempt == l.Attempt:
		p.ended(name, f.At, &api.Exit{Code: 127, At: f.At}, "cannot_start", fmt.Sprintf("%s cannot start: %s", name, f.Err))
	case begun && r.State == runtime.Exited && r.Exit.Unknown:
		// The machine or the runtime went away under it: no fault of its own.
		p.event(true, "restarted", "%s ended and nobody saw how", name)
		p.setLife(name, life{Attempt: l.Attempt + 1, Streak: l.Streak, Last: exitOf(r)})
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
		return "crash_loop", fmt.Sprintf("%s was killed%s for using more than its %s of memory", name, ran, p.spec(name).Memory)
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
