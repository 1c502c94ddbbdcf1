package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// Witness is what this server hears of the nodes, from two sides that fail
// apart: the supervisor process gossips, the agent process keeps a stream open.
type Witness interface {
	// Gossip returns what the members think of each node. One that was never
	// heard of is absent.
	Gossip() map[string]Heard
	// Streams returns the nodes whose agents are connected to this server.
	Streams() map[string]time.Time
	// Changes carries a signal after either changed. It has one reader.
	Changes() <-chan struct{}
}

// Heard is what gossip says of one node.
type Heard struct {
	State Hearsay
	Since time.Time
}

// Hearsay is what the others think of a node.
type Hearsay string

const (
	Unheard Hearsay = "" // never heard of
	Alive   Hearsay = "alive"
	Dead    Hearsay = "dead" // stopped answering
	Left    Hearsay = "left" // said goodbye
)

// Times the node loop waits.
const (
	// settle is how long a server that begins to judge listens first: what it
	// has not heard yet is no evidence.
	settle = 10 * time.Second
	// silence is how long a stream is gone, after it was noticed, until it
	// counts with gossip's word that the node is dead. An agent that is merely
	// restarted, or moves to another connection, is back by then.
	silence = time.Second
	// quiet is how long a stream is gone until it counts alone.
	quiet = 5 * time.Second
	// patience is how long a node without its agent, or one that said goodbye,
	// keeps its pods: they go on running, and an upgrade takes less.
	patience = 60 * time.Second
	// brakeWindow is how close together nodes vanish to count as one event.
	brakeWindow = 30 * time.Second
	// rateWindow is the time in which no more than a tenth of the nodes are
	// pronounced dead, but always rateLeast.
	rateWindow = 10 * time.Second
	rateLeast  = 3
	// crowd is how many nodes that vanish at once, and are a third of all, are
	// rather a network that fails than machines that do.
	crowd = 10
)

// testimony is what both witnesses say of one node now.
type testimony struct {
	heard     Heard
	connected bool
	since     time.Time // of connected; of the start of listening when never connected
}

// nodesPlan is what to conclude about all nodes.
type nodesPlan struct {
	verdicts []verdictChange
	lost     []lostPod
	held     []lostPod // may still run on a node that is gone
	again    time.Duration
}

type verdictChange struct {
	node   *api.Node
	health api.NodeHealth
}

type lostPod struct {
	pod    *api.Pod
	reason string
	why    string
}

func (p nodesPlan) empty() bool { return len(p.verdicts)+len(p.lost)+len(p.held) == 0 }

func (p nodesPlan) String() string {
	var b strings.Builder
	for _, v := range p.verdicts {
		was := v.node.Status.Health.Verdict
		if was == "" {
			was = "none"
		}
		fmt.Fprintf(&b, "~ %s %s -> %s", v.node.Meta.Name, was, v.health.Verdict)
		if v.health.Message != "" {
			fmt.Fprintf(&b, ": %s", v.health.Message)
		}
		b.WriteByte('\n')
	}
	for _, l := range p.lost {
		fmt.Fprintf(&b, "- %s lost: %s\n", l.pod.Meta.Name, l.why)
	}
	for _, l := range p.held {
		fmt.Fprintf(&b, "~ %s waits: %s\n", l.pod.Meta.Name, l.why)
	}
	if p.again > 0 {
		fmt.Fprintf(&b, "again %s\n", p.again)
	}
	return b.String()
}

// sooner asks for another run after d, if positive.
func (p *nodesPlan) sooner(d time.Duration) { p.again = sooner(p.again, d) }

// judge returns the verdict on one node from its witnesses alone, and when it
// may change with nothing but time passing. started is when this server began
// to listen.
func judge(n *api.Node, t testimony, started, now time.Time) (v api.Verdict, why string, again time.Duration) {
	was := n.Status.Health.Verdict
	if was == "" {
		was = api.VerdictJoining
	}
	listened, silent := now.Sub(started), now.Sub(t.since)
	wait := func(d time.Duration) (api.Verdict, string, time.Duration) { return was, n.Status.Health.Message, d }
	switch {
	case t.heard.State == Alive && t.connected:
		return api.VerdictReady, "", 0
	case t.connected && listened < settle:
		return wait(settle - listened)
	case t.connected && t.heard.State == Left:
		return api.VerdictPartitioned, "it said goodbye to gossip, but its agent is still connected", 0
	case t.connected && t.heard.State == Unheard && was == api.VerdictJoining && silent < settle: // since it connected
		return wait(settle - silent)
	case t.connected:
		return api.VerdictPartitioned, "its agent is connected, but gossip does not see it: check UDP and TCP on the gossip port between the machines", 0
	case t.heard.State == Alive && (silent < quiet || listened < settle):
		return wait(max(quiet-silent, settle-listened))
	case t.heard.State == Alive && was == api.VerdictDead && now.Sub(t.heard.Since) < quiet: // it boots
		return wait(quiet - now.Sub(t.heard.Since))
	case t.heard.State == Alive && was == api.VerdictJoining:
		return wait(0)
	case t.heard.State == Alive:
		return api.VerdictAgentDown, "the machine answers, but its agent has no connection here: see the log of nodeagent on it", 0
	case was == api.VerdictJoining || was == api.VerdictDead || was == api.VerdictLeft && t.heard.State != Dead:
		return wait(0) // nothing was heard that could change it
	case t.heard.State == Left && silent < silence:
		return wait(silence - silent)
	case t.heard.State == Left:
		return api.VerdictLeft, "it said goodbye", 0
	case listened < settle && t.heard.State != Dead:
		return wait(settle - listened)
	case listened < settle && t.since.Equal(started): // its stream may not have had the time to come
		return wait(settle - listened)
	case silent < silence:
		return wait(silence - silent)
	}
	return api.VerdictDead, "neither gossip nor its agent has been heard of", 0
}

