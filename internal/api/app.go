package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Apps keep pods of one template running.
var Apps = Kind[AppSpec, AppStatus]{
	Name: "App", Plural: "apps", Aliases: []string{"app"}, Scope: Namespaced, TwoStep: true,
	Doc: "A workload: pods of one template, kept running, healed, scaled and rolled out.",
	Columns: []Column[AppSpec, AppStatus]{
		{Name: "READY", Of: func(a *App) string { return fmt.Sprintf("%d/%d", a.Status.Ready, Deref(a.Effective.Replicas)) }},
		{Name: "UPDATED", Of: func(a *App) string { return fmt.Sprint(a.Status.Updated) }},
		{Name: "ROLLOUT", Of: func(a *App) string { return string(a.Status.Rollout.Phase) }},
		{Name: "REVISION", Of: func(a *App) string { return a.Status.Rollout.Revision }},
		{Name: "IMAGE", Of: func(a *App) string { return a.Spec.Image }},
		{Name: "MESSAGE", Wide: true, Of: func(a *App) string { return a.Status.Message }},
		{Name: "AGE", Of: func(a *App) string { return Age(a.Meta.CreatedAt) }},
	},
}

// App is a workload: pods of one template, kept running.
type App = Object[AppSpec, AppStatus]

// AppSpec is what a team wants to run. The main container's fields are flat:
// image, command, args, env, cpu, memory and ports.
type AppSpec struct {
	Container
	Replicas  *int                 `json:"replicas,omitempty" doc:"How many pods to keep running." default:"1"`
	Health    *Health              `json:"health,omitempty" doc:"How to tell that the app serves."`
	Sidecars  map[string]Container `json:"sidecars,omitempty" doc:"Containers that run beside the main one and share its network."`
	Placement *Placement           `json:"placement,omitempty" doc:"Where pods may and should run."`
	Update    *Update              `json:"update,omitempty" doc:"How a change is rolled out."`
	Stop      *Stop                `json:"stop,omitempty" doc:"How containers are asked to end."`
}

// Placement restricts and steers where pods run.
type Placement struct {
	Require map[string]string `json:"require,omitempty" doc:"Node labels that a pod's node must have."`
	Spread  string            `json:"spread,omitempty" doc:"Node label whose values pods are spread over; pods always prefer nodes with fewer of the same app."`
}

// Update says how a change reaches the running pods.
type Update struct {
	MaxParallel  *int     `json:"max_parallel,omitempty" doc:"How many pods are replaced at a time." default:"1"`
	Surge        *int     `json:"surge,omitempty" doc:"How many pods above replicas may exist during a rollout; stopping ones count." default:"1"`
	MinAvailable *int     `json:"min_available,omitempty" doc:"A rollout never takes the ready pods below this; by default replicas - max_parallel."`
	HealthyFor   Duration `json:"healthy_for,omitempty" doc:"A new pod counts once it has been ready this long." default:"5s"`
	Deadline     Duration `json:"deadline,omitempty" doc:"A rollout that has not made progress for this long has failed." default:"5m"`
	OnFailure    string   `json:"on_failure,omitempty" doc:"What a failed rollout does: rollback to the last healthy revision, or pause." default:"rollback" enum:"rollback,pause"`
}

