package controller

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// The app loop moves an app's pods off a node that drains, each once its
// replacement is ready. Here is told how far that is, and what nobody moves is
// stopped at the deadline.

// drainPlan is what to say of one node's drain, and whom to stop.
type drainPlan struct {
	status *api.DrainStatus // nil: the node does not drain
	remove []removal
	again  time.Duration
}

func (p drainPlan) String() string {
	var b strings.Builder
	for _, r := range p.remove {
		fmt.Fprintf(&b, "- %s %s\n", r.pod.Meta.Name, r.why)
	}
	if st := p.status; st == nil {
		b.WriteString("= no drain\n")
	} else {
		fmt.Fprintf(&b, "= %s left=%d\n", st.Phase, st.Left)
		for _, m := range st.Waits {
			fmt.Fprintf(&b, "  %s\n", m)
		}
	}
	if p.again > 0 {
		fmt.Fprintf(&b, "again %s\n", p.again)
	}
	return b.String()
}

// drainLook is how often a drain is looked at for what it waits for: that is
// said by pods on other nodes.
const drainLook = 2 * time.Second

// planDrain decides without doing. pods are those on the node, mates all pods
// of an app. The start is remembered in the status, so that a drain goes on
// where it was after a change of leaders.
func planDrain(n *api.Node, pods []*api.Pod, mates func(pod *api.Pod) []*api.Pod, now time.Time) (p drainPlan) {
	d := n.Effective.Drain
	if d == nil {
		return p
	}
	st := api.DrainStatus{StartedAt: now}
	if was := n.Status.Drain; was != nil {
		st.StartedAt, st.EndedAt = was.StartedAt, was.EndedAt
	}
	p.status = &st
	left := filter(pods, func(pod *api.Pod) bool { return !pod.Status.Phase.Ended() })
	slices.SortFunc(left, func(a, b *api.Pod) int { return strings.Compare(a.Ref().String(), b.Ref().String()) })
	st.Left = len(left)
	if len(left) == 0 {
		st.Phase = api.DrainDone
		if st.EndedAt.IsZero() {
			st.EndedAt = now
		}
		return p
	}
	st.Phase, st.EndedAt = api.DrainRunning, time.Time{}
	st.StopsAt = st.StartedAt.Add(d.Deadline.D())
	remaining := st.StopsAt.Sub(now)
	if remaining <= 0 {
		st.Phase = api.DrainDeadline
	}
	for _, pod := range left {
		if remaining <= 0 && pod.Spec.App == "" && !pod.Meta.Deleting() {
			p.remove = append(p.remove, removal{pod, fmt.Sprintf("node %s is drained, and its deadline is over", n.Meta.Name)})
		}
		if len(st.Waits) < drainTells {
			st.Waits = append(st.Waits, fmt.Sprintf("%s/%s %s", pod.Meta.Namespace, pod.Meta.Name, staysFor(n, pod, mates)))
		}
	}
	p.again = sooner(drainLook, remaining)
	return p
}

// drainTells is of how many pods a drain says what they wait for.
const drainTells = 10

// staysFor says why a pod is still on a node that drains.
func staysFor(n *api.Node, pod *api.Pod, mates func(*api.Pod) []*api.Pod) string {
	switch {
	case pod.Meta.Deleting():
		return "is stopping"
	case pod.Spec.Job != "":
		return "runs to its end, or to the deadline: it belongs to job " + pod.Spec.Job
	case pod.Spec.App == "":
		return "ends by itself, or at the deadline: nothing replaces it"
	}
	var next *api.Pod
	for _, mate := range mates(pod) {
		if mate.Status.Ready || mate.Meta.Deleting() || mate.Status.Phase.Ended() || mate.Spec.Node == n.Meta.Name {
			continue
		}
		if next == nil || cmp.Or(mate.Meta.CreatedAt.Compare(next.Meta.CreatedAt), strings.Compare(mate.Meta.Name, next.Meta.Name)) < 0 {
			next = mate
		}
	}
	if next == nil {
		return "waits for its turn"
	}
	return fmt.Sprintf("waits for %s to be ready in its place: %s", next.Meta.Name, why(next))
}

// drains is the loop that follows the drains of nodes.
type drains struct {
	client *client.Client
	nodes  *client.Kind[*api.Node]
	caches *reconcile.Caches
	log    hclog.Logger

	wrote reconcile.Written
}

func newDrains(cfg Config) *drains {
	return &drains{client: cfg.Client, nodes: client.Of(cfg.Client, api.Nodes), caches: cfg.Caches, log: cfg.Log.Named("drain")}
}

func (l *drains) loop() reconcile.Loop {
	return reconcile.Loop{
		Name: "drain",
		Watch: []reconcile.Source{
			l.caches.Nodes.Refs(func(n *api.Node) []api.Ref {
				if n.Effective.Drain == nil && n.Status.Drain == nil {
					return nil
				}
				return []api.Ref{n.Ref()}
			}),
			l.caches.Pods.Refs(func(pod *api.Pod) []api.Ref {
				if n := l.caches.Nodes.Get("", pod.Spec.Node); n == nil || n.Effective.Drain == nil {
					return nil
				}
				return []api.Ref{api.Nodes.Ref("", pod.Spec.Node)}
			}),
		},
		Reconcile: l.reconcile,
	}
}

func (l *drains) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	if err := l.caches.Nodes.Await(ctx, l.wrote.Of(ref)); err != nil {
		return 0, err
	}
	n := l.caches.Nodes.Get("", ref.Name)
	if n == nil {
		l.wrote.Forget(ref)
		return 0, nil
	}
	mates := func(pod *api.Pod) []*api.Pod { return l.caches.Pods.By("app", pod.Meta.Namespace, pod.Spec.App) }
	p := planDrain(n, l.caches.Pods.By("node", "", ref.Name), mates, api.Now())
	if err := l.apply(ctx, n, p); err != nil {
		return 0, err
	}
	return p.again, nil
}

func (l *drains) apply(ctx context.Context, n *api.Node, p drainPlan) error {
	same := reflect.DeepEqual(p.status, n.Status.Drain)
	if same && len(p.remove) == 0 {
		return nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", n.Ref(), "plan", p.String())
	}
	var writes []write
	for _, r := range p.remove {
		writes = append(writes, remove(r.pod.Ref(), r.pod.Meta.UID, false))
	}
	if err := batches(ctx, l.client, nil, writes, func(api.Ref, int64) {}); err != nil {
		return fmt.Errorf("stop what is left on %s: %w", n.Ref(), err)
	}
	for _, r := range p.remove {
		_ = l.client.Record(ctx, r.pod.Ref(), api.Event{Warning: true, Reason: "drained", Message: r.pod.Meta.Name + " is asked to stop: " + r.why, By: "node"})
	}
	if same {
		return nil
	}
	next := *n
	next.Status.Drain = p.status
	out, err := l.nodes.PutPart(ctx, &next, "drain")
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write how far the drain of %s is: %w", n.Ref(), err)
	}
	l.wrote.Note(n.Ref(), out.Meta.Revision)
	was, is := api.Deref(n.Status.Drain), api.Deref(p.status)
	if was.Phase == is.Phase {
		return nil
	}
	e := api.Event{Reason: "drain_" + is.Phase, Message: is.Summary(), By: "node", Warning: is.Phase == api.DrainDeadline}
	if p.status == nil {
		e.Reason, e.Message = "undrained", "the node takes pods again"
	}
	l.log.Info("drain: "+e.Message, "ref", n.Ref())
	_ = l.client.Record(ctx, n.Ref(), e)
	return nil
}
