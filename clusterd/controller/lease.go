package controller

import (
	"fmt"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Leases are the run leases that this server grants to nodes while it leads.
type Leases interface {
	// Withhold returns for how long the node may still have a lease. Once that is
	// zero, it gets none until Admit.
	Withhold(node string) time.Duration
	Admit(node string)
}

// A stateful pod of a node that is gone may be given up only once it is certain
// that it does not run: its node's lease has ended, or somebody says that the
// machine is off.

// due reports whether the pods of a node with this health are to be given up,
// or from when on.
func due(h api.NodeHealth, now time.Time) (wait time.Duration, ok bool) {
	switch {
	case !h.Gone() || h.Message == muteAgents:
		return 0, false
	case h.Verdict == api.VerdictDead:
		return 0, true
	}
	return max(0, patience-now.Sub(h.Since)), true
}

// leased reports whether the pod runs on its node's lease.
func leased(pod *api.Pod) bool {
	return pod.Spec.Isolation == api.StopIsolated && !pod.Status.Phase.Ended()
}

// certainlyOff reports whether a pod of a node that is gone does not run any more,
// or why it may. left is for how long its node may have a lease; unknown says
// that nobody has asked yet.
func certainlyOff(pod *api.Pod, node *api.Node, left time.Duration, unknown bool) (why string, off bool) {
	is := "was deleted"
	if node != nil {
		is = "is " + goneAs(node.Status.Health.Verdict)
	}
	switch {
	case node != nil && node.Status.ConfirmedOff():
		return "an operator confirmed that the machine is off", true
	case pod.Spec.Isolation == api.StopIsolated && (unknown || left > 0):
		return fmt.Sprintf("node %s %s, and may run the pod until its run lease has ended", pod.Spec.Node, is), false
	case pod.Spec.Isolation == api.StopIsolated:
		return "its run lease has ended", true
	case pod.Spec.Isolation == api.KeepIsolated && node != nil:
		return fmt.Sprintf("node %s %s, and the pod goes on there if the machine does (on_isolation = keep): once it is off for certain, run: clusterd node confirm-off %s",
			pod.Spec.Node, is, pod.Spec.Node), false
	}
	return "", true // of no interest, or whoever deleted the node took that on himself
}

func goneAs(v api.Verdict) string {
	if v == api.VerdictAgentDown {
		return "without its agent"
	}
	if v == api.VerdictLeft {
		return "gone, as it said"
	}
	return string(v)
}

// withhold asks for how long nodes that are gone may still have a lease, those
// with pods for which it matters. All others may have one.
func (l *nodes) withhold(all []*api.Node, orphans []*api.Pod, now time.Time) map[string]time.Duration {
	left := map[string]time.Duration{}
	for _, n := range all {
		wait, gone := due(n.Status.Health, now)
		ask := false
		if gone && wait <= 0 {
			for _, pod := range l.caches.Pods.By("node", "", n.Meta.Name) {
				ask = ask || leased(pod)
			}
		}
		if ask {
			left[n.Meta.Name] = l.leases.Withhold(n.Meta.Name)
		} else {
			l.leases.Admit(n.Meta.Name)
		}
	}
	for _, pod := range orphans {
		if leased(pod) {
			left[pod.Spec.Node] = l.leases.Withhold(pod.Spec.Node)
		}
	}
	return left
}