// Validate reports every violation.
func (s AppSpec) Validate() error {
	var errs Errors
	errs.Add("", s.Container.validate())
	if n := s.Replicas; n != nil && (*n < 0 || *n > 10000) {
		errs.Addf("replicas", "%d is out of range: want 0 to 10000", *n)
	}
	if s.Health != nil {
		errs.Add("health", s.Health.validate(s.Ports))
	}
	seen := map[Port]string{}
	for _, name := range sortedKeys(s.Ports) {
		seen[s.Ports[name]] = "ports." + name
	}
	for _, name := range sortedKeys(s.Sidecars) {
		at := "sidecars." + keyPath(name)
		errs.Add(at, CheckName(name))
		if name == MainContainer {
			errs.Addf(at, "%q is the main container's own name: choose another", name)
		}
		c := s.Sidecars[name]
		errs.Add(at, c.validate())
		for _, port := range sortedKeys(c.Ports) {
			if other, dup := seen[c.Ports[port]]; dup {
				errs.Addf(join(at+".ports", keyPath(port)), "port %s is taken by %s: containers of a pod share one network", c.Ports[port], other)
			}
			seen[c.Ports[port]] = at + ".ports." + port
		}
	}
	if p := s.Placement; p != nil {
		errs.Add("placement.require", checkLabels(p.Require))
		if p.Spread != "" && !labelRE.MatchString(p.Spread) {
			errs.Addf("placement.spread", "%q is not a label key", p.Spread)
		}
	}
	if u := s.Update; u != nil {
		errs.Add("update", u.validate(s))
	}
	if s.Stop != nil {
		errs.Add("stop", s.Stop.validate())
	}
	return errs.Err()
}

func (u Update) validate(s AppSpec) error {
	var errs Errors
	if u.MaxParallel != nil && *u.MaxParallel < 1 {
		errs.Addf("max_parallel", "must be at least 1")
	}
	if u.Surge != nil && *u.Surge < 0 {
		errs.Addf("surge", "must not be negative")
	}
	replicas := *or(s.Replicas, 1)
	if m := u.MinAvailable; m != nil {
		switch {
		case *m < 0:
			errs.Addf("min_available", "must not be negative")
		case *m > replicas:
			errs.Addf("min_available", "%d is more than replicas (%d)", *m, replicas)
		case *m == replicas && replicas > 0 && u.Surge != nil && *u.Surge == 0:
			errs.Addf("min_available", "%d of %d replicas with surge = 0 leaves a rollout no pod to replace: lower it, or raise surge", *m, replicas)
		}
	}
	errs.Add("healthy_for", u.HealthyFor.check(0, 24*time.Hour))
	errs.Add("deadline", u.Deadline.check(time.Second, 24*time.Hour))
	if u.OnFailure != "" && u.OnFailure != "rollback" && u.OnFailure != "pause" {
		errs.Addf("on_failure", "%q is unknown: want rollback or pause", u.OnFailure)
	}
	return errs.Err()
}

// WithDefaults fills in every unset field.
func (s AppSpec) WithDefaults() AppSpec {
	s.Container = s.Container.withDefaults()
	s.Replicas = or(s.Replicas, 1)
	if s.Health != nil {
		s.Health = s.Health.withDefaults()
	}
	for name, c := range s.Sidecars {
		s.Sidecars[name] = c.withDefaults()
	}
	u := Deref(s.Update)
	u.MaxParallel, u.Surge = or(u.MaxParallel, 1), or(u.Surge, 1)
	u.MinAvailable = or(u.MinAvailable, max(0, *s.Replicas-*u.MaxParallel))
	u.HealthyFor, u.Deadline = cmp.Or(u.HealthyFor, "5s"), cmp.Or(u.Deadline, "5m")
	u.OnFailure = cmp.Or(u.OnFailure, "rollback")
	s.Update = &u
	stop := Deref(s.Stop)
	stop.GracePeriod = cmp.Or(stop.GracePeriod, "10s")
	s.Stop = &stop
	return s
}

// Template returns what each pod of the app runs. Call it on an effective spec.
func (s AppSpec) Template() PodTemplate {
	return PodTemplate{Container: s.Container, Health: s.Health, Sidecars: s.Sidecars, Placement: s.Placement, Stop: s.Stop}
}

// Revision is a short hash of the template: a change of it is a rollout.
func (s AppSpec) Revision() string {
	b, err := json.Marshal(s.Template())
	if err != nil {
		panic(err) // every api type marshals
	}
	sum := sha256.Sum256(b)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:6]
}

// RolloutPhase is where a rollout stands. It leaves in_progress once and for good.
type RolloutPhase string

