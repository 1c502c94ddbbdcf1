package scheduler

import (
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A score ranks the nodes a pod fits; the highest wins, and the first of
// equals. Room counts 0 to 200: the free share of cpu and of memory after the
// pod is there, less their difference, so that neither runs out alone. Each
// pod of the same revision on the node outweighs that, and so, more and more,
// do a preferred label, a pod of the same revision that failed there lately, and
// each pod in the node's domain beyond the emptiest: an app spreads first. Pods
// of its other revisions count little: after a rollout they are gone. Their
// failures count nothing: what a bad image broke says nothing of a node.
const (
	perPodOnNode   = 300
	perOtherOnNode = 30
	perPreferred   = 10_000
	perFailure     = 20_000
	perPodInDomain = 100_000
)

// bonusOf is what node i is worth to a request whatever the load.
func (p *picture) bonusOf(r *request, i int) (bonus float32) {
	for k, v := range r.prefer {
		if have, ok := p.labels[i][k]; api.Selects(v, have, ok) {
			bonus += perPreferred
		}
	}
	return bonus - float32(min(p.hurt[r.group.revision][i], 3))*perFailure
}

// best returns the node for the next pod of the class, or -1 when it fits none.
// A class that asks again and wants nothing of other pods keeps a ranking.
func (p *picture) best(c *class) int {
	rules := p.rulesOf(c)
	if c.asked++; c.asked > 1 && c.request.spread == "" && len(rules) == 0 && len(c.candidates) > 0 {
		return p.first(c)
	}
	return p.scan(c, rules)
}

// scan looks at every node.
func (p *picture) scan(c *class, rules []rule) int {
	r := c.request
	var onNode, ofApp, inDomain, domainOf []int32
	if s := p.apps[r.group.app]; s != nil {
		ofApp = s.onNode // those of the same revision, too
	}
	if s := p.apps[r.group.revision]; s != nil {
		onNode = s.onNode
	}
	emptiest, outside := int32(0), int32(0)
	if r.spread != "" {
		domainOf, inDomain = p.domainOf(r.spread).of, p.perDomain(r.group.revision, r.spread)
		if inDomain == nil {
			inDomain = make([]int32, len(p.domainOf(r.spread).number))
		}
		if len(inDomain) > 0 {
			emptiest = c.emptiest(inDomain)
			outside = slices.Max(inDomain) + 1 - emptiest // a node outside every domain is the last resort
		}
	}
	best, high := -1, float32(0)
	cpu, mem := r.cpu, r.mem
	freeCPU, freeMem, freePods, perCPU, perMem := p.freeCPU, p.freeMem, p.freePods, p.perCPU, p.perMem
search:
	for k, at := range c.candidates {
		i := int(at)
		left, leftMem := freeCPU[i]-cpu, freeMem[i]-mem
		if left < 0 || leftMem < 0 || freePods[i] <= 0 {
			continue
		}
		for u := range rules {
			if !rules[u].fits(i) {
				continue search
			}
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
		if c.bonus != nil {
			score += c.bonus[k]
		}
		if best < 0 || score > high {
			best, high = i, score
		}
	}
	return best
}
