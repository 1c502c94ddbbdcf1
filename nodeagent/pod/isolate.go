package pod

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A pod of on_isolation = stop runs on its node's lease. Once that has ended,
// if only for a moment, the pod may run elsewhere: it is killed at once, and
// for good. It starts nothing unless the node has the lease it began with.
//
// No pod of an ordinal starts anything before the API has taken the word that it
// does, under the lease it has: what was given up meanwhile is refused there.
// What the API shows is no such word, as a view may be older than the end.

// leaseFact is what the node knows of its run lease.
type leaseFact struct {
	Era  int64         // changes whenever it was lost
	Left time.Duration // 0: the node has none
}

// leaseRest is what a lease must have left for a pod to begin on it: one that
// nobody needed any more is not renewed, and may end before the next has begun.
const leaseRest = 2 * time.Second

// onLease judges a pod that needs a lease. It reports whether the pod is to be
// killed; if not, whether it must not start anything is noted in what is seen.
func (p *planner) onLease() (isolated bool) {
	if p.pod.Spec.Isolation != api.StopIsolated {
		return false
	}
	held, begun := p.see.Lease.Left > 0, len(p.alive()) > 0
	switch {
	case p.rec.Isolated:
	case p.rec.Era == 0 && held && (begun || p.see.Lease.Left >= leaseRest):
		p.rec.Era = p.see.Lease.Era
	case p.rec.Era == 0 && !begun:
		p.see.Hold, p.see.NoLease = true, true
		if held { // it is about to be renewed, or to end
			p.again(p.now.Add(leaseRest / 4))
		}
		return false
	case !held || p.rec.Era != p.see.Lease.Era:
		p.rec.Isolated = true
		p.event(true, api.Isolated, "the node had no contact with the control plane for as long as its run lease lasts: the pod is killed")
	}
	if p.rec.Isolated {
		return true
	}
	p.again(p.now.Add(p.see.Lease.Left))
	return false
}

// terms are those on which a pod of an ordinal may start: once for all, or the
// era of the lease it needs. 0: it needs nobody's leave.
func (r *record) terms(pod *api.Pod) int64 {
	if pod.Spec.Ordinal == nil {
		return 0
	}
	return max(r.Era, 1)
}

// unsaid reports whether the API has to take its word first.
func (r *record) unsaid(pod *api.Pod) bool { return r.Word != r.terms(pod) }

// isWord reports whether a status in that phase is the word.
func isWord(p api.Phase) bool { return p == api.PhaseStarting || p == api.PhaseRunning }

// said takes in that the API took a status, given on those terms.
func (r *record) said(phase api.Phase, terms int64) {
	if isWord(phase) {
		r.Word = terms
	}
}

// isolate kills what runs, and ends the pod.
func (p *planner) isolate() {
	for _, name := range p.names() {
		p.adopt(name)
	}
	alive := p.alive()
	for _, name := range slices.Sorted(maps.Keys(alive)) {
		p.do(step{Do: signal, Container: name, Attempt: p.life(name).Attempt, Arg: "SIGKILL"})
	}
	if len(alive) > 0 {
		p.again(p.now.Add(time.Second)) // until they are gone
		return
	}
	p.clean()
	if p.see.Gone && len(p.see.Runs) == 0 {
		p.forward(api.PhaseFailed)
	}
}

// isolation says why the pod ended.
func (p *planner) isolation() string {
	return fmt.Sprintf("node %s could not reach the control plane and killed the pod, so that it can run elsewhere", p.pod.Spec.Node)
}
