package pod

import (
	"fmt"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Kinds of checks, in the words of the spec. A health check that has no ready
// and no live of its own is asked once for both.
const (
	kindHealth = "health"
	kindStart  = "start"
	kindReady  = "ready"
	kindLive   = "live"
)

// checkOf returns the check of a kind, or nil.
func checkOf(h *api.Health, kind string) *api.Check {
	switch kind {
	case kindStart:
		return api.Deref(h).Start
	case kindLive:
		return h.Liveness()
	}
	return h.Readiness()
}

// kindOf says which check is meant by readiness or liveness.
func kindOf(h *api.Health, kind string) string {
	if h := api.Deref(h); h.Ready == nil && h.Live == nil {
		return kindHealth
	}
	return kind
}

// threshold is how many failures in a row count.
func threshold(c *api.Check) int { return max(api.Deref(api.Deref(c).Threshold), 1) }

// tally is what the checks of a run came to. It is part of the record, so a
// restarted agent goes on counting where the last one stopped.
type tally struct {
	Passed   bool   `json:"passed,omitempty"`   // the last one did
	Failures int    `json:"failures,omitempty"` // in a row
	Err      string `json:"error,omitempty"`    // of the last failure
}

func (t *tally) note(err error) {
	if err == nil {
		*t = tally{Passed: true}
		return
	}
	*t = tally{Failures: t.Failures + 1, Err: err.Error()}
}

// note adds the outcome of a check of the current run. A container that takes
// its time to come up is asked often, and that does not count against its
// life: not more failures count than intervals have passed, and within the
// grace period only a third of those that would restart it.
func (l *life) note(h *api.Health, kind string, err error, at, started time.Time) {
	if kind == kindStart {
		l.Start.note(err)
		l.Start.Failures = min(l.Start.Failures, intervals(h.Start, at, started))
	}
	if kind == kindReady || kind == kindHealth {
		l.Ready.note(err)
	}
	if kind == kindLive || kind == kindHealth {
		c := h.Liveness()
		l.Live.note(err)
		l.Live.Failures = min(l.Live.Failures, intervals(c, at, started))
		if at.Before(started.Add(h.GracePeriod.D())) {
			l.Live.Failures = min(l.Live.Failures, threshold(c)/3)
		}
	}
}

func intervals(c *api.Check, at, started time.Time) int {
	return 1 + int(at.Sub(started)/max(c.Interval.D(), time.Millisecond))
}

// judge says from its checks whether a running container serves, and ends one
// that has failed too often.
func (p *planner) judge(name string, r runtime.Status) {
	l, h := p.life(name), p.spec(name).Health
	ready := h.Readiness()
	switch {
	case !l.started(h):
	case ready == nil:
		// One that just crashed is up for a moment before it counts.
		if !l.Healthy && (l.Streak == 0 || p.past(r.StartedAt.Add(settle))) {
			l.Healthy = true
		}
	case l.Ready.Passed:
		if !l.Healthy {
			p.event(false, "healthy", "%s passes its %s check", name, kindOf(h, kindReady))
		}
		l.Healthy = true
		if kindOf(h, kindLive) == kindHealth {
			p.mended(name, "unhealthy")
		}
	case l.Healthy && l.Ready.Failures >= threshold(ready):
		l.Healthy = false
		p.event(true, "unhealthy", "%s fails its %s check: %s", name, kindOf(h, kindReady), l.Ready.Err)
	}
	if why := l.dying(h); why != "" && l.Ending.Since.IsZero() {
		l.Ending = ending{Since: p.now, Why: why}
		p.do(step{Do: signal, Container: name, Attempt: l.Attempt, Arg: p.stopSignal(name)})
	}
	p.setLife(name, l)
}

// started reports whether the current run has come up, so far as it was asked.
func (l life) started(h *api.Health) bool { return api.Deref(h).Start == nil || l.Start.Passed }

// dying says why the current run has to end: "" when it has not.
func (l life) dying(h *api.Health) string {
	const words = "%d %s checks failed in a row: %s"
	live := h.Liveness()
	switch {
	case !l.started(h):
		if l.Start.Failures >= threshold(h.Start) {
			return fmt.Sprintf(words, l.Start.Failures, kindStart, l.Start.Err)
		}
	case live != nil && l.Live.Failures >= threshold(live):
		return fmt.Sprintf(words, l.Live.Failures, kindOf(h, kindLive), l.Live.Err)
	}
	return ""
}

// ailing says in words what a running container fails: "" when nothing.
func (p *planner) ailing(name string) string {
	const words = "%s does not pass its %s check: %s"
	l, h := p.life(name), p.spec(name).Health
	ready := h.Readiness()
	switch {
	case !l.started(h):
		if l.Start.Failures >= min(threshold(h.Start), certainAt) {
			return fmt.Sprintf(words, name, kindStart, l.Start.Err)
		}
	case ready != nil && !l.Healthy && l.Ready.Failures >= threshold(ready):
		return fmt.Sprintf(words, name, kindOf(h, kindReady), l.Ready.Err)
	}
	return ""
}

// check asks a running container what there is to ask, when it is time.
func (p *planner) check(name string, r runtime.Status) {
	l, h := p.life(name), p.spec(name).Health
	if h == nil || !l.Ending.Since.IsZero() {
		return
	}
	kinds := []string{kindReady, kindLive}
	switch {
	case !l.started(h):
		kinds = []string{kindStart}
	case kindOf(h, kindReady) == kindHealth:
		kinds = []string{kindHealth}
	}
	for _, kind := range kinds {
		c := checkOf(h, kind)
		if c == nil {
			continue
		}
		f := p.see.Checks[checkKey(name, kind)]
		if f.Attempt != l.Attempt {
			f = checkFact{}
		}
		// What is not awaited is not asked more often than was said.
		patient := kind == kindLive || kind != kindStart && l.Healthy
		if !f.Busy && p.past(f.next(r.StartedAt, c.Interval.D(), patient)) {
			p.do(step{Do: probe, Container: name, Attempt: l.Attempt, Arg: kind})
		}
	}
}

// checkFact is how the checks of one kind go, as far as this life of the agent
// has asked.
type checkFact struct {
	Attempt int
	Busy    bool
	Count   int       // checks made
	Last    time.Time // when
}

func checkKey(container, kind string) string { return container + " " + kind }

// next is when to check again: at once after a start, soon while the answer is
// awaited, then every interval.
func (f checkFact) next(started time.Time, interval time.Duration, patient bool) time.Time {
	const eager = 100 * time.Millisecond
	switch {
	case f.Count == 0:
		return started
	case patient || f.Count > 10:
		return f.Last.Add(interval)
	}
	return f.Last.Add(min(eager<<(f.Count-1), interval))
}
