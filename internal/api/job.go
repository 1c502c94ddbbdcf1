package api

import (
	"cmp"
	"fmt"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/cron"
)

// Jobs run pods of one template to their end.
var Jobs = &Kind[*Job]{
	Name: "Job", Plural: "jobs", Aliases: []string{"job"}, Scope: Namespaced, TwoStep: true, Parts: []string{"intent"},
	Doc: "Work that ends: pods of one template that run to completion, once per change or by a schedule, with retries and a history of runs.",
	Columns: []Column[*Job]{
		{Name: "SCHEDULE", Of: func(j *Job) string { return dash(scheduleColumn(j)) }},
		{Name: "LAST RUN", Of: func(j *Job) string { return dash(j.Status.last().Name) }},
		{Name: "PHASE", Of: func(j *Job) string { return dash(string(j.Status.last().Phase)) }},
		{Name: "SUCCEEDED", Of: func(j *Job) string {
			return fmt.Sprintf("%d/%d", j.Status.last().Succeeded, Deref(j.Effective.Completions))
		}},
		{Name: "NEXT", Of: nextColumn},
		{Name: "IMAGE", Wide: true, Of: func(j *Job) string { return j.Spec.Image }},
		{Name: "DIGEST", Wide: true, Of: func(j *Job) string { return digestColumn(j.Effective.Image) }},
		{Name: "AGE", Of: func(j *Job) string { return Age(j.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(j *Job) string { return j.Status.Message }},
	},
}

// Job is work that ends.
type Job = Object[JobSpec, JobStatus]

// JobSpec is work that ends. The main container's fields are flat, as an app's.
// Without a schedule it runs once, and again when its template or its triggers
// change; with one, at each tick.
type JobSpec struct {
	PodTemplate
	Completions *int              `json:"completions,omitempty" doc:"How many pods must succeed. Each finds its number, from 0, in the environment variable CLUSTERD_INDEX." default:"1"`
	Parallelism *int              `json:"parallelism,omitempty" doc:"How many pods of a run may exist at a time." default:"1"`
	Retries     *int              `json:"retries,omitempty" doc:"How many pods of a run may fail, all together, before it has failed. Pods that are lost with their node, or moved away from it, do not count." default:"2"`
	Deadline    Duration          `json:"deadline,omitempty" doc:"How long a run may take before it is stopped and has failed; by default as long as it needs."`
	Triggers    map[string]string `json:"triggers,omitempty" doc:"Any values: a change of them runs the job again, such as the hash of a file."`

	Schedule    string   `json:"schedule,omitempty" doc:"When to run: minute, hour, day of month, month and day of week as in cron, such as \"15 2 * * *\"."`
	TimeZone    string   `json:"time_zone,omitempty" doc:"Whose clocks the schedule is read on: an IANA name such as Europe/Berlin." default:"UTC"`
	Concurrency string   `json:"concurrency,omitempty" doc:"What a tick does while an earlier run goes on. allow: both run. forbid: it is skipped. replace: the earlier run is stopped first." enum:"allow,forbid,replace" default:"forbid"`
	CatchUp     Duration `json:"catch_up,omitempty" doc:"How late a tick may still run, if nobody was there to start it in time; later ones are skipped." default:"1m"`
	Keep        *int     `json:"keep,omitempty" doc:"How many runs that ended are kept, with their pods and logs." default:"5"`
	Suspend     *bool    `json:"suspend,omitempty" doc:"No new runs start: ticks are skipped, a change waits. Runs that go on are left alone. Default: false."`

	DeletionProtection *bool `json:"deletion_protection,omitempty" doc:"Refuse to delete the job. Default: false."`
}

// IndexEnv is the environment variable that tells a job's pod its number.
const IndexEnv = "CLUSTERD_INDEX"

// Bounds of a job.
const (
	MaxCompletions = 1000
	MaxRetries     = 100
	MaxKeep        = 100
)

// What a tick does while an earlier run goes on.
const (
	ConcurrencyAllow   = "allow"
	ConcurrencyForbid  = "forbid"
	ConcurrencyReplace = "replace"
)

// Validate reports every violation.
func (s JobSpec) Validate() error {
	var errs Errors
	errs.Add("", s.Container.validate())
	errs.Add("", s.validateParts())
	for _, at := range sortedKeys(s.Mounts) {
		if s.Mounts[at].Size != "" {
			errs.Addf(join("mounts", keyPath(at))+".size", "is for stateful apps: name a volume that exists")
		}
	}
	for _, n := range []struct {
		field       string
		is          *int
		least, most int
	}{{"completions", s.Completions, 1, MaxCompletions}, {"parallelism", s.Parallelism, 1, MaxCompletions}, {"retries", s.Retries, 0, MaxRetries}, {"keep", s.Keep, 1, MaxKeep}} {
		if n.is != nil && (*n.is < n.least || *n.is > n.most) {
			errs.Addf(n.field, "%d is out of range: want %d to %d", *n.is, n.least, n.most)
		}
	}
	errs.Add("deadline", s.Deadline.check(time.Second, 365*24*time.Hour))
	errs.Add("", s.validateSchedule())
	return errs.Err()
}

func (s JobSpec) validateSchedule() error {
	var errs Errors
	switch s.Concurrency {
	case "", ConcurrencyAllow, ConcurrencyForbid, ConcurrencyReplace:
	default:
		errs.Addf("concurrency", "%q is unknown: want allow, forbid or replace", s.Concurrency)
	}
	errs.Add("catch_up", s.CatchUp.check(time.Second, 7*24*time.Hour))
	if s.Schedule == "" {
		for field, set := range map[string]bool{"time_zone": s.TimeZone != "", "concurrency": s.Concurrency != "", "catch_up": s.CatchUp != ""} {
			if set {
				errs.Addf(field, "belongs to schedule: say when to run")
			}
		}
		return errs.Err()
	}
	zone := s.TimeZone
	if _, err := cron.Zone(zone); err != nil {
		errs.Add("time_zone", err)
		zone = "" // the schedule may be wrong as well
	}
	_, err := cron.Parse(s.Schedule, zone)
	errs.Add("schedule", err)
	if len(s.Triggers) > 0 {
		errs.Addf("triggers", "a job with a schedule runs at its ticks: leave one of the two out")
	}
	return errs.Err()
}

// WithDefaults fills in every unset field. The deadline has no default.
func (s JobSpec) WithDefaults() JobSpec {
	s.PodTemplate = s.withDefaults()
	s.Completions, s.Parallelism = or(s.Completions, 1), or(s.Parallelism, 1)
	s.Retries, s.Keep = or(s.Retries, 2), or(s.Keep, 5)
	if s.Schedule != "" {
		s.TimeZone, s.Concurrency = cmp.Or(s.TimeZone, "UTC"), cmp.Or(s.Concurrency, ConcurrencyForbid)
		s.CatchUp = cmp.Or(s.CatchUp, "1m")
	}
	return s
}

// Revision is a short hash of the template and the triggers: without a
// schedule, a change of it is a new run. Call it on an effective spec.
func (s JobSpec) Revision() string {
	return shortHash(struct {
		PodTemplate
		Triggers map[string]string `json:"triggers,omitempty"`
	}{s.PodTemplate, s.Triggers})
}

// Ticks returns when the job's schedule ticks. It must have a valid one.
func (s JobSpec) Ticks() cron.Schedule {
	ticks, err := cron.Parse(s.Schedule, s.TimeZone)
	if err != nil {
		panic(err) // it was validated
	}
	return ticks
}

// Width is how many pods a run has at most at a time.
func (s JobSpec) Width() int { return min(*or(s.Parallelism, 1), *or(s.Completions, 1)) }

// RunPhase is where a run stands. It leaves running once and for good.
type RunPhase string

const (
	RunRunning   RunPhase = "running"
	RunSucceeded RunPhase = "succeeded"
	RunFailed    RunPhase = "failed"
	RunCancelled RunPhase = "cancelled" // by a newer run
	RunSkipped   RunPhase = "skipped"   // by policy: it never began
)

// Ended reports whether the run will not go on.
func (p RunPhase) Ended() bool { return p != "" && p != RunRunning }

// Why a tick was skipped.
const (
	SkippedForbid  = "forbid"   // an earlier run goes on
	SkippedCatchUp = "catch_up" // it was noticed too late
	SkippedSuspend = "suspend"
)

// JobStatus is what the job loop sees. It alone writes it, but for Intent.
type JobStatus struct {
	ObservedGeneration int64     `json:"observed_generation,omitempty" doc:"Generation of the spec this status speaks of."`
	Message            string    `json:"message,omitempty" doc:"What the job does or waits for, in words."`
	Next               time.Time `json:"next,omitzero" doc:"When the schedule ticks next."`
	Runs               []Run     `json:"runs,omitempty" doc:"Newest first: those that go on, and as many of the others as keep says."`

	Revision string    `json:"revision,omitempty" doc:"Of template and triggers that a run was last started for."`
	Schedule string    `json:"schedule,omitempty" doc:"Schedule and time zone that ticked speaks of."`
	Ticked   time.Time `json:"ticked,omitzero" doc:"Up to here every tick is decided, for good: it has a run or was skipped."`
	Asked    string    `json:"asked,omitempty" doc:"The intent that was followed last."`
	Intent   JobIntent `json:"intent,omitzero" doc:"What users ask of the job."`
}

// JobIntent is what users ask of a job: a run now.
type JobIntent struct {
	Run string    `json:"run,omitempty" doc:"Any word: another one than last time asks for a run, whose name ends in it."`
	At  time.Time `json:"at,omitzero"`
}

// Run is one time a job was done, or a tick at which it was not.
type Run struct {
	Name         string    `json:"name"`
	ScheduledFor time.Time `json:"scheduled_for,omitzero" doc:"The tick it belongs to."`
	Until        time.Time `json:"until,omitzero" doc:"Of skipped ticks in a row: the last."`
	Ticks        int       `json:"ticks,omitempty" doc:"Of skipped ticks in a row: how many."`
	Generation   int64     `json:"generation" doc:"Of the spec it was started with."`
	Phase        RunPhase  `json:"phase" enum:"running,succeeded,failed,skipped,cancelled"`
	Reason       string    `json:"reason,omitempty" doc:"One word for why it was skipped, cancelled or has failed."`
	Message      string    `json:"message,omitempty" doc:"The same in a sentence."`
	StartedAt    time.Time `json:"started_at,omitzero"`
	EndedAt      time.Time `json:"ended_at,omitzero"`
	Succeeded    int       `json:"succeeded" doc:"Pods that succeeded."`
	Failed       int       `json:"failed" doc:"Pods that failed; they used up retries."`
	Active       int       `json:"active" doc:"Pods that have not ended."`
	Pods         []string  `json:"pods,omitempty" doc:"Its pods, at most 20, the newest last."`
	FailedPods   []string  `json:"failed_pods,omitempty" doc:"Those that failed."`
	RetryAt      time.Time `json:"retry_at,omitzero" doc:"No pod is made before, because others failed."`
	Cause        *Cause    `json:"cause,omitempty" doc:"Why it failed, or why its last pod did."`
}

// RunOf returns the run of the name, or nil.
func (s *JobStatus) RunOf(name string) *Run {
	for i := range s.Runs {
		if s.Runs[i].Name == name {
			return &s.Runs[i]
		}
	}
	return nil
}

// last returns the newest run that was not skipped.
func (s *JobStatus) last() Run {
	for _, r := range s.Runs {
		if r.Phase != RunSkipped {
			return r
		}
	}
	return Run{}
}

func scheduleColumn(j *Job) string {
	s := j.Spec.Schedule
	if s != "" && Deref(j.Spec.Suspend) {
		s += " (suspended)"
	}
	return s
}

func nextColumn(j *Job) string {
	if j.Status.Next.IsZero() {
		return "-"
	}
	return j.Status.Next.Format("2006-01-02 15:04 MST")
}