const (
	RolloutInProgress RolloutPhase = "in_progress"
	RolloutComplete   RolloutPhase = "complete"
	RolloutRolledBack RolloutPhase = "rolled_back" // the last healthy spec was put back as a new generation
	RolloutPaused     RolloutPhase = "paused"      // failed, and on_failure = pause
	RolloutFailed     RolloutPhase = "failed"      // failed, with nothing to roll back to
	RolloutSuperseded RolloutPhase = "superseded"  // a newer generation took over
)

// Terminal reports whether the rollout has ended.
func (p RolloutPhase) Terminal() bool { return p != "" && p != RolloutInProgress }

// AppStatus is what the app loop sees. It alone writes it.
type AppStatus struct {
	ObservedGeneration int64     `json:"observed_generation,omitempty" doc:"Generation of the spec this status speaks of."`
	Replicas           int       `json:"replicas" doc:"Pods that exist and have not ended."`
	Ready              int       `json:"ready" doc:"Pods that serve, of any revision."`
	Updated            int       `json:"updated" doc:"Pods of the current revision that have not ended."`
	Failures           int       `json:"failures,omitempty" doc:"Failed pods replaced lately; each makes the next wait longer."`
	FailedAt           time.Time `json:"failed_at,omitzero" doc:"When the last of them was replaced."`
	Message            string    `json:"message,omitempty" doc:"What the app is waiting for, in words."`
	Rollout            Rollout   `json:"rollout,omitzero" doc:"The current or last rollout."`
	History            []Rollout `json:"history,omitempty" doc:"Earlier rollouts, newest first, at most 10."`
}

// Rollout is one change of an app on its way to the pods, and how it ended.
type Rollout struct {
	Generation int64           `json:"generation"`
	Revision   string          `json:"revision"`
	Phase      RolloutPhase    `json:"phase"`
	Image      string          `json:"image,omitempty"`
	Reason     string          `json:"reason,omitempty" doc:"Why it was started, when not by a user: rollback of generation N."`
	StartedAt  time.Time       `json:"started_at,omitzero"`
	Healthy    int             `json:"healthy,omitempty" doc:"Most pods of the revision that were healthy at once."`
	ProgressAt time.Time       `json:"progress_at,omitzero" doc:"When healthy last grew; the deadline counts from here."`
	EndedAt    time.Time       `json:"ended_at,omitzero"`
	Cause      *Cause          `json:"cause,omitempty" doc:"Why it failed."`
	Spec       json.RawMessage `json:"spec,omitempty" doc:"The declared spec, verbatim, to roll back to."`
}

// LastHealthy returns the newest completed rollout, or nil.
func (s *AppStatus) LastHealthy() *Rollout {
	if s.Rollout.Phase == RolloutComplete {
		return &s.Rollout
	}
	if i := slices.IndexFunc(s.History, func(r Rollout) bool { return r.Phase == RolloutComplete }); i >= 0 {
		return &s.History[i]
	}
	return nil
}

// RolloutOf returns the rollout of a generation, or nil when it is unknown.
func (s *AppStatus) RolloutOf(generation int64) *Rollout {
	if s.Rollout.Generation == generation {
		return &s.Rollout
	}
	if i := slices.IndexFunc(s.History, func(r Rollout) bool { return r.Generation == generation }); i >= 0 {
		return &s.History[i]
	}
	return nil
}

// Cause says why something failed: the same facts in apply, describe and events.
type Cause struct {
	Reason    string   `json:"reason" doc:"crash_loop, cannot_start, image_unavailable, unhealthy, unschedulable, deadline, …"`
	Message   string   `json:"message" doc:"In words, with the way out."`
	Pod       string   `json:"pod,omitempty"`
	Node      string   `json:"node,omitempty"`
	Container string   `json:"container,omitempty"`
	ExitCode  *int     `json:"exit_code,omitempty"`
	OOM       bool     `json:"oom,omitempty" doc:"The kernel killed it for exceeding its memory."`
	Log       []string `json:"log,omitempty" doc:"Last lines the container wrote."`
}
