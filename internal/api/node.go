package api

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Nodes are the machines pods run on.
var Nodes = &Kind[*Node]{
	Name: "Node", Plural: "nodes", Aliases: []string{"node", "no"}, Scope: Cluster, Parts: []string{"health", "drain", "off"},
	Doc: "A machine that runs pods: its capacity, labels and health.",
	Columns: []Column[*Node]{
		{Name: "HEALTH", Of: func(n *Node) string { return nodeHealthColumn(n) }},
		{Name: "ADDRESS", Of: func(n *Node) string { return dash(n.Status.Address) }},
		{Name: "SUBNET", Of: func(n *Node) string { return dash(n.Effective.Subnet) }},
		{Name: "CPU", Of: func(n *Node) string { return dash(string(n.Status.Allocatable.CPU)) }},
		{Name: "MEMORY", Of: func(n *Node) string { return dash(string(n.Status.Allocatable.Memory)) }},
		{Name: "LABELS", Wide: true, Of: func(n *Node) string { return labelsColumn(n.Meta.Labels) }},
		{Name: "TAINTS", Wide: true, Of: func(n *Node) string { return labelsColumn(n.Spec.Taints) }},
		{Name: "VERSION", Wide: true, Of: func(n *Node) string { return n.Status.Version }},
		{Name: "AGE", Of: func(n *Node) string { return Age(n.Meta.CreatedAt) }},
	},
}

// Node is a machine that runs pods.
type Node = Object[NodeSpec, NodeStatus]

// NodeSpec is written by an operator; the join creates it.
type NodeSpec struct {
	Cordoned bool              `json:"cordoned,omitempty" doc:"No new pods are placed here; running ones stay."`
	Taints   map[string]string `json:"taints,omitempty" doc:"Only pods that tolerate them are placed here, such as dedicated = \"shop:no_schedule\"; with :no_execute others are moved away."`
	Drain    *Drain            `json:"drain,omitempty" doc:"Move all pods elsewhere, and place no new ones here."`
	Subnet   string            `json:"subnet,omitempty" doc:"Addresses of the node's pods; by default a free /24 of the cluster's pod range."`
}

// Validate reports every violation.
func (s NodeSpec) Validate() error {
	var errs Errors
	if s.Subnet != "" {
		if p, err := netip.ParsePrefix(s.Subnet); err != nil || !p.Addr().Is4() {
			errs.Addf("subnet", "%q is not an IPv4 network such as 10.244.3.0/24", s.Subnet)
		}
	}
	for _, k := range sortedKeys(s.Taints) {
		value, effect := SplitTaint(s.Taints[k])
		if !labelRE.MatchString(k) || value != "" && !labelRE.MatchString(value) || effect != NoSchedule && effect != NoExecute {
			errs.Addf("taints."+keyPath(k), "%q: want a value, a colon, and %s or %s", s.Taints[k], NoSchedule, NoExecute)
		}
	}
	if s.Drain != nil {
		errs.Add("drain.deadline", s.Drain.Deadline.check(time.Second, 7*24*time.Hour))
	}
	return errs.Err()
}

// Closed says why an operator's will keeps new pods away, "" if it does not.
func (s NodeSpec) Closed() string {
	switch {
	case s.Drain != nil:
		return "draining"
	case s.Cordoned:
		return "cordoned"
	}
	return ""
}

// Drain asks that a node's pods run elsewhere. Replacements are ready before
// pods go, and no app is taken below its min_available; only at the deadline
// pods are stopped all the same.
type Drain struct {
	Deadline Duration `json:"deadline,omitempty" doc:"How long pods that cannot be replaced are waited for." default:"10m"`
}

// Effects of a taint.
const (
	NoSchedule = "no_schedule" // pods that do not tolerate it are not placed here
	NoExecute  = "no_execute"  // … and those that run here are moved away
)

// SplitTaint splits the value of a taint, such as shop:no_schedule. Without an
// effect it is no_schedule.
func SplitTaint(taint string) (value, effect string) {
	value, effect, ok := strings.Cut(taint, ":")
	if !ok {
		effect = NoSchedule
	}
	return value, effect
}

// WithDefaults fills in the drain's deadline; the server allocates the subnet.
func (s NodeSpec) WithDefaults() NodeSpec {
	if s.Drain != nil {
		d := *s.Drain
		d.Deadline = cmp.Or(d.Deadline, "10m")
		s.Drain = &d
	}
	return s
}

