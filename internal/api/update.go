package api

import (
	"cmp"
	"time"
)

// Update says how a change reaches the running pods.
type Update struct {
	Strategy      string   `json:"strategy,omitempty" doc:"rolling: new pods are ready before old ones go. recreate: all old pods end before new ones start." enum:"rolling,recreate" default:"rolling"`
	Canary        *int     `json:"canary,omitempty" doc:"First run this many pods of the change beside all the old ones, and hold until it is promoted or aborted."`
	AutoPromote   Duration `json:"auto_promote,omitempty" doc:"Promote the canary by itself once it has been healthy this long; without, somebody does: clusterd rollout promote."`
	MaxParallel   *int     `json:"max_parallel,omitempty" doc:"How many pods are replaced at a time." default:"1"`
	Surge         *int     `json:"surge,omitempty" doc:"How many pods above replicas may exist during a rollout; stopping ones count. By default 1; 0 for stateful and per_node apps."`
	MinAvailable  *int     `json:"min_available,omitempty" doc:"Neither a rollout nor a drain takes the ready pods below this; by default replicas - max_parallel."`
	HealthyFor    Duration `json:"healthy_for,omitempty" doc:"A new pod counts once it has been ready this long, and none of its containers has ended meanwhile. What takes longer to crash has been healthy: set it to more than that." default:"5s"`
	Deadline      Duration `json:"deadline,omitempty" doc:"A rollout that has not made progress for this long has failed." default:"5m"`
	FailureBudget *int     `json:"failure_budget,omitempty" doc:"How many pods of the change may fail for certain, and be replaced, before the rollout has failed." default:"0"`
	OnFailure     string   `json:"on_failure,omitempty" doc:"What a failed rollout does: rollback to what was healthy last, or pause, which keeps all that is there. A change that only asks for more pods is a rollout, too: it fails when some have fitted nowhere for 20s and nothing under way makes room." enum:"rollback,pause" default:"rollback"`
}

func (u Update) validate(s AppSpec) error {
	var errs Errors
	if u.Strategy != "" && u.Strategy != "rolling" && u.Strategy != "recreate" {
		errs.Addf("strategy", "%q is unknown: want rolling or recreate; a canary is update.canary, the number of pods to try", u.Strategy)
	}
	replicas := *or(s.Replicas, 1)
	if s.Scale != nil {
		replicas = *or(s.Scale.Min, 1)
	}
	if u.MaxParallel != nil && *u.MaxParallel < 1 {
		errs.Addf("max_parallel", "must be at least 1")
	}
	if u.Surge != nil && *u.Surge < 0 {
		errs.Addf("surge", "must not be negative")
	}
	if n := u.Surge; n != nil && *n > 0 && (s.Stateful != nil || Deref(s.PerNode)) {
		errs.Addf("surge", "stateful and per_node apps have no second pod of the same place: leave it out")
	} else if volume := s.Template().Writes(); n != nil && *n > 0 && volume != "" {
		errs.Addf("surge", "one pod at a time writes to volume %s, so none can start beside the old one: leave it out, or mount the volume with read_only = true", volume)
	}
	if m := u.MinAvailable; m != nil {
		surge := *or(u.Surge, s.defaultSurge())
		switch {
		case *m < 0:
			errs.Addf("min_available", "must not be negative")
		case Deref(s.PerNode):
		case *m > replicas:
			errs.Addf("min_available", "%d is more than replicas (%d)", *m, replicas)
		case *m == replicas && replicas > 0 && surge == 0:
			errs.Addf("min_available", "%d of %d replicas with surge = 0 leaves a rollout no pod to replace: lower it, or raise surge", *m, replicas)
		}
	}
	if n := u.Canary; n != nil {
		switch {
		case *n < 1:
			errs.Addf("canary", "must be at least 1")
		case u.Strategy == "recreate":
			errs.Addf("canary", "needs old and new pods side by side: strategy = \"recreate\" has none")
		case s.Stateful != nil || Deref(s.PerNode):
			errs.Addf("canary", "needs old and new pods side by side: stateful and per_node apps have no second pod of the same place")
		}
	}
	if u.AutoPromote != "" && u.Canary == nil {
		errs.Addf("auto_promote", "belongs to canary: say how many pods to try")
	}
	errs.Add("auto_promote", u.AutoPromote.check(time.Second, 7*24*time.Hour))
	errs.Add("healthy_for", u.HealthyFor.check(0, 24*time.Hour))
	errs.Add("deadline", u.Deadline.check(time.Second, 24*time.Hour))
	if n := u.FailureBudget; n != nil && *n < 0 {
		errs.Addf("failure_budget", "must not be negative")
	}
	if u.OnFailure != "" && u.OnFailure != "rollback" && u.OnFailure != "pause" {
		errs.Addf("on_failure", "%q is unknown: want rollback or pause", u.OnFailure)
	}
	return errs.Err()
}