// planNodes judges all nodes, applies the brakes, and gives up the pods of
// those that are gone. left is for how long those that were asked about may
// still have a run lease.
func planNodes(nodes []*api.Node, podsOf func(node string) []*api.Pod, orphans []*api.Pod, said map[string]testimony, left map[string]time.Duration, started, now time.Time) (p nodesPlan) {
	var dying []verdictChange
	alive, died, recent := 0, 0, 0 // standing; vanished within brakeWindow; pronounced dead within rateWindow
	mum := 0                       // of those that stand: without a word from the agent, and gossip may follow
	mute := muted(nodes, said, started, now)
	for _, n := range nodes {
		h := n.Status.Health
		v, why, again := judge(n, said[n.Meta.Name], started, now)
		p.sooner(again)
		if v == api.VerdictAgentDown && mute {
			why = muteAgents
		}
		ago := now.Sub(h.Since)
		if h.Verdict == api.VerdictDead && v == api.VerdictDead {
			if ago < brakeWindow {
				died++
			}
			if ago < rateWindow {
				recent++
			}
		}
		change := verdictChange{n, api.NodeHealth{Verdict: v, Since: now, Message: why}}
		switch {
		case v == api.VerdictDead && h.Verdict != api.VerdictDead:
			dying = append(dying, change)
			continue
		case v == api.VerdictReady || v == api.VerdictAgentDown || v == api.VerdictPartitioned:
			alive++
			if t := said[n.Meta.Name]; !t.connected && now.Sub(t.since) < quiet {
				mum++
			}
		}
		if v != h.Verdict {
			p.verdicts = append(p.verdicts, change)
		} else if why != h.Message {
			if h.Message != muteAgents { // else give it time to come back with the others
				change.health.Since = h.Since
			}
			p.verdicts = append(p.verdicts, change)
		}
	}
	p.brake(dying, census{alive, mum, died, recent, len(nodes)}, now)
	slices.SortFunc(p.verdicts, func(a, b verdictChange) int { return strings.Compare(a.node.Meta.Name, b.node.Meta.Name) })
	p.giveUp(nodes, podsOf, orphans, left, now)
	return p
}

const muteAgents = "the machine answers, but its agent has no connection here, and so it is for most nodes: its pods stay. Can agents reach the API's port on this server?"

// muted reports whether most agents are silent while their machines answer:
// then it is this server that they cannot reach, and no reason to move pods.
func muted(nodes []*api.Node, said map[string]testimony, started, now time.Time) bool {
	silent, standing := 0, 0
	for _, n := range nodes {
		switch v, _, _ := judge(n, said[n.Meta.Name], started, now); v {
		case api.VerdictAgentDown:
			silent++
			standing++
		case api.VerdictReady, api.VerdictPartitioned:
			standing++
		}
	}
	return silent >= 2 && 2*silent > standing
}

const (
	frozen  = "not pronounced dead: "
	thawing = "not pronounced dead yet: it may come back as others just did"
)

// census counts nodes for the brake.
type census struct {
	alive, mum   int // mum are among alive
	died, recent int // recent are among died
	all          int
}

