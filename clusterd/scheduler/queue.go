package scheduler

// queue hands out candidates in their order. It is a heap: a plan takes a
// thousand of what may be a hundred thousand, and the others need no order.
type queue []candidate

// newQueue reorders all in place.
func newQueue(all []candidate) queue {
	q := queue(all)
	for i := len(q)/2 - 1; i >= 0; i-- {
		q.down(i)
	}
	return q
}

// next takes the first in order.
func (q *queue) next() candidate {
	all := *q
	last := len(all) - 1
	all[0], all[last] = all[last], all[0]
	*q = all[:last]
	q.down(0)
	return all[last]
}

func (q queue) down(i int) {
	for {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < len(q) && order(q[child], q[least]) < 0 {
				least = child
			}
		}
		if least == i {
			return
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
}
