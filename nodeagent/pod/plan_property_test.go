package pod

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// world is a node, as simple as can be: it carries plans out, in part when the
// test wants it so, and things happen in it.
type world struct {
	*rapid.T
	pod   *api.Pod
	rec   record
	see   facts
	now   time.Time
	draws int

	ends     map[string]time.Time // when the last run of a container ended badly
	finished map[string]bool      // init containers that ended well in this sandbox
	started  map[string]int
	fresh    bool // the sandbox that is to be made is a new one
	done     bool
}

func newWorld(t *rapid.T) *world {
	p := testPod()
	if rapid.Bool().Draw(t, "sidecar") {
		p.Spec.Sidecars = map[string]api.Container{"log": {Image: "vector:1"}}
		if rapid.Bool().Draw(t, "sidecar has a health check") {
			p.Spec.Sidecars["log"] = api.Container{Image: "vector:1", Health: p.Spec.Health}
		}
	}
	for _, name := range []string{"a", "b"}[:rapid.IntRange(0, 2).Draw(t, "inits")] {
		if p.Spec.Init == nil {
			p.Spec.Init = map[string]api.Init{}
		}
		p.Spec.Init[name] = api.Init{Image: "nginx:1"}
	}
	p.Spec.Once = rapid.Bool().Draw(t, "once")
	if rapid.Bool().Draw(t, "pre_stop") {
		p.Spec.Stop.PreStop = []string{"prepare"}
	}
	if n := rapid.IntRange(0, 6).Draw(t, "attempts"); n > 0 {
		p.Spec.Restart = &api.Restart{Attempts: &n}
	}
	three := 3
	check := &api.Check{HTTP: "/", Interval: "1s", Threshold: &three}
	switch rapid.IntRange(0, 3).Draw(t, "health") {
	case 0:
		p.Spec.Health = nil
	case 1:
		p.Spec.Health.Start = check
	case 2:
		p.Spec.Health = &api.Health{Ready: check, Live: check, Start: check}
	}
	return &world{T: t, pod: p, now: noon, fresh: true, ends: map[string]time.Time{}, finished: map[string]bool{}, started: map[string]int{}, see: facts{
		Runs: map[string]runtime.Status{}, Images: map[string]imageFact{}, Failed: map[string]failure{}, Tails: map[string][]string{},
		Checks: map[string]checkFact{},
	}}
}

// plan makes a plan, holds it against what must always be so, and carries out
// its first n steps.
func (w *world) plan(n int) {
	before := api.Clone(w.rec)
	p := planPod(w.pod, w.rec, w.see, w.now)
	if !reflect.DeepEqual(before, w.rec) {
		w.Fatal("planning changed its input")
	}
	if again := planPod(w.pod, w.rec, w.see, w.now); again.String() != p.String() {
		w.Fatalf("the same plan differs:\n%s\n%s", p, again)
	}
	w.check(p)
	w.rec, w.see.Rebuilt, w.done = p.Record, w.see.Rebuilt && w.see.Unknown, p.Done
	n = min(n, len(p.Steps))
	for i, s := range p.Steps[:n] {
		if w.apply(s); w.see.Rebuilt {
			n = i + 1
			break
		}
	}
	w.rec.undo(p.Steps[n:])
}

func (w *world) check(p podPlan) {
	was, is := w.rec.Status, p.Record.Status
	if !was.Phase.MayBecome(is.Phase) {
		w.Fatalf("phase went from %s to %s", was.Phase, is.Phase)
	}
	if is.Ready && is.Phase != api.PhaseRunning {
		w.Fatalf("ready while %s", is.Phase)
	}
	if is.Restarts() < was.Restarts() {
		w.Fatalf("restarts went from %d to %d", was.Restarts(), is.Restarts())
	}
	if !p.Again.IsZero() && !p.Again.After(w.now) {
		w.Fatalf("wants to plan again in the past:\n%s", p)
	}
	for _, s := range p.Steps {
		switch s.Do {
		case begin:
			if w.see.Unknown || w.see.Hold || w.see.Disowned || w.pod.Meta.Deleting() {
				w.Fatalf("begins a run it must not:\n%s", p)
			}
			if bad, ok := w.ends[s.Container]; ok && w.now.Before(bad.Add(750*time.Millisecond)) {
				w.Fatalf("begins %s after its bad end:\n%s", w.now.Sub(bad), p)
			}
			w.checkTurn(s.Container, p)
		case signal:
			if s.Container == api.MainContainer && s.Arg != "SIGKILL" && p.Record.Status.Phase == api.PhaseStopping && len(w.pod.Spec.Stop.PreStop) > 0 &&
				!p.Record.Stop.Hooked && !w.see.Disowned {
				w.Fatalf("signals before pre_stop:\n%s", p)
			}
			if p.Record.Status.Phase == api.PhaseStopping && p.Record.Served && p.Record.Outcome == "" && !w.see.Disowned && !w.see.Offline && !w.see.Drained &&
				w.now.Before(p.Record.Stop.Since.Add(drainBound)) {
				w.Fatalf("signals before the proxies know:\n%s", p)
			}
		}
	}
	for name, l := range p.Record.Lives {
		if _, sidecar := w.pod.Spec.Sidecars[name]; !sidecar && l.Streak >= *w.pod.Spec.Restart.OrDefault().Attempts && p.Record.Outcome == "" {
			w.Fatalf("%s ended %d times and the pod goes on:\n%s", name, l.Streak, p)
		}
	}
	if is.Phase.Ended() && p.Record.Outcome != "" && is.Phase != p.Record.Outcome {
		w.Fatalf("%s, and should be %s", is.Phase, p.Record.Outcome)
	}
	if p.Done && (len(w.see.Runs) > 0 || !w.see.Gone) {
		w.Fatalf("done with things left behind: %v", w.see.Runs)
	}
}