// Scale says between what and by what the number of pods moves. The scaler
// never writes the spec: how many pods it wants is status.desired.
type Scale struct {
	Min        *int     `json:"min,omitempty" doc:"Fewest pods." default:"1"`
	Max        int      `json:"max" doc:"Most pods; quota is charged for them."`
	CPU        *int     `json:"cpu,omitempty" doc:"Percent of the reserved cpu that pods should use on average." `
	Memory     *int     `json:"memory,omitempty" doc:"Percent of the reserved memory that pods should use on average."`
	DownWindow Duration `json:"down_window,omitempty" doc:"Fewer pods only after that many were enough all this while." default:"5m"`
	UpWindow   Duration `json:"up_window,omitempty" doc:"More pods only after they were needed all this while." default:"15s"`
}

func (s Scale) validate() error {
	var errs Errors
	low := *or(s.Min, 1)
	if low < 1 {
		errs.Addf("min", "must be at least 1")
	}
	if s.Max < low || s.Max > MaxReplicas {
		errs.Addf("max", "%d is out of range: want %d to %d", s.Max, max(low, 1), MaxReplicas)
	}
	if s.CPU == nil && s.Memory == nil {
		errs.Addf("cpu", "say by what to scale: cpu or memory, in percent of what pods reserve")
	}
	for field, p := range map[string]*int{"cpu": s.CPU, "memory": s.Memory} {
		if p != nil && (*p < 1 || *p > 1000) {
			errs.Addf(field, "%d is out of range: want 1 to 1000 percent", *p)
		}
	}
	errs.Add("down_window", s.DownWindow.check(0, 24*time.Hour))
	errs.Add("up_window", s.UpWindow.check(0, time.Hour))
	return errs.Err()
}

func (s Scale) withDefaults() Scale {
	s.Min = or(s.Min, 1)
	s.DownWindow, s.UpWindow = cmp.Or(s.DownWindow, "5m"), cmp.Or(s.UpWindow, "15s")
	return s
}

// Stateful makes an app's pods individuals: db-0, db-1, …
type Stateful struct {
	OnIsolation string `json:"on_isolation,omitempty" doc:"When its node loses the control plane. stop: the node stops the pod itself after its lease, so it can safely run elsewhere. keep: it goes on, and runs elsewhere only once somebody confirms that the node is off." enum:"stop,keep" default:"stop"`
	Order       string `json:"order,omitempty" doc:"ordered: pods start from 0 up and change from the last down, each once those before are ready. parallel: without waiting." enum:"ordered,parallel" default:"ordered"`
}

func (s Stateful) validate() error {
	var errs Errors
	if s.OnIsolation != "" && s.OnIsolation != "stop" && s.OnIsolation != "keep" {
		errs.Addf("on_isolation", "%q is unknown: want stop or keep", s.OnIsolation)
	}
	if s.Order != "" && s.Order != "ordered" && s.Order != "parallel" {
		errs.Addf("order", "%q is unknown: want ordered or parallel", s.Order)
	}
	return errs.Err()
}
