// Package pod runs the pods of one node: it is the kubelet's role. Each pod
// has one worker; a worker gathers facts, planPod judges them, the worker
// carries the plan out. plan.go says what there is to decide and to do; run.go
// and keep.go plan a pod that is to run, stop.go one that is to end; report.go
// says what is so, and steps.go does it.
//
// Invariants:
//   - A phase only moves forward, and a pod that ended holds nothing here.
//   - A container runs at most once at a time. "I do not know" starts nothing.
//   - What runs is adopted, never restarted, when the agent comes back, and
//     readiness does not flip with it.
//   - Containers begin in order: each init container once those before it have
//     ended well, then the sidecars, then main once they serve. An init
//     container that ended well runs again only in a new sandbox.
//   - A pod that runs once begins its main container once.
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
	certainAt  = 3                // ends in a row that make a crash loop certain
	imageGrace = 10 * time.Second // an image that cannot be had for this long will not come
	drainBound = 2 * time.Second  // for the API, and for the proxies, each
	wellAfter  = time.Minute      // healthy for this long, a container is no longer called crashing
	settle     = time.Second      // a container that just crashed is up this long before it counts
)

// record is what a pod has been through on this node. It is checkpointed, and
// with it a restarted agent goes on where the last one stopped.
type record struct {
	Status api.PodStatus   `json:"status"`
	Lives  map[string]life `json:"lives,omitempty"`  // by container
	Begun  bool            `json:"begun,omitempty"`  // main was begun in the sandbox that is there
	Served bool            `json:"served,omitempty"` // was ready once: clients may know it
	Stop   stopping        `json:"stop,omitzero"`
	// Outcome is what a pod becomes that ends by itself.
	Outcome api.Phase `json:"outcome,omitempty"`

	Era      int64 `json:"era,omitempty"`      // of the lease it runs on
	Isolated bool  `json:"isolated,omitempty"` // … which has ended
	Word     int64 `json:"word,omitempty"`     // terms on which the API took its word that it starts
}

// life is the story of one container: a run after a run.
type life struct {
	Attempt int       `json:"attempt,omitempty"` // number of the current run, from 0
	Streak  int       `json:"streak,omitempty"`  // runs that ended badly, in a row
	Until   time.Time `json:"until,omitzero"`    // the current run does not begin before
	Last    *api.Exit `json:"last,omitempty"`
	Reason  string    `json:"reason,omitempty"` // why the last run ended
	Message string    `json:"message,omitempty"`
	Done    bool      `json:"done,omitempty"` // an init container: it ended well
	Healthy bool      `json:"healthy,omitempty"`
	Start   tally     `json:"start,omitzero"` // of the checks of the current run
	Ready   tally     `json:"ready,omitzero"`
	Live    tally     `json:"live,omitzero"`
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
	Signal  time.Time `json:"signal,omitzero"`  // from here on the containers are asked to end
	Hooked  bool      `json:"hooked,omitempty"` // pre_stop has run, or had its time
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
	Trouble string               // what the node cannot do for the pod just now
	Full    time.Time            // since when that is for want of disk space
	Images  map[string]imageFact // by reference
	Failed  map[string]failure   // by container: starts that went wrong
	Tails   map[string][]string  // by container: last lines of the run that just ended
	Brimful map[string][]string  // by container: where its storage took nothing more then
	Checks  map[string]checkFact // by container and kind
	Hook    hookFact

	Lease   leaseFact
	NoLease bool // … and waits for one

	Disowned bool      // gone from the API, or lost: stop it without ceremony
	Offline  bool      // the control plane does not answer
	Acked    api.Phase // what the API knows
	Drained  bool      // the proxies know
}

type imageFact struct {
	Present  bool
	Busy     bool // being fetched
	Image    runtime.Image
	First    time.Time // of the tries
	Failed   time.Time // the last try did
	Tries    int
	Err      string
	Refused  bool   // the registry gives it to others
	Progress string // of the fetch, for people
}

// hookFact is how pre_stop goes.
type hookFact struct {
	Busy, Done bool
	Err        string
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
	hook          verb = "~ pre_stop"
)

// step is one thing to do.
type step struct {
	Do        verb
	Container string
	Attempt   int
	Arg       string // image reference, signal, kind of check
}

// async reports whether the step only begins something that tells later.
func (s step) async() bool { return s.Do == pull || s.Do == probe || s.Do == drain || s.Do == hook }

// marks reports whether the plan notes in the record that the step is done: the
// record is saved only once it is, so that an agent that dies in between does
// it again.
func (s step) marks() bool { return s.Do == drain || s.Do == signal }

func (s step) String() string {
	switch s.Do {
	case addSandbox, removeSandbox, drain, hook:
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
	case p.onLease():
		p.isolate()
	case see.Disowned || pod.Meta.Deleting() || p.ending() || p.rec.Status.Phase == api.PhaseStopping:
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

// inits and sidecars list the containers of the kind in the order they are
// started, names all of them: main last.
func (p *planner) inits() []string    { return slices.Sorted(maps.Keys(p.pod.Spec.Init)) }
func (p *planner) sidecars() []string { return slices.Sorted(maps.Keys(p.pod.Spec.Sidecars)) }
func (p *planner) names() []string {
	return append(append(p.inits(), p.sidecars()...), api.MainContainer)
}

func (p *planner) isInit(name string) bool    { _, ok := p.pod.Spec.Init[name]; return ok }
func (p *planner) isSidecar(name string) bool { _, ok := p.pod.Spec.Sidecars[name]; return ok }

func (p *planner) spec(name string) api.Container {
	switch {
	case p.isInit(name):
		return p.pod.Spec.Init[name].Container()
	case p.isSidecar(name):
		return p.pod.Spec.Sidecars[name]
	}
	return p.pod.Spec.Container
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
