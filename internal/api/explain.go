package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// States of what is explained.
const (
	StateHealthy     = "healthy"     // as it should be
	StateProgressing = "progressing" // on its way there, and nothing is wrong
	StateWaiting     = "waiting"     // for something that is missing
	StateFailing     = "failing"     // it does not work as declared
	StateEnded       = "ended"
	StateDeleting    = "deleting"
)

// Explanation is why an object is as it is: what GET …/{name}/why answers.
type Explanation struct {
	Ref     Ref       `json:"ref"`
	State   string    `json:"state" enum:"healthy,progressing,waiting,failing,ended,deleting"`
	Summary string    `json:"summary" doc:"In a line."`
	Causes  []Because `json:"causes,omitempty" doc:"The worst first, at most 10."`
	Events  []Event   `json:"events,omitempty" doc:"What happened to it lately, newest last."`
}

// Explained reports whether objects of the kind can be asked why.
func Explained(kind string) bool {
	return slices.Contains([]string{Apps.Name, Jobs.Name, Pods.Name, Services.Name}, kind)
}

// Because is one cause, and the way out of it.
type Because struct {
	Ref Ref `json:"ref" doc:"The object it is about."`
	Cause
	Since  time.Time `json:"since,omitzero"`
	WayOut string    `json:"way_out,omitempty" doc:"What helps."`
}

// maxCauses is how many causes one explanation has.
const maxCauses = 10

// ExplainPod says why a pod is as it is, from what its agent and the scheduler
// say of it.
func ExplainPod(p *Pod, around Around) Explanation {
	x := Explanation{Ref: Pods.Ref(p.Meta.Namespace, p.Meta.Name)}
	st := p.Status
	c, state := causeOfPod(p)
	x.State = state
	switch {
	case c != nil:
		x.Summary = c.Message
		x.add(x.Ref, *c, cmp.Or(st.EndedAt, p.Meta.CreatedAt))
	case state == StateDeleting:
		x.Summary = fmt.Sprintf("is stopping since %s", p.Meta.DeletedAt.UTC().Format(time.RFC3339))
	case state == StateEnded:
		x.Summary = "has ended: " + string(st.Phase)
	case state == StateHealthy:
		x.Summary = "runs on node " + p.Spec.Node + " and is ready"
	default:
		x.Summary = cmp.Or(st.Message, "is "+string(cmp.Or(st.Phase, PhasePending)))
	}
	x.addAround([]*Pod{p}, around)
	return x
}

// causeOfPod returns what is wrong with a pod, or nil, and its state.
func causeOfPod(p *Pod) (*Cause, string) {
	st := p.Status
	c := &Cause{Reason: st.Reason, Message: st.Message, Pod: p.Meta.Name, Node: p.Spec.Node}
	switch {
	case st.Fatal != nil:
		f := *st.Fatal
		f.Pod, f.Node = cmp.Or(f.Pod, p.Meta.Name), cmp.Or(f.Node, p.Spec.Node)
		return &f, StateFailing
	case st.Phase == PhaseFailed || st.Phase == PhaseLost:
		c.Reason, c.Message = cmp.Or(c.Reason, string(st.Phase)), cmp.Or(c.Message, "is "+string(st.Phase))
		c.lastExit(st)
		return c, StateFailing
	case st.Phase.Ended():
		return nil, StateEnded
	case p.Meta.Deleting():
		return nil, StateDeleting
	case st.Ready:
		return nil, StateHealthy
	case p.Spec.Node == "" && st.Reason == "":
		return nil, StateProgressing // the scheduler has not looked at it yet
	case p.Spec.Node == "":
		return c, StateWaiting
	}
	for _, name := range containerOrder(st.Containers) {
		s := st.Containers[name]
		if s.Ready || s.Reason == "" && s.Last == nil {
			continue
		}
		c.Container, c.Reason, c.Message = name, cmp.Or(s.Reason, c.Reason), cmp.Or(s.Message, c.Message)
		c.lastExit(st)
		if s.Last != nil && s.Last.OOM && c.Message == "" {
			c.Reason, c.Message = ReasonOOM, name+" was killed: it used more memory than its limit"
		}
		if c.Reason == "" && s.Last != nil {
			c.Reason, c.Message = "exited", fmt.Sprintf("%s exited with code %d", name, s.Last.Code)
		}
		break
	}
	switch c.Reason {
	case "", "pulling", "starting":
		return nil, StateProgressing
	}
	c.Message = cmp.Or(c.Message, "waits: "+strings.ReplaceAll(c.Reason, "_", " "))
	if c.ExitCode != nil || c.Reason == "unhealthy" {
		return c, StateFailing
	}
	return c, StateWaiting
}

