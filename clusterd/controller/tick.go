package controller

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A run begins because somebody asked, because the job changed, or because its
// schedule ticked. It is named after that: a run that exists is never begun
// again. status.ticked is the moment up to which every tick is decided, and
// moves only forward, in the transaction that begins the run or reports why
// there is none. So a clock that was set back finds its ticks decided; one that
// was set forward finds ticks that are late, which catch_up judges.

const (
	// clockCheck is how often the clock is looked at: it may be set forward.
	clockCheck = 10 * time.Second
	// mostTicks is how many ticks one plan decides.
	mostTicks = 5000
	// mostBegun is how many runs one plan begins.
	mostBegun = 50
	// mostSuffix is how long a word may be that a run is named after.
	mostSuffix = 20
)

// Causes of a run that was cancelled.
const (
	replaced   = "replaced"   // by the next tick
	superseded = "superseded" // by a change of the job
)

// jobWork works on the plan of one job at one moment.
type jobWork struct {
	*jobPlan
	job *api.Job
	s   api.JobSpec
	of  map[string][]*api.Pod // by run
	see facts
	now time.Time
}

// begin decides which runs are to begin.
func (j *jobWork) begin() {
	st := &j.status
	if in := st.Intent.Run; in != "" && in != st.Asked {
		st.Asked = in
		j.asked(in)
	}
	if j.s.Schedule == "" {
		st.Schedule, st.Ticked, st.Next = "", time.Time{}, time.Time{}
		j.change()
		return
	}
	st.Revision = ""
	j.tick()
}

// asked begins the run that somebody asked for, also of a suspended job.
func (j *jobWork) asked(suffix string) {
	if api.CheckName(suffix) != nil || len(suffix) > mostSuffix { // nor could it be a tick's
		j.event(true, "run_skipped", "no run can be called after %q: want a short word of lower-case letters and digits", suffix)
		return
	}
	if j.decide(j.runName(suffix), time.Time{}) && j.s.Schedule == "" {
		j.status.Revision = j.s.Revision()
	}
}

// change begins a run of a job without a schedule, if its template or triggers
// are others than those of the last one, or that has failed and the job changed.
func (j *jobWork) change() {
	st, revision := &j.status, j.s.Revision()
	again := false
	if i := slices.IndexFunc(st.Runs, func(r api.Run) bool { return r.Phase != api.RunSkipped }); i >= 0 {
		last := &st.Runs[i]
		again = (last.Phase == api.RunFailed || last.Phase == api.RunCancelled) && last.Generation < j.job.Meta.Generation
	}
	if st.Revision == revision && !again || api.Deref(j.s.Suspend) {
		return
	}
	st.Revision = revision
	name := j.runName(fmt.Sprint(j.job.Meta.Generation))
	for _, run := range j.running() {
		j.cancel(run, superseded, fmt.Sprintf("the job changed: run %s takes over", name))
	}
	j.start(name, time.Time{})
}

// tick decides the ticks that have come since the last that was.
func (j *jobWork) tick() {
	st := &j.status
	if key := j.s.Schedule + " " + j.s.TimeZone; st.Schedule != key {
		// What this schedule would have ticked before it was declared is nothing.
		st.Schedule = key
		if w := j.job.Meta.WrittenAt; w.After(st.Ticked) {
			st.Ticked = w
		}
	}
	ticks, begun := j.s.Ticks(), 0
	next := ticks.Next(st.Ticked)
	for n := 0; !next.After(j.now); n++ {
		if n == mostTicks || begun == mostBegun {
			st.Next = next
			j.sooner(time.Millisecond)
			return
		}
		if j.decide(j.tickName(next), next) {
			begun++
		}
		st.Ticked = next
		next = ticks.Next(next)
	}
	st.Next = next
	j.sooner(min(next.Sub(j.now), clockCheck))
}

// decide begins a run, or reports that policy skips it.
func (j *jobWork) decide(name string, tick time.Time) (begun bool) {
	if j.status.RunOf(name) != nil {
		return false
	}
	running := j.running()
	late := time.Duration(0)
	if !tick.IsZero() {
		late = j.now.Sub(tick)
	}
	switch {
	case !tick.IsZero() && api.Deref(j.s.Suspend):
		j.skip(name, tick, api.SkippedSuspend, "the job is suspended")
		return false
	case late > j.s.CatchUp.D():
		j.skip(name, tick, api.SkippedCatchUp, fmt.Sprintf("noticed %s late, and catch_up is %s", late.Round(time.Second), j.s.CatchUp))
		return false
	case len(running) > 0 && j.s.Concurrency == api.ConcurrencyReplace:
		for _, run := range running {
			j.cancel(run, replaced, fmt.Sprintf("run %s replaces it", name))
		}
	case len(running) > 0 && j.s.Concurrency != api.ConcurrencyAllow:
		j.skip(name, tick, api.SkippedForbid, fmt.Sprintf("run %s goes on", running[0].Name))
		return false
	}
	j.start(name, tick)
	return true
}

func (j *jobWork) running() (out []*api.Run) {
	for i := range j.status.Runs {
		if j.status.Runs[i].Phase == api.RunRunning {
			out = append(out, &j.status.Runs[i])
		}
	}
	return out
}

// start begins a run. Pointers to others do not outlive it.
func (j *jobWork) start(name string, tick time.Time) {
	run := api.Run{Name: name, ScheduledFor: tick, Generation: j.job.Meta.Generation, Phase: api.RunRunning, StartedAt: j.now}
	j.status.Runs = append([]api.Run{run}, j.status.Runs...)
	j.event(false, "run_started", "run %s begins", name)
}

// skip reports a tick without a run. The same again in a row is only counted.
func (j *jobWork) skip(name string, tick time.Time, reason, message string) {
	if runs := j.status.Runs; len(runs) > 0 && runs[0].Phase == api.RunSkipped && runs[0].Reason == reason && !tick.IsZero() && !runs[0].ScheduledFor.IsZero() {
		runs[0].Until, runs[0].EndedAt, runs[0].Message = tick, j.now, message
		runs[0].Ticks++
		return
	}
	run := api.Run{Name: name, ScheduledFor: tick, Until: tick, Generation: j.job.Meta.Generation, Phase: api.RunSkipped, Reason: reason, Message: message, EndedAt: j.now}
	if !tick.IsZero() {
		run.Ticks = 1
	}
	j.status.Runs = append([]api.Run{run}, j.status.Runs...)
	j.event(true, "run_skipped", "run %s is skipped (%s): %s", name, reason, message)
}

// cancel ends a run for another one.
func (j *jobWork) cancel(run *api.Run, reason, message string) {
	j.conclude(run, api.RunCancelled, reason, message, nil)
	j.event(true, "run_cancelled", "run %s is cancelled: %s", run.Name, message)
}

// runName returns <job>-<suffix>, which fits into a pod's name with what follows.
func (j *jobWork) runName(suffix string) string {
	const room = 12 // -<index>-<attempt>
	name := api.Label(j.job.Meta.Name, "-"+suffix+"-000000000000"[:1+room])
	return name[:len(name)-1-room]
}

// tickName names a run by its tick, to the minute in UTC.
func (j *jobWork) tickName(tick time.Time) string {
	return j.runName(tick.UTC().Format("200601021504"))
}
