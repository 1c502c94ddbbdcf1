package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Around finds what an explanation needs beside the object and its pods. Each
// returns nil for what does not exist.
type Around struct {
	Node   func(name string) *Node
	Volume func(namespace, name string) *Volume
}

// Reasons of causes that are not a pod's own.
const (
	ReasonCanaryHeld = "canary_held"
	ReasonQuota      = "quota"
	ReasonDraining   = "draining"
	ReasonVolume     = "volume"
)

// WaitsForQuota begins the message of an owner whose pods its namespace's quota
// leaves no room for.
const WaitsForQuota = "waits for quota: "

// ExplainJob says why a job is as it is, from its runs and its pods.
func ExplainJob(j *Job, pods []*Pod, around Around) Explanation {
	x := Explanation{Ref: Jobs.Ref(j.Meta.Namespace, j.Meta.Name), State: StateHealthy}
	st, run := j.Status, j.Status.last()
	switch {
	case j.Meta.Deleting():
		x.State, x.Summary = StateDeleting, cmp.Or(st.Message, "is being deleted")
		return x
	case run.Phase == RunRunning:
		x.State, x.Summary = StateProgressing, fmt.Sprintf("run %s goes on: %d of %d pods succeeded", run.Name, run.Succeeded, Deref(j.Effective.Completions))
	case run.Phase == RunFailed:
		x.State, x.Summary = StateFailing, fmt.Sprintf("run %s failed: %s", run.Name, cmp.Or(run.Message, run.Reason))
	case run.Name == "":
		x.State, x.Summary = StateWaiting, cmp.Or(st.Message, "has not run yet")
	default:
		x.State, x.Summary = StateEnded, fmt.Sprintf("run %s %s", run.Name, run.Phase)
	}
	if !st.Next.IsZero() {
		x.Summary += "; the next one is at " + st.Next.UTC().Format(time.RFC3339)
	}
	if run.Cause != nil {
		x.add(x.Ref, *run.Cause, run.EndedAt)
	}
	x.addQuota(st.Message)
	// Pods of a run that ended are told of by its cause, or were tried again.
	x.addPods(slices.DeleteFunc(slices.Clone(pods), func(p *Pod) bool { return p.Status.Phase.Ended() || p.Spec.Run != run.Name }), around)
	return x
}

// addCanary adds that a rollout waits for somebody's word.
func (x *Explanation) addCanary(a *App) {
	ro := a.Status.Rollout
	if ro.HeldSince.IsZero() || ro.Phase != RolloutInProgress {
		return
	}
	x.State = StateWaiting
	x.add(x.Ref, Cause{Reason: ReasonCanaryHeld, Message: cmp.Or(a.Status.Message, "the canary waits to be promoted")}, ro.HeldSince)
}

// addQuota adds that pods wait for their namespace's quota, if a status says so.
func (x *Explanation) addQuota(message string) {
	why, waits := strings.CutPrefix(message, WaitsForQuota)
	if !waits {
		return
	}
	x.State = StateWaiting
	x.add(Namespaces.Ref("", x.Ref.Namespace), Cause{Reason: ReasonQuota, Message: why}, time.Time{})
}

// addAround adds what is the matter with what pods depend on: nodes that drain,
// and volumes that are not there to be mounted.
func (x *Explanation) addAround(pods []*Pod, around Around) {
	for _, p := range pods {
		if p.Meta.Deleting() || p.Status.Phase.Ended() {
			continue
		}
		if p.Spec.Node != "" {
			if n := around.Node(p.Spec.Node); n != nil && n.Effective.Drain != nil {
				x.add(Nodes.Ref("", n.Meta.Name), Cause{Reason: ReasonDraining, Node: n.Meta.Name,
					Message: "node " + n.Meta.Name + " is drained: its pods move elsewhere, each once its replacement is ready"}, Deref(n.Status.Drain).StartedAt)
			}
			continue
		}
		for _, u := range p.Spec.Uses() {
			v := around.Volume(p.Meta.Namespace, u.Name)
			if why := unusable(v, u.Name); why != "" {
				c := Cause{Reason: ReasonVolume, Message: why}
				if v != nil && !v.Meta.Deleting() {
					c.Node = v.Status.Node
				}
				x.add(Volumes.Ref(p.Meta.Namespace, u.Name), c, p.Meta.CreatedAt)
			}
		}
	}
	because := func(reason string) bool {
		return slices.ContainsFunc(x.Causes, func(b Because) bool { return b.Reason == reason })
	}
	switch {
	case x.State == StateHealthy && because(ReasonDraining):
		x.State = StateProgressing
	case x.State == StateProgressing && because(ReasonVolume):
		x.State = StateWaiting
	}
}

// unusable says why a volume cannot be mounted now, "" if it can.
func unusable(v *Volume, name string) string {
	switch {
	case v == nil:
		return "volume " + name + " does not exist"
	case v.Meta.Deleting():
		return "volume " + name + " is being deleted"
	case v.Status.Phase == VolumeLost:
		return fmt.Sprintf("volume %s cannot be reached: %s", name, cmp.Or(v.Status.Message, "its node "+v.Status.Node+" is dead or gone"))
	}
	return ""
}
