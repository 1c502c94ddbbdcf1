package api

import (
	"cmp"
	"fmt"
	"time"
)

// MainContainer is the name of a pod's main container.
const MainContainer = "main"

// Pods are containers that share a network, on one node.
var Pods = &Kind[*Pod]{
	Name: "Pod", Plural: "pods", Aliases: []string{"pod", "po"}, Scope: Namespaced, Derived: true, TwoStep: true, Parts: []string{"move"},
	Doc: "Containers that share network and IPC on one node: one instance of an app.",
	Indexes: map[string]func(*Pod) string{
		"node": func(p *Pod) string { return p.Spec.Node },
		"app":  func(p *Pod) string { return p.Spec.App },
		"job":  func(p *Pod) string { return p.Spec.Job },
	},
	Columns: []Column[*Pod]{
		{Name: "READY", Of: readyColumn},
		{Name: "PHASE", Of: func(p *Pod) string { return phaseColumn(p) }},
		{Name: "RESTARTS", Of: func(p *Pod) string { return fmt.Sprint(p.Status.Restarts()) }},
		{Name: "NODE", Of: func(p *Pod) string { return dash(p.Spec.Node) }},
		{Name: "IP", Of: func(p *Pod) string { return dash(p.Status.IP) }},
		{Name: "REVISION", Wide: true, Of: func(p *Pod) string { return p.Spec.Revision }},
		{Name: "IMAGE", Wide: true, Of: func(p *Pod) string { return ShortImage(p.Spec.Image) }},
		{Name: "AGE", Of: func(p *Pod) string { return Age(p.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(p *Pod) string { return p.Status.Message }},
	},
}

// Pod is one instance of an app, on one node for its whole life.
type Pod = Object[PodSpec, PodStatus]

// PodSpec is written by the loop of its owner; Node by the scheduler, once.
type PodSpec struct {
	PodTemplate
	App       string            `json:"app,omitempty" doc:"The app the pod belongs to."`
	Job       string            `json:"job,omitempty" doc:"The job the pod belongs to."`
	Run       string            `json:"run,omitempty" doc:"The run of the job."`
	Revision  string            `json:"revision,omitempty" doc:"The app's revision the template comes from."`
	Contents  map[string]string `json:"contents,omitempty" doc:"Versions of the configs and secrets the pod uses: content hash by config/name or secret/name."`
	Ordinal   *int              `json:"ordinal,omitempty" doc:"Which pod of a stateful app it is, from 0."`
	Epoch     int64             `json:"epoch,omitempty" doc:"Of the pods of one ordinal, the later one has the larger epoch."`
	Isolation string            `json:"on_isolation,omitempty" doc:"What its node does with it when it loses the control plane: stop or keep; empty: nothing."`
	Once      bool              `json:"once,omitempty" doc:"The pod ends with its main container, which is not restarted."`
	Target    string            `json:"target,omitempty" doc:"The only node it may be placed on: that of a pod of a per_node app."`
	Node      string            `json:"node,omitempty" doc:"The node the pod belongs to. Written once, by the scheduler."`
}

// Validate reports every violation.
func (s PodSpec) Validate() error {
	var errs Errors
	errs.Add("", s.Container.validate())
	errs.Add("", s.PodTemplate.validateParts())
	return errs.Err()
}

// WithDefaults returns s: a pod stores its resolved template.
func (s PodSpec) WithDefaults() PodSpec { return s }

// Hostname is what the pod called name calls itself: pods of a stateful app
// keep theirs, whichever pod has the ordinal.
func (s PodSpec) Hostname(name string) string {
	if s.Ordinal == nil {
		return name
	}
	return OrdinalName(s.App, *s.Ordinal)
}

// Phase is where a pod is in its life. It only moves forward.
type Phase string

const (
	PhasePending   Phase = "pending"   // no node yet, or its node has not begun
	PhaseStarting  Phase = "starting"  // its node prepares network, images, containers
	PhaseRunning   Phase = "running"   // the main container was started; it may restart
	PhaseStopping  Phase = "stopping"  // draining, then being signalled
	PhaseSucceeded Phase = "succeeded" // ended, as asked or with exit code 0
	PhaseFailed    Phase = "failed"    // ended and will not be restarted here
	PhaseLost      Phase = "lost"      // its node died; written by the node loop
)

var phaseOrder = map[Phase]int{"": 0, PhasePending: 0, PhaseStarting: 1, PhaseRunning: 2, PhaseStopping: 3, PhaseSucceeded: 4, PhaseFailed: 4, PhaseLost: 4}

// Ended reports whether a pod in this phase holds nothing on its node any more.
func (p Phase) Ended() bool { return phaseOrder[p] == 4 }

// MayBecome reports whether a pod may move from p to next.
func (p Phase) MayBecome(next Phase) bool {
	to, ok := phaseOrder[next]
	return ok && (p == next || !p.Ended() && to >= phaseOrder[p])
}

// Unschedulable is the reason on the status of a pod that fits no node, and of
// the rollout that fails for it.
const Unschedulable = "unschedulable"

// MakingRoom is the reason on the status of a pod whose node pods of a lower
// priority are about to leave.
const MakingRoom = "making_room"

// PodStatus is written by the pod's agent alone; by the node loop once the
// node is dead, by the scheduler (Reason, Message) before it has a node, and Move by users.
type PodStatus struct {
	Phase      Phase                      `json:"phase,omitempty" enum:"pending,starting,running,stopping,succeeded,failed,lost"`
	Ready      bool                       `json:"ready" doc:"The pod serves: its main container is healthy and it is not stopping."`
	ReadyAt    time.Time                  `json:"ready_at,omitzero" doc:"Since when it has been ready."`
	IP         string                     `json:"ip,omitempty"`
	Reason     string                     `json:"reason,omitempty" doc:"One word for what it waits for: unschedulable, pulling, crash_loop, …"`
	Message    string                     `json:"message,omitempty" doc:"The same in a sentence."`
	Crowded    bool                       `json:"crowded,omitempty" doc:"Unschedulable for want of room: it fits a node once other pods leave."`
	Fatal      *Cause                     `json:"fatal,omitempty" doc:"Set once it is certain that the pod cannot run as declared."`
	StartedAt  time.Time                  `json:"started_at,omitzero"`
	EndedAt    time.Time                  `json:"ended_at,omitzero"`
	Containers map[string]ContainerStatus `json:"containers,omitempty"`
	Move       *Move                      `json:"move,omitempty" doc:"Somebody asked for the pod to be replaced on another node."`
}

// Container states.
const (
	ContainerWaiting = "waiting"
	ContainerRunning = "running"
	ContainerExited  = "exited"
)

// ContainerStatus is one container of a pod as its agent sees it.
type ContainerStatus struct {
	State     string    `json:"state" enum:"waiting,running,exited"`
	Ready     bool      `json:"ready"`
	Restarts  int       `json:"restarts"`
	PID       int       `json:"pid,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	Reason    string    `json:"reason,omitempty" doc:"Why it waits, or does not serve: initializing, pulling, restarting, unhealthy, crash_loop, out_of_memory, cannot_start, image_unavailable."`
	Message   string    `json:"message,omitempty"`
	Image     string    `json:"image,omitempty" doc:"Digest of the image that runs."`
	Last      *Exit     `json:"last,omitempty" doc:"How its previous run ended."`
}

// Exit is how one run of a container ended.
type Exit struct {
	Code   int       `json:"code"`
	Signal int       `json:"signal,omitempty"`
	OOM    bool      `json:"oom,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// Restarts sums the restarts of all containers.
func (s PodStatus) Restarts() (n int) {
	for _, c := range s.Containers {
		n += c.Restarts
	}
	return n
}

// readyColumn counts the containers that run side by side.
func readyColumn(p *Pod) string {
	ready, all := 0, 0
	for name, c := range p.Status.Containers {
		if _, init := p.Spec.Init[name]; init {
			continue
		}
		if all++; c.Ready {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, all)
}

func phaseColumn(p *Pod) string {
	phase := string(cmp.Or(p.Status.Phase, PhasePending))
	if p.Status.Reason != "" && !p.Status.Phase.Ended() {
		phase += " (" + p.Status.Reason + ")"
	}
	return phase
}
