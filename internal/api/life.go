package api

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Stop says how containers are asked to end.
type Stop struct {
	Signal      string   `json:"signal,omitempty" doc:"Signal that asks the process to end; by default the image's own, else SIGTERM."`
	PreStop     []string `json:"pre_stop,omitempty" doc:"Command to run in the main container before the signal; grace_period covers both."`
	GracePeriod Duration `json:"grace_period,omitempty" doc:"Time between the request to stop and SIGKILL." default:"10s"`
}

var signals = []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGWINCH"}

func (s Stop) validate() error {
	var errs Errors
	if s.Signal != "" && !slices.Contains(signals, s.Signal) {
		errs.Addf("signal", "%q is not a signal: want one of %s", s.Signal, strings.Join(signals, ", "))
	}
	if len(s.PreStop) > 0 && s.PreStop[0] == "" {
		errs.Addf("pre_stop", "the first word is the program to run: it must not be empty")
	}
	errs.Add("pre_stop", checkWords(s.PreStop))
	errs.Add("grace_period", s.GracePeriod.check(0, time.Hour))
	return errs.Err()
}

func (s *Stop) withDefaults() *Stop {
	in := Deref(s)
	in.GracePeriod = cmp.Or(in.GracePeriod, "10s")
	return &in
}

// Restart says what happens to a container that ended.
type Restart struct {
	Backoff    Duration `json:"backoff,omitempty" doc:"Wait before the first restart; it doubles with every bad end in a row, less some jitter." default:"1s"`
	MaxBackoff Duration `json:"max_backoff,omitempty" doc:"The longest wait." default:"60s"`
	ResetAfter Duration `json:"reset_after,omitempty" doc:"A run this long forgets the bad ends before it." default:"10m"`
	Attempts   *int     `json:"attempts,omitempty" doc:"Bad ends in a row on one node after which the pod is replaced, on another node if one fits." default:"6"`
}

func (r Restart) validate() error {
	var errs Errors
	errs.Add("backoff", r.Backoff.check(100*time.Millisecond, time.Hour))
	errs.Add("max_backoff", r.MaxBackoff.check(100*time.Millisecond, time.Hour))
	errs.Add("reset_after", r.ResetAfter.check(time.Second, 24*time.Hour))
	if r.Attempts != nil && *r.Attempts < 1 {
		errs.Addf("attempts", "must be at least 1")
	}
	return errs.Err()
}

// OrDefault is what holds when r says nothing, or not everything.
func (r *Restart) OrDefault() Restart { return *r.withDefaults() }

func (r *Restart) withDefaults() *Restart {
	in := Deref(r)
	in.Backoff, in.MaxBackoff = cmp.Or(in.Backoff, "1s"), cmp.Or(in.MaxBackoff, "60s")
	in.ResetAfter, in.Attempts = cmp.Or(in.ResetAfter, "10m"), or(in.Attempts, 6)
	return &in
}
