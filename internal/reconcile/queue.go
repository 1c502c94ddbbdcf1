package reconcile

import (
	"container/heap"
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// queue holds each ref once, with the earliest time it is due. A ref that is
// being worked on is handed out again only after it is done.
type queue struct {
	mu    sync.Mutex
	items map[api.Ref]*item
	due   dueHeap
	wake  chan struct{} // has a token when the first item may have changed
}

type item struct {
	ref   api.Ref
	due   time.Time
	seq   int64         // first come, first served among those due at once
	at    int           // in the heap; -1 when not in it
	busy  bool          // a worker has it
	dirty bool          // added while busy
	retry time.Duration // the last delay after a failure
}

func newQueue() *queue { return &queue{items: map[api.Ref]*item{}, wake: make(chan struct{}, 1)} }

func (q *queue) add(r api.Ref, due time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.put(r, due)
}

func (q *queue) put(r api.Ref, due time.Time) {
	it := q.items[r]
	if it == nil {
		it = &item{ref: r, at: -1}
		q.items[r] = it
	}
	switch {
	case it.busy:
		if !it.dirty || due.Before(it.due) {
			it.dirty, it.due = true, due
		}
		return
	case it.at < 0:
		q.due.seq++
		it.due, it.seq = due, q.due.seq
		heap.Push(&q.due, it)
	case due.Before(it.due):
		it.due = due
		heap.Fix(&q.due, it.at)
	default:
		return
	}
	q.poke()
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for the first ref that is due and marks it busy.
func (q *queue) next(ctx context.Context) (api.Ref, error) {
	for {
		q.mu.Lock()
		wait := time.Hour
		if len(q.due.items) > 0 {
			first := q.due.items[0]
			if wait = time.Until(first.due); wait <= 0 {
				heap.Pop(&q.due)
				first.busy = true
				if len(q.due.items) > 0 {
					q.poke() // another worker may take the next
				}
				q.mu.Unlock()
				return first.ref, ctx.Err()
			}
		}
		q.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return api.Ref{}, ctx.Err()
		case <-q.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// done gives a ref back; it is due again after again, if positive.
func (q *queue) done(r api.Ref, again time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[r]
	it.busy, it.retry = false, 0
	if it.dirty {
		it.dirty = false
		q.put(r, it.due)
	}
	if again > 0 {
		q.put(r, time.Now().Add(again))
	}
	if it.at < 0 {
		delete(q.items, r)
	}
}

// failed gives a ref back after a failure, due after the returned delay even
// if it was added meanwhile: what failed now would fail at once again.
func (q *queue) failed(r api.Ref) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[r]
	it.busy, it.dirty = false, false
	it.retry = min(max(2*it.retry, minRetry), maxRetry)
	q.put(r, time.Now().Add(it.retry))
	return it.retry
}

type dueHeap struct {
	items []*item
	seq   int64
}

func (h *dueHeap) Len() int { return len(h.items) }
func (h *dueHeap) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	return a.due.Before(b.due) || a.due.Equal(b.due) && a.seq < b.seq
}
func (h *dueHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].at, h.items[j].at = i, j
}
func (h *dueHeap) Push(x any) {
	it := x.(*item)
	it.at = len(h.items)
	h.items = append(h.items, it)
}
func (h *dueHeap) Pop() any {
	n := len(h.items) - 1
	it := h.items[n]
	h.items[n] = nil
	h.items = h.items[:n]
	it.at = -1
	return it
}

func stack() string { return string(debug.Stack()) }
