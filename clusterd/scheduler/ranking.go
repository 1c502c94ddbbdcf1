package scheduler

import "math"

// ranking is the nodes of a class by their scores, when each node's depends on
// that node alone: the pods of an app that wants nothing of others. It is a
// tournament, whose root is the answer: after a pod has found its node, one node
// plays its matches again instead of all. It answers exactly what a scan does.
type ranking struct {
	score  []float32 // of each candidate; unfit if it does not fit
	winner []int32   // of each match: candidates; the leaves are from size on
	size   int
	seat   []int32 // of each node among the candidates, -1: none

	epoch, seen int // how much of the picture's touched it knows
}

var unfit = float32(math.Inf(-1))

// touch notes that what is taken of a node has changed.
func (p *picture) touch(i int) {
	if len(p.touched) > 4*len(p.names) {
		p.touched, p.epoch = p.touched[:0], p.epoch+1
	}
	p.touched = append(p.touched, int32(i))
}

// lone is the score of a node for a request without spread, or unfit. The scan
// has the same terms.
func (p *picture) lone(c *class, k int32) float32 {
	r, i := c.request, c.candidates[k]
	left, leftMem := p.freeCPU[i]-r.cpu, p.freeMem[i]-r.mem
	if left < 0 || leftMem < 0 || p.freePods[i] <= 0 {
		return unfit
	}
	score := 2 * min(float32(left)*p.perCPU[i], float32(leftMem)*p.perMem[i])
	if s := p.apps[r.group.revision]; s != nil {
		score -= float32(s.onNode[i]) * (perPodOnNode - perOtherOnNode)
	}
	if s := p.apps[r.group.app]; s != nil {
		score -= float32(s.onNode[i]) * perOtherOnNode
	}
	if c.bonus != nil {
		score += c.bonus[k]
	}
	return score
}

// first returns the best node of a class without spread or rules, or -1.
func (p *picture) first(c *class) int {
	r := c.ranking
	switch {
	case r == nil:
		r = newRanking(p, c)
		c.ranking = r
		p.rank(c)
	case r.epoch != p.epoch || 5*(len(p.touched)-r.seen) > len(c.candidates):
		p.rank(c)
	default:
		for _, node := range p.touched[r.seen:] {
			if k := r.seat[node]; k >= 0 {
				r.score[k] = p.lone(c, k)
				r.replay(k)
			}
		}
	}
	r.epoch, r.seen = p.epoch, len(p.touched)
	if w := r.winner[1]; w >= 0 && r.score[w] != unfit {
		return int(c.candidates[w])
	}
	return -1
}

func newRanking(p *picture, c *class) *ranking {
	r := &ranking{score: make([]float32, len(c.candidates)), size: 1, seat: make([]int32, len(p.names))}
	for r.size < len(c.candidates) {
		r.size *= 2
	}
	r.winner = make([]int32, 2*r.size)
	for i := range r.winner {
		r.winner[i] = -1
	}
	for i := range r.seat {
		r.seat[i] = -1
	}
	for k, i := range c.candidates {
		r.seat[i], r.winner[r.size+k] = int32(k), int32(k)
	}
	return r
}

// rank plays all matches.
func (p *picture) rank(c *class) {
	r := c.ranking
	for k := range r.score {
		r.score[k] = p.lone(c, int32(k))
	}
	for m := r.size - 1; m > 0; m-- {
		r.play(m)
	}
}

// replay decides anew what the new score of a candidate may have changed: where
// it lost and loses again, nothing above has.
func (r *ranking) replay(k int32) {
	for m := (r.size + int(k)) / 2; m > 0; m /= 2 {
		was := r.winner[m]
		if r.play(m); was != k && r.winner[m] == was {
			return
		}
	}
}

// play decides one match; the first of equals wins.
func (r *ranking) play(m int) {
	a, b := r.winner[2*m], r.winner[2*m+1]
	if b >= 0 && (a < 0 || r.score[b] > r.score[a]) {
		a = b
	}
	r.winner[m] = a
}
