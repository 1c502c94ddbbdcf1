package scheduler

import "slices"

// A score ranks the nodes a pod fits; the highest wins, and the first of
// equals. Room counts 0 to 200: the free share of cpu and of memory after the
// pod is there, less their difference, so that neither runs out alone. Each
// pod of the same revision on the node, and each in the node's domain beyond
// the emptiest, outweighs all that: an app spreads first. Pods of its other
// revisions count little: after a rollout they are gone.
const (
	perPodOnNode   = 300
	perOtherOnNode = 30
	perPodInDomain = 100_000
)

// best returns the node for r among candidates, or -1 when it fits none.
func (p *picture) best(r *request, candidates []int32) int {
	var onNode, ofApp, inDomain, domainOf []int32
	if s := p.apps[r.group.app]; s != nil {
		ofApp = s.onNode // those of the same revision, too
	}
	if s := p.apps[r.group.revision]; s != nil {
		onNode = s.onNode
		if r.spread != "" {
			inDomain, domainOf = p.perDomain(s, r.spread), p.domainOf(r.spread).of
		}
	} else if r.spread != "" {
		d := p.domainOf(r.spread)
		inDomain, domainOf = make([]int32, len(d.number)), d.of
	}
	emptiest, outside := int32(0), int32(0)
	if len(inDomain) > 0 {
		emptiest = slices.Min(inDomain)
		outside = slices.Max(inDomain) + 1 - emptiest // a node outside every domain is the last resort
	}
	best, high := -1, float32(0)
	cpu, mem := r.cpu, r.mem
	freeCPU, freeMem, freePods, perCPU, perMem := p.freeCPU, p.freeMem, p.freePods, p.perCPU, p.perMem
	for _, c := range candidates {
		i := int(c)
		left, leftMem := freeCPU[i]-cpu, freeMem[i]-mem
		if left < 0 || leftMem < 0 || freePods[i] <= 0 {
			continue
		}
		a, b := float32(left)*perCPU[i], float32(leftMem)*perMem[i]
		score := 2 * min(a, b) // a + b - |a-b|
		if onNode != nil {
			score -= float32(onNode[i]) * (perPodOnNode - perOtherOnNode)
		}
		if ofApp != nil {
			score -= float32(ofApp[i]) * perOtherOnNode
		}
		if domainOf != nil {
			if d := domainOf[i]; d >= 0 {
				score -= float32(inDomain[d]-emptiest) * perPodInDomain
			} else {
				score -= float32(outside) * perPodInDomain
			}
		}
		if best < 0 || score > high {
			best, high = i, score
		}
	}
	return best
}
