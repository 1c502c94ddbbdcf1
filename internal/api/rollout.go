package api

import (
	"encoding/json"
	"slices"
	"time"
)

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