// brake decides how many of the dying nodes are pronounced dead now. When most
// nodes vanish at once, or a third of many, it is more likely that this server
// is cut off, or a switch is down, than that they all died, and their pods
// would have nowhere to go. Streams end before gossip says why: of many nodes,
// those count that have just gone mum, or the first would be given up before
// the others are missed.
func (p *nodesPlan) brake(dying []verdictChange, c census, now time.Time) {
	vanished := len(dying) + c.died
	of := vanished + c.alive
	freeze := vanished >= 2 && 2*vanished > of
	if missed := vanished + c.mum; missed >= crowd && 3*missed >= of {
		freeze, vanished = true, missed
	}
	why := frozen + fmt.Sprintf("%d of %d nodes vanished at once, so this server may be the one that is cut off; its pods stay. Delete nodes that will not come back", vanished, of)
	limit := max(rateLeast, c.all/10) - c.recent
	for _, d := range dying {
		h := d.node.Status.Health
		withheld := h.Verdict == api.VerdictPartitioned && strings.HasPrefix(h.Message, frozen)
		switch {
		case freeze && withheld: // numbers that move are not worth a write
			p.sooner(brakeWindow / 3)
			continue
		case freeze:
			d.health.Verdict, d.health.Message = api.VerdictPartitioned, why
			p.sooner(brakeWindow / 3)
		case withheld:
			d.health.Verdict, d.health.Message = api.VerdictPartitioned, thawing
			p.sooner(settle)
		case h.Message == thawing && now.Sub(h.Since) < settle:
			p.sooner(settle - now.Sub(h.Since))
			continue
		case limit <= 0:
			p.sooner(rateWindow / 5)
			continue
		default:
			limit--
		}
		p.verdicts = append(p.verdicts, d)
	}
}

// giveUp ends the pods of nodes that are gone for good, as far as their
// recorded verdict says so: what is not on record cannot be acted on.
func (p *nodesPlan) giveUp(nodes []*api.Node, podsOf func(string) []*api.Pod, orphans []*api.Pod, left map[string]time.Duration, now time.Time) {
	health := map[string]api.NodeHealth{}
	for _, n := range nodes {
		health[n.Meta.Name] = n.Status.Health
	}
	for _, v := range p.verdicts {
		health[v.node.Meta.Name] = v.health
	}
	for _, n := range nodes {
		h := health[n.Meta.Name]
		wait, gone := due(h, now)
		if !gone || wait > 0 {
			p.sooner(wait)
			continue
		}
		why, reason := fmt.Sprintf("node %s is dead", n.Meta.Name), "node_dead"
		if h.Verdict != api.VerdictDead {
			why, reason = fmt.Sprintf("the agent of node %s has been gone for %s", n.Meta.Name, patience), string(api.VerdictAgentDown)
		}
		now := *n
		now.Status.Health = h
		for _, pod := range podsOf(n.Meta.Name) {
			p.lose(pod, &now, left, reason, why)
		}
	}
	for _, pod := range orphans {
		p.lose(pod, nil, left, "node_deleted", fmt.Sprintf("node %s was deleted", pod.Spec.Node))
	}
}

// lose gives up a pod of a node that is gone, or says why it must wait. A nil
// node was deleted.
func (p *nodesPlan) lose(pod *api.Pod, node *api.Node, left map[string]time.Duration, reason, why string) {
	if pod.Status.Phase.Ended() {
		return
	}
	wait, known := left[pod.Spec.Node]
	because, off := certainlyOff(pod, node, wait, !known)
	switch st := pod.Status; {
	case off && because != "":
		p.lost = append(p.lost, lostPod{pod, reason, why + ", and " + because})
	case off:
		p.lost = append(p.lost, lostPod{pod, reason, why})
	case st.Reason != api.Unreachable || st.Message != because || st.Ready:
		p.held = append(p.held, lostPod{pod, api.Unreachable, because})
	}
	if !off && pod.Spec.Isolation == api.StopIsolated {
		p.sooner(max(wait, time.Second/4))
	}
}

// nodes is the loop that judges nodes. It looks at all of them at once: the
// brakes do.
type nodes struct {
	client  *client.Client
	nodes   *client.Kind[*api.Node]
	caches  *reconcile.Caches
	witness Witness
	leases  Leases
	log     hclog.Logger

	started time.Time
	mu      sync.Mutex
	streams map[string]testimony // only what concerns the stream

	wroteNodes, wrotePods int64 // revisions
}

func newNodes(cfg Config) *nodes {
	return &nodes{client: cfg.Client, nodes: client.Of(cfg.Client, api.Nodes), caches: cfg.Caches, witness: cfg.Witness, leases: cfg.Leases,
		log: cfg.Log.Named("node"), started: time.Now(), streams: map[string]testimony{}}
}

// allNodes is the one thing the loop looks at.
var allNodes = api.Nodes.Ref("", "*")

func (l *nodes) loop() reconcile.Loop {
	return reconcile.Loop{
		Name: "node",
		Watch: []reconcile.Source{
			l.caches.Nodes.Refs(func(*api.Node) []api.Ref { return []api.Ref{allNodes} }),
			l.caches.Pods.Refs(func(p *api.Pod) []api.Ref {
				if p.Spec.Node == "" || p.Status.Phase.Ended() {
					return nil
				}
				if n := l.caches.Nodes.Get("", p.Spec.Node); n != nil && !n.Status.Health.Gone() {
					return nil
				}
				return []api.Ref{allNodes}
			}),
			reconcile.Signal(l.witness.Changes(), allNodes),
		},
		Reconcile: l.reconcile,
	}
}

