package scheduler

import (
	"iter"

	"github.com/google/btree"
)

// backlog is the pods that wait for a node. Those that the next plan looks at
// are in their order already: a plan takes a thousand of what may be a hundred
// thousand.
type backlog struct {
	all    map[string]candidate // by UID
	queue  *btree.BTreeG[candidate]
	parked map[string]bool // by UID
}

func newBacklog() *backlog {
	return &backlog{map[string]candidate{}, btree.NewG(32, func(a, b candidate) bool { return order(a, b) < 0 }), map[string]bool{}}
}

// put adds a pod, or what changed about it, which is never its place in the order.
func (b *backlog) put(w candidate) {
	uid := w.pod.Meta.UID
	b.all[uid] = w
	if w.parked == 0 {
		delete(b.parked, uid)
	} else {
		b.parked[uid] = true
	}
	if w.parked == 0 || w.nominated != "" {
		b.queue.ReplaceOrInsert(w)
	} else {
		b.queue.Delete(w)
	}
}

func (b *backlog) drop(uid string) {
	if w, ok := b.all[uid]; ok {
		b.queue.Delete(w)
		delete(b.all, uid)
		delete(b.parked, uid)
	}
}

// awaken has the pods looked at again that wait for something of better, and
// reports whether there are any.
func (b *backlog) awaken(better needs) (some bool) {
	for uid := range b.parked {
		if w := b.all[uid]; w.parked&better != 0 {
			w.parked = 0
			b.put(w)
			some = true
		}
	}
	return some
}

// awake reports whether a plan may decide something new.
func (b *backlog) awake() bool { return len(b.all) > len(b.parked) }

// inOrder yields the pods that a plan looks at. Those for whom room is kept are
// among them, awake or not: it is kept there.
func (b *backlog) inOrder() iter.Seq[candidate] {
	return func(yield func(candidate) bool) { b.queue.Ascend(yield) }
}