// checkTurn: what begins has waited for all that comes before it.
func (w *world) checkTurn(name string, p podPlan) {
	if w.finished[name] {
		w.Fatalf("%s has ended well and begins again:\n%s", name, p)
	}
	if name == api.MainContainer && w.pod.Spec.Once && w.started[name] > 0 {
		w.Fatalf("main begins a second time:\n%s", p)
	}
	if w.started[api.MainContainer] > 0 {
		return
	}
	for init := range w.pod.Spec.Init {
		if init < name && !w.finished[init] {
			w.Fatalf("%s begins before init %s has ended:\n%s", name, init, p)
		}
	}
	if name == api.MainContainer {
		for sidecar := range w.pod.Spec.Sidecars {
			if l := p.Record.Lives[sidecar]; w.see.Runs[ID("u1", sidecar, l.Attempt)].State != runtime.Running || !l.Healthy {
				w.Fatalf("main begins before sidecar %s serves:\n%s", sidecar, p)
			}
		}
	}
}

func (w *world) apply(s step) {
	id := ID("u1", s.Container, s.Attempt)
	switch s.Do {
	case addSandbox:
		w.see.Sandbox, w.see.IP = true, "10.244.0.2"
		w.see.Rebuilt = w.fresh && (len(w.see.Runs) > 0 || len(w.rec.Lives) > 0)
		w.fresh = false
		if w.see.Rebuilt {
			clear(w.finished)
			once := w.started[api.MainContainer]
			clear(w.started)
			if w.pod.Spec.Once {
				w.started[api.MainContainer] = once
			}
		}
	case removeSandbox:
		w.see.Sandbox, w.see.Gone = false, true
	case pull:
		f := w.see.Images[s.Arg]
		f.Busy, f.First = true, orTime(f.First, w.now)
		w.see.Images[s.Arg] = f
	case begin:
		if !w.see.Sandbox {
			w.Fatalf("%s without a sandbox", s)
		}
		for other, r := range w.see.Runs {
			if r.Labels[LabelContainer] == s.Container && r.State == runtime.Running {
				w.Fatalf("%s while %s runs", s, other)
			}
		}
		if _, ok := w.see.Runs[id]; !ok {
			w.see.Runs[id] = runtime.Status{ID: id, State: runtime.Created, Labels: map[string]string{
				LabelContainer: s.Container, LabelAttempt: fmt.Sprint(s.Attempt), LabelUID: "u1",
			}}
		}
	case start:
		if r := w.see.Runs[id]; r.State == runtime.Created {
			r.State, r.StartedAt, r.PID = runtime.Running, w.now, 1
			w.started[s.Container]++
			w.see.Runs[id] = r
		}
	case signal:
		if s.Arg == "SIGKILL" || w.chance("obeys") {
			w.exit(id, 143, false)
		}
	case remove:
		delete(w.see.Runs, id)
	case probe:
		f := w.see.Checks[checkKey(s.Container, s.Arg)]
		if f.Attempt != s.Attempt {
			f = checkFact{Attempt: s.Attempt}
		}
		f.Busy = true
		w.see.Checks[checkKey(s.Container, s.Arg)] = f
	case hook:
		w.see.Hook = hookFact{Busy: true, Done: w.chance("prepares")}
	case drain:
		w.see.Drained = w.chance("drains")
	}
}

func (w *world) chance(what string) bool {
	w.draws++
	return rapid.Bool().Draw(w.T, fmt.Sprintf("%s %d", what, w.draws))
}

func (w *world) exit(id string, code int, unseen bool) {
	r, ok := w.see.Runs[id]
	if !ok || r.State != runtime.Running {
		return
	}
	r.State, r.PID, r.Exit = runtime.Exited, 0, runtime.Exit{Code: code, At: w.now, Unknown: unseen}
	w.see.Runs[id] = r
	name := r.Labels[LabelContainer]
	if _, init := w.pod.Spec.Init[name]; init && code == 0 && !unseen {
		w.finished[name] = true
	} else if !unseen {
		w.ends[r.Labels[LabelContainer]] = w.now
	} else {
		delete(w.ends, r.Labels[LabelContainer])
	}
}