// ReasonOOM is the reason of a container that the kernel killed for its memory.
const ReasonOOM = "oom"

// lastExit adds how the container last ended.
func (c *Cause) lastExit(st PodStatus) {
	if last := st.Containers[cmp.Or(c.Container, MainContainer)].Last; last != nil {
		c.Container = cmp.Or(c.Container, MainContainer)
		code := last.Code
		c.ExitCode, c.OOM = &code, last.OOM
	}
}

func containerOrder(m map[string]ContainerStatus) []string {
	names := sortedKeys(m)
	slices.SortStableFunc(names, func(a, b string) int {
		return rank(a == MainContainer) - rank(b == MainContainer)
	})
	return names
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// ExplainApp says why an app is as it is, from its rollout and its pods.
func ExplainApp(a *App, pods []*Pod, around Around) Explanation {
	x := Explanation{Ref: Apps.Ref(a.Meta.Namespace, a.Meta.Name), State: StateHealthy}
	st, wanted := a.Status, Deref(a.Effective.Replicas)
	if wanted == 0 {
		wanted = st.Replicas
	}
	serve := fmt.Sprintf("%d of %d pods serve", st.Ready, wanted)
	failed := func(r *Rollout) {
		if r.Cause == nil {
			return
		}
		gone := !slices.ContainsFunc(pods, func(p *Pod) bool { return p.Meta.Name == r.Cause.Pod })
		if b := x.add(x.Ref, *r.Cause, r.EndedAt); b != nil && gone {
			b.WayOut = r.Cause.wayOut("")
		}
	}
	switch ro := st.Rollout; {
	case a.Meta.Deleting():
		x.State, x.Summary = StateDeleting, cmp.Or(st.Message, "is being deleted")
		return x
	case st.ObservedGeneration < a.Meta.Generation:
		x.State, x.Summary = StateProgressing, fmt.Sprintf("generation %d is about to be rolled out", a.Meta.Generation)
	case ro.Phase == RolloutFailed || ro.Phase == RolloutPaused:
		x.State, x.Summary = StateFailing, fmt.Sprintf("the rollout of generation %d %s; %s", ro.Generation, map[RolloutPhase]string{RolloutFailed: "failed", RolloutPaused: "failed and is paused"}[ro.Phase], serve)
		failed(&st.Rollout)
	case ro.Phase == RolloutInProgress:
		x.State, x.Summary = StateProgressing, fmt.Sprintf("generation %d is rolled out: %s", ro.Generation, cmp.Or(st.Message, serve))
	case st.Ready < wanted:
		x.State, x.Summary = StateProgressing, cmp.Or(st.Message, serve)
	default:
		x.Summary = serve
	}
	if back := slices.IndexFunc(st.History, func(r Rollout) bool { return r.Phase == RolloutRolledBack }); back == 0 && st.Rollout.Phase != RolloutFailed {
		x.Summary += fmt.Sprintf("; generation %d failed and was rolled back", st.History[0].Generation)
		failed(&st.History[0])
	}
	x.addCanary(a)
	x.addQuota(st.Message)
	x.addPods(pods, around)
	return x
}

// ExplainService says why a service does or does not answer.
func ExplainService(s *Service, pods []*Pod, around Around) Explanation {
	x := Explanation{Ref: Services.Ref(s.Meta.Namespace, s.Meta.Name), State: StateHealthy, Summary: fmt.Sprintf("leads to %d pods", s.Status.Endpoints)}
	switch {
	case s.Meta.Deleting():
		x.State, x.Summary = StateDeleting, "is being deleted"
		return x
	case s.Status.Endpoints == 0:
		x.State, x.Summary = StateWaiting, cmp.Or(s.Status.Message, "no pod behind it serves: connections are refused")
	}
	x.addPods(pods, around)
	return x
}

// addPods adds what is wrong with pods, those that fail first, and with what
// they depend on. Where there is
// something, the whole is no better than that.
func (x *Explanation) addPods(pods []*Pod, around Around) {
	type ill struct {
		pod   *Pod
		cause *Cause
		state string
	}
	var all []ill
	for _, p := range pods {
		if c, state := causeOfPod(p); c != nil && !p.Meta.Deleting() {
			all = append(all, ill{p, c, state})
		}
	}
	slices.SortFunc(all, func(a, b ill) int {
		return cmp.Or(rank(a.state == StateFailing)-rank(b.state == StateFailing), a.pod.Meta.CreatedAt.Compare(b.pod.Meta.CreatedAt), strings.Compare(a.pod.Meta.Name, b.pod.Meta.Name))
	})
	for _, i := range all {
		x.add(Pods.Ref(i.pod.Meta.Namespace, i.pod.Meta.Name), *i.cause, i.pod.Meta.CreatedAt)
	}
	if len(all) > 0 && (x.State == StateProgressing || x.State == StateHealthy) {
		x.State = all[0].state
	}
	x.addAround(pods, around)
}

// add records a cause, unless it has been said of the same pod. A container that
// keeps ending is one cause, however often it has ended by now. It returns what it
// recorded, or nil.
func (x *Explanation) add(ref Ref, c Cause, since time.Time) *Because {
	said := func(b Because) bool {
		again := b.ExitCode != nil && c.ExitCode != nil && b.Container == c.Container
		return b.Reason == c.Reason && b.Pod == c.Pod && (again || b.Message == c.Message)
	}
	if len(x.Causes) == maxCauses || slices.ContainsFunc(x.Causes, said) {
		return nil
	}
	x.Causes = append(x.Causes, Because{Ref: ref, Cause: c, Since: since, WayOut: c.WayOut()})
	return &x.Causes[len(x.Causes)-1]
}

// HomeOfVolume is between a volume and its node in the message of a pod that
// must be where its data is.
const HomeOfVolume = " is on node "

// Brimful follows storage that took nothing more, in the message of a container
// that ended so.
const Brimful = " full"

// WayOut says what helps against a cause; "" where only its message can tell.
func (c *Cause) WayOut() string { return c.wayOut("clusterd logs pod/" + c.Pod) }

// wayOut is WayOut with the command that shows what the pod wrote; of one that is
// gone there is none, and the cause has the last lines.
func (c *Cause) wayOut(logs string) string {
	before, now := "what it wrote last is with the cause", "what it wrote last is with the cause"
	if logs != "" {
		before, now = "what it wrote last: "+logs+" --previous", "what it wrote: "+logs
	}
	if c.OOM {
		return "Raise memory, or find out what uses it; " + before
	}
	switch c.Reason {
	case "crash_loop", "exited", "cannot_start":
		if strings.Contains(c.Message, Brimful) {
			return "Give what is full a larger size, or have less written to it; " + before
		}
		return "Correct command, env or image; " + before
	case "unhealthy", "not_ready":
		return "Check what health asks of it; " + now
	case "image_unavailable":
		return "Check the image's name and that nodes reach its registry; without one: clusterd image load."
	case "pull_refused":
		return "Check pull_auth: the secret's username and password are what the registry wants."
	case "missing_secret", "missing_config", "missing_content":
		return "Create it, or take it out of the app."
	case Unschedulable:
		if strings.Contains(c.Message, HomeOfVolume) {
			return "The data is on that node alone: bring the node back, or make room on it; clusterd get volumes -o wide says more."
		}
		return "Add a node, make room, or ask for less: cpu, memory and placement decide."
	case MakingRoom:
		return "Nothing: the pods that leave have their grace period to end."
	case ReasonCanaryHeld:
		return "Look at it, then clusterd rollout promote, or clusterd rollout abort."
	case ReasonQuota:
		return "Ask for less, delete what is not needed, or have the namespace's quota raised."
	case ReasonDraining:
		return "Nothing: clusterd describe node " + c.Node + " says what it waits for; clusterd node undrain " + c.Node + " takes it back."
	case ReasonVolume:
		if c.Node != "" {
			return "Bring node " + c.Node + " back: the data is there."
		}
		return "Create it."
	case "disk_full":
		return "Make room on the node's disk: unused images go by themselves, logs and scratch volumes do not."
	case "deadline":
		return "If it only needs longer, raise the deadline: update.deadline of an app, deadline of a job."
	}
	return ""
}