// NodeStatus is written by the node's agent, but for Health.
type NodeStatus struct {
	Address     string     `json:"address,omitempty" doc:"Where other nodes reach it."`
	Capacity    Resources  `json:"capacity,omitzero" doc:"What the machine has."`
	Allocatable Resources  `json:"allocatable,omitzero" doc:"What pods may reserve."`
	Version     string     `json:"version,omitempty"`
	OS          string     `json:"os,omitempty"`
	Arch        string     `json:"arch,omitempty"`
	BootID      string     `json:"boot_id,omitempty" doc:"Changes with every boot."`
	Keys        KeyIDs     `json:"keys,omitzero" doc:"The keys it has of those that members share."`
	Health      NodeHealth `json:"health,omitzero" doc:"Written by the node loop alone."`
	Off         NodeOff    `json:"off,omitzero" doc:"Written by an operator who knows that the machine is off."`

	Drain *DrainStatus `json:"drain,omitempty" doc:"How far a drain is. Written by the node loop alone."`
}

// Phases of a drain.
const (
	DrainRunning  = "draining" // pods are still there
	DrainDeadline = "deadline" // pods are still there, and are stopped all the same
	DrainDone     = "drained"  // none is
)

// DrainStatus is how far the drain of a node is.
type DrainStatus struct {
	Phase     string    `json:"phase" enum:"draining,deadline,drained"`
	StartedAt time.Time `json:"started_at,omitzero" doc:"The deadline counts from here."`
	StopsAt   time.Time `json:"stops_at,omitzero" doc:"When what is left is stopped all the same."`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	Left      int       `json:"left" doc:"Pods that have not ended."`
	Waits     []string  `json:"waits,omitempty" doc:"What it waits for, pod by pod; at most 10."`
}

// Summary says it in a line.
func (d DrainStatus) Summary() string {
	switch d.Phase {
	case DrainDone:
		return "drained: no pod is left"
	case DrainDeadline:
		return fmt.Sprintf("the deadline is over, and %d pods are stopped all the same", d.Left)
	}
	left, are := "one pod is", "it is"
	if d.Left != 1 {
		left, are = fmt.Sprintf("%d pods are", d.Left), "they are"
	}
	says := "draining: " + left + " left"
	if !d.StopsAt.IsZero() { // leaders of before it leave it out
		says += fmt.Sprintf("; %s stopped all the same at %s", are, d.StopsAt.UTC().Format(time.TimeOnly+" MST"))
	}
	return says
}

// Resources are amounts a node has or a pod reserves.
type Resources struct {
	CPU    CPU    `json:"cpu,omitempty"`
	Memory Memory `json:"memory,omitempty"`
	Pods   int    `json:"pods,omitempty" doc:"How many pods fit."`
}

// Verdict is what the node loop concludes from its two witnesses: gossip, and
// the agent's stream to the API.
type Verdict string

const (
	VerdictJoining     Verdict = "joining"     // never seen ready
	VerdictReady       Verdict = "ready"       // both witnesses agree that it lives
	VerdictAgentDown   Verdict = "agent_down"  // gossip sees it, its agent is silent
	VerdictPartitioned Verdict = "partitioned" // its agent talks, gossip does not see it
	VerdictDead        Verdict = "dead"        // neither: its pods are replaced
	VerdictLeft        Verdict = "left"        // said goodbye
)

// NodeOff is an operator's word that a node which is not heard of runs nothing
// any more. It is about one outage, that of the verdict of the time.
type NodeOff struct {
	Since time.Time `json:"since,omitzero" doc:"Since when the verdict has been what the operator confirmed."`
}

// ConfirmedOff reports whether an operator knows that the node, which is not
// heard of, is off.
func (s *NodeStatus) ConfirmedOff() bool {
	return !s.Off.Since.IsZero() && s.Off.Since.Equal(s.Health.Since) && s.Health.Gone()
}

// Gone reports whether the node is not there for its pods.
func (h NodeHealth) Gone() bool {
	return h.Verdict == VerdictDead || h.Verdict == VerdictLeft || h.Verdict == VerdictAgentDown
}

// NodeHealth is the verdict on a node.
type NodeHealth struct {
	Verdict Verdict   `json:"verdict,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Message string    `json:"message,omitempty"`
}

// Schedulable reports whether new pods may be placed on the node.
func (h *NodeHealth) Schedulable() bool { return h.Verdict == VerdictReady }

func nodeHealthColumn(n *Node) string {
	h := string(cmp.Or(n.Status.Health.Verdict, VerdictJoining))
	switch {
	case n.Spec.Drain != nil && n.Status.Drain != nil:
		h += "," + n.Status.Drain.Phase
	case n.Spec.Drain != nil:
		h += "," + DrainRunning
	case n.Spec.Cordoned:
		h += ",cordoned"
	}
	return h
}

func labelsColumn(m map[string]string) string {
	out := ""
	for i, k := range sortedKeys(m) {
		if i > 0 {
			out += ","
		}
		out += fmt.Sprintf("%s=%s", k, m[k])
	}
	return dash(out)
}
