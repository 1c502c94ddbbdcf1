package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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
	Desired            int       `json:"desired" doc:"Pods that are wanted now: replicas, or what the scaler or the nodes ask for."`
	Replicas           int       `json:"replicas" doc:"Pods that exist and have not ended."`
	Ready              int       `json:"ready" doc:"Pods that serve, of any revision."`
	Updated            int       `json:"updated" doc:"Pods of the current revision that have not ended."`
	Failures           int       `json:"failures,omitempty" doc:"Failed pods replaced lately; each makes the next wait longer."`
	FailedAt           time.Time `json:"failed_at,omitzero" doc:"When the last of them was replaced."`
	Epoch              int64     `json:"epoch,omitempty" doc:"That of the newest pods of a stateful app: the next ones get a larger one."`
	Message            string    `json:"message,omitempty" doc:"What the app is waiting for, in words."`
	Rollout            Rollout   `json:"rollout,omitzero" doc:"The current or last rollout."`
	History            []Rollout `json:"history,omitempty" doc:"Earlier rollouts, newest first, at most 10."`
	Intent             Intent    `json:"intent,omitzero" doc:"What users ask of the rollout."`
}

// Intent is what users ask of an app's rollouts without changing what is
// declared. They write it, at the sub-path intent; the app loop obeys.
type Intent struct {
	Promote int64     `json:"promote,omitempty" doc:"Number of the rollout whose canary is promoted."`
	Abort   int64     `json:"abort,omitempty" doc:"Number of the rollout that is given up."`
	Restart time.Time `json:"restart,omitzero" doc:"When somebody asked for new pods of what is declared: part of the revision, so it rolls out, and back, like any change."`
}

// Rollout is one change of an app on its way to the pods, and how it ended.
type Rollout struct {
	Number     int64             `json:"number,omitempty" doc:"Counts the app's rollouts: one generation may have several, when contents change or somebody asks for a restart."`
	Generation int64             `json:"generation"`
	Revision   string            `json:"revision"`
	Phase      RolloutPhase      `json:"phase"`
	Image      string            `json:"image,omitempty" doc:"Of the main container, as it is declared."`
	Images     map[string]string `json:"images,omitempty" doc:"Digests of the images its pods run, by the reference that is declared; one that is not there was not known."`
	Contents   map[string]string `json:"contents,omitempty" doc:"Versions of the configs and secrets its pods use."`
	Restarted  time.Time         `json:"restarted,omitzero" doc:"The restart its pods come from."`
	Asked      string            `json:"asked,omitempty" doc:"Hash of the contents and the restart that were there when it began: a rollback runs earlier ones, until they change again."`
	Reason     string            `json:"reason,omitempty" doc:"Why it was started, when not by a change of the spec: rollback of generation N, restart, …"`
	StartedAt  time.Time         `json:"started_at,omitzero"`
	Healthy    int               `json:"healthy,omitempty" doc:"Most pods of the revision that were healthy at once."`
	ProgressAt time.Time         `json:"progress_at,omitzero" doc:"When healthy last grew; the deadline counts from here."`
	EndedAt    time.Time         `json:"ended_at,omitzero"`
	Failed     int               `json:"failed,omitempty" doc:"Pods of it that failed for certain and were replaced; more than failure_budget and it has failed."`
	HeldSince  time.Time         `json:"held_since,omitzero" doc:"Since when its canary is healthy and waits to be promoted or aborted."`
	Promoted   bool              `json:"promoted,omitempty" doc:"Its canary was promoted."`
	Cause      *Cause            `json:"cause,omitempty" doc:"Why it failed."`
	Spec       json.RawMessage   `json:"spec,omitempty" doc:"The declared spec, verbatim, to roll back to."`
}

// rollbackOf begins the reason of a rollout that puts back an earlier one.
const rollbackOf = "rollback of generation "

// RollbackOf is the reason of a rollout that puts back what was before generation.
func RollbackOf(generation int64) string { return fmt.Sprint(rollbackOf, generation) }

// IsRollback reports whether the rollout puts back an earlier one by itself.
func (r *Rollout) IsRollback() bool { return strings.HasPrefix(r.Reason, rollbackOf) }

// Behind reports whether it puts back earlier contents, or what was before a
// restart, than are declared still: when its configs and secrets were put back
// with it, it is not.
func (r *Rollout) Behind() bool { return r.IsRollback() && r.Asked != Asked(r.Contents, r.Restarted) }

// Asked names the versions of contents, and the restart, that a rollout is to bring.
func Asked(contents map[string]string, restart time.Time) string {
	if len(contents) == 0 && restart.IsZero() {
		return ""
	}
	return shortHash(struct {
		Contents map[string]string
		Restart  time.Time
	}{contents, restart})
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

// RolloutOf returns the newest rollout of a generation, or nil when it is
// unknown. A rollback within the generation is not what was asked for: it
// returns the one that failed.
func (s *AppStatus) RolloutOf(generation int64) (ro *Rollout) {
	for i := -1; i < len(s.History); i++ {
		r := &s.Rollout
		if i >= 0 {
			r = &s.History[i]
		}
		if r.Generation != generation {
			continue
		}
		if !r.IsRollback() {
			return r
		}
		if ro == nil {
			ro = r
		}
	}
	return ro
}

// Aborted is the reason of a rollout that a user gave up.
const Aborted = "aborted"

// Cause says why something failed: the same facts in apply, describe and events.
type Cause struct {
	Reason    string   `json:"reason" doc:"aborted, crash_loop, out_of_memory, cannot_start, image_unavailable, unhealthy, unschedulable, deadline, …"`
	Message   string   `json:"message" doc:"In words, with the way out."`
	Pod       string   `json:"pod,omitempty"`
	Node      string   `json:"node,omitempty"`
	Container string   `json:"container,omitempty"`
	ExitCode  *int     `json:"exit_code,omitempty"`
	OOM       bool     `json:"oom,omitempty" doc:"The kernel killed it for exceeding its memory."`
	Log       []string `json:"log,omitempty" doc:"Last lines the container wrote."`
}