// answer lets what was asked be answered; fails says how.
func (w *world) answer(fails func() bool) {
	for _, key := range slices.Sorted(maps.Keys(w.see.Checks)) {
		f := w.see.Checks[key]
		name, kind, _ := strings.Cut(key, " ")
		l := w.rec.Lives[name]
		if !f.Busy {
			continue
		}
		f.Busy, f.Last = false, w.now
		f.Count++
		w.see.Checks[key] = f
		if f.Attempt != l.Attempt {
			continue
		}
		var err error
		if fails() {
			err = errRefused
		}
		l.note(w.pod.Spec.All()[name].Health, kind, err, w.now, w.now.Add(-time.Hour))
		w.rec.Lives[name] = l
	}
}

// reboot ends everything, and the agent, which goes on from its record.
func (w *world) reboot() {
	for id := range w.see.Runs {
		w.exit(id, 0, true)
	}
	w.see.Sandbox, w.fresh = false, true
	w.see.Checks, w.see.Hook = map[string]checkFact{}, hookFact{}
}

// happen lets one thing happen.
func (w *world) happen() {
	running := slices.Sorted(maps.Keys(w.see.Runs))
	switch w.draws++; rapid.IntRange(0, 15).Draw(w.T, fmt.Sprintf("happens %d", w.draws)) {
	case 0, 1:
		w.now = w.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(w.T, fmt.Sprintf("ms %d", w.draws))) * time.Millisecond)
	case 2:
		w.now = w.now.Add(11 * time.Minute)
	case 3, 4:
		if len(running) > 0 {
			code := rapid.IntRange(0, 1).Draw(w.T, fmt.Sprintf("code %d", w.draws))
			w.exit(rapid.SampledFrom(running).Draw(w.T, fmt.Sprintf("exits %d", w.draws)), code, w.chance("unseen"))
		}
	case 5, 6:
		for ref, f := range w.see.Images {
			if f.Busy {
				w.see.Images[ref] = imageFact{Present: true}
				break
			}
		}
	case 7:
		for ref, f := range w.see.Images {
			if f.Busy {
				f.Busy, f.Failed, f.Err = false, w.now, "no such host"
				f.Tries++
				w.see.Images[ref] = f
			}
		}
	case 8, 9:
		w.answer(func() bool { return w.chance("fails") })
	case 10:
		w.see.Unknown = !w.see.Unknown
	case 11:
		w.see.Hold = !w.see.Hold && !w.see.Disowned
	case 12:
		w.see.Offline = !w.see.Offline
	case 13:
		w.see.Acked = w.rec.Status.Phase
	case 14:
		w.reboot()
	case 15:
		w.see.Hook.Done = w.see.Hook.Busy
	}
}

// TestPlanIsSafe: whatever happens, and wherever carrying out a plan breaks
// off, nothing runs twice, phases go forward and backoffs are kept.
func TestPlanIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range 60 {
			w.happen()
			w.draws++
			w.plan(rapid.IntRange(0, 6).Draw(t, fmt.Sprintf("steps %d", w.draws)))
		}
	})
}

// TestStopConverges: whatever happened before, a deleted pod is gone within
// grace, drain and a little, in a world that answers.
func TestStopConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range 30 {
			w.happen()
			w.plan(10)
		}
		deleted := w.now
		w.pod.Meta.DeletedAt = &deleted
		w.see.Unknown, w.see.Hold = false, false
		for i := range 100 {
			w.plan(rapid.IntRange(i%2, 10).Draw(t, fmt.Sprintf("steps of stop %d", i)))
			w.see.Acked = w.rec.Status.Phase
			if w.done {
				break
			}
			w.now = w.now.Add(250 * time.Millisecond)
		}
		if most := 20 * time.Second; !w.done || w.now.Sub(deleted) > most {
			t.Fatalf("after %s it is %s with %v", w.now.Sub(deleted), w.rec.Status.Phase, w.see.Runs)
		}
		if !w.rec.Status.Phase.Ended() {
			t.Fatalf("forgotten while %s", w.rec.Status.Phase)
		}
	})
}

// TestRunConverges: in a world where everything works, a pod becomes ready, or
// has ended of what happened before.
func TestRunConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range 30 {
			w.happen()
			w.plan(10)
		}
		w.see.Unknown, w.see.Hold = false, false
		for range 1000 {
			w.plan(10)
			for ref := range w.see.Images {
				w.see.Images[ref] = imageFact{Present: true}
			}
			for id, r := range w.see.Runs {
				if _, init := w.pod.Spec.Init[r.Labels[LabelContainer]]; init {
					w.exit(id, 0, false)
				}
			}
			w.answer(func() bool { return false })
			if w.rec.Status.Ready || w.rec.Outcome != "" {
				return
			}
			w.now = w.now.Add(250 * time.Millisecond)
		}
		t.Fatalf("not ready: %+v", w.rec.Status)
	})
}