// listen asks the witnesses. When a stream ended is noted here: they only say
// who is connected.
func (l *nodes) listen(all []*api.Node, now time.Time) map[string]testimony {
	heard, streams := l.witness.Gossip(), l.witness.Streams()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]testimony, len(all))
	for _, n := range all {
		name := n.Meta.Name
		t, known := l.streams[name]
		since, connected := streams[name]
		switch {
		case connected:
			t.connected, t.since = true, since
		case !known:
			t.since = l.started
		case t.connected:
			t.connected, t.since = false, now
		}
		l.streams[name] = t
		t.heard = heard[name]
		out[name] = t
	}
	maps.DeleteFunc(l.streams, func(name string, _ testimony) bool { _, ok := out[name]; return !ok })
	return out
}

func (l *nodes) reconcile(ctx context.Context, _ api.Ref) (time.Duration, error) {
	if err := cmp.Or(l.caches.Nodes.Await(ctx, l.wroteNodes), l.caches.Pods.Await(ctx, l.wrotePods)); err != nil {
		return 0, err
	}
	now := time.Now()
	all := l.caches.Nodes.List()
	var orphans []*api.Pod
	for _, node := range l.caches.Pods.Values("node") {
		if node == "" || l.caches.Nodes.Get("", node) != nil {
			continue
		}
		if err := absent(ctx, l.nodes, "", node); err != nil {
			return 0, err
		}
		orphans = append(orphans, l.caches.Pods.By("node", "", node)...)
	}
	podsOf := func(node string) []*api.Pod { return l.caches.Pods.By("node", "", node) }
	p := planNodes(all, podsOf, orphans, l.listen(all, now), l.withhold(all, orphans, now), l.started, now)
	if p.empty() {
		return p.again, nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "plan", p.String())
	}
	for _, v := range p.verdicts {
		if err := l.pronounce(ctx, v); err != nil {
			return 0, err
		}
	}
	if err := l.lose(ctx, p, now); err != nil {
		return 0, err
	}
	return p.again, nil
}

// pronounce writes a verdict.
func (l *nodes) pronounce(ctx context.Context, v verdictChange) error {
	n := *v.node
	n.Status.Health = v.health
	out, err := l.nodes.PutPart(ctx, &n, "health")
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write verdict on %s: %w", n.Ref(), err)
	}
	l.wroteNodes = max(l.wroteNodes, out.Meta.Revision)
	if v.health.Verdict == v.node.Status.Health.Verdict {
		return nil
	}
	l.log.Info("node is "+string(v.health.Verdict), "ref", n.Ref(), "was", v.node.Status.Health.Verdict, "why", v.health.Message)
	e := api.Event{Reason: string(v.health.Verdict), Message: "verdict: " + string(v.health.Verdict), By: "node",
		Warning: slices.Contains([]api.Verdict{api.VerdictDead, api.VerdictAgentDown, api.VerdictPartitioned}, v.health.Verdict)}
	if v.health.Message != "" {
		e.Message += ": " + v.health.Message
	}
	_ = l.client.Record(ctx, n.Ref(), e)
	return nil
}

// lose ends the pods of nodes that are gone. Their agents cannot say otherwise
// any more: a pod's phase only moves forward.
func (l *nodes) lose(ctx context.Context, p nodesPlan, now time.Time) error {
	var writes []write
	for _, x := range p.held {
		pod := *x.pod
		pod.Status.Ready, pod.Status.Reason, pod.Status.Message = false, x.reason, x.why
		writes = append(writes, status(api.Pods, &pod))
		l.log.Info("pod waits", "ref", pod.Ref(), "node", pod.Spec.Node, "why", x.why)
	}
	for _, x := range p.lost {
		pod := *x.pod
		pod.Status.Phase, pod.Status.Ready = api.PhaseLost, false
		pod.Status.Reason, pod.Status.Message, pod.Status.EndedAt = x.reason, x.why, now
		writes = append(writes, status(api.Pods, &pod))
		l.log.Info("pod is lost", "ref", pod.Ref(), "node", pod.Spec.Node, "why", x.why)
	}
	err := batches(ctx, l.client, nil, writes, func(_ api.Ref, revision int64) { l.wrotePods = max(l.wrotePods, revision) })
	if err != nil {
		return fmt.Errorf("give up pods: %w", err)
	}
	for _, x := range p.lost {
		_ = l.client.Record(ctx, x.pod.Ref(), api.Event{Warning: true, Reason: "lost", Message: x.why, By: "node"})
	}
	return nil
}
