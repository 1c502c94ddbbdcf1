package apiserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// turns let requests to work, at most so many at a time. Who asks for more than
// there is waits in a line of its own, and the lines are served fairly: whoever
// has had the least comes next, so that a flood by one client delays the others
// by no more than what is at work.
//
// Invariants: no more seats are taken than there are, and no more by one client
// than its share; a client's requests come in the order in which they were
// asked; nobody waits while the seats it is next for are free.
type turns struct {
	seats int // that there are
	share int // that one client may take
	line  int // requests of one client that may wait

	mu      sync.Mutex
	taken   int
	waiting int
	refused int64
	clock   uint64 // what the client that was called last had been given before
	arrived uint64
	guests  map[string]*guest
	// Who waits and may take seats stands in one of two queues: those that have
	// had no more than the clock says by when they came, the others by what they
	// have had.
	prompt, later *btree.BTreeG[*guest]
}

// guest is a client that works or waits.
type guest struct {
	taken int
	given uint64 // seats so far, on the clock of all
	waits []*turn
	queue *btree.BTreeG[*guest] // nil: it waits for nothing, or for seats of its own
}

func (g *guest) arrived() uint64 { return g.waits[0].arrived }

// turn is one request.
type turn struct {
	cost    int
	arrived uint64
	called  chan struct{}
}

func newTurns(seats, share, line int) *turns {
	const degree = 16
	return &turns{
		seats: seats, share: share, line: line, guests: map[string]*guest{},
		prompt: btree.NewG(degree, func(a, b *guest) bool { return a.arrived() < b.arrived() }),
		later: btree.NewG(degree, func(a, b *guest) bool {
			return a.given < b.given || a.given == b.given && a.arrived() < b.arrived()
		}),
	}
}

// ask puts a request in its client's line and calls whoever is next; false: the
// line is full. The caller holds the lock.
func (t *turns) ask(client string, cost int) (*turn, bool) {
	g := t.guests[client]
	if g == nil {
		g = &guest{given: t.clock}
		t.guests[client] = g
	}
	if len(g.waits) >= t.line {
		t.refused++
		return nil, false
	}
	t.arrived++
	n := &turn{cost: max(1, min(cost, t.share)), arrived: t.arrived, called: make(chan struct{})}
	t.change(g, func() { g.waits = append(g.waits, n) })
	t.waiting++
	t.call()
	return n, true
}

// call calls requests for as long as there are seats for the next.
func (t *turns) call() {
	for t.waiting > 0 {
		g := t.next()
		if g == nil || t.taken+g.waits[0].cost > t.seats {
			return
		}
		n := g.waits[0]
		t.waiting--
		t.clock = max(t.clock, g.given)
		t.change(g, func() {
			g.waits = g.waits[1:]
			g.given = t.clock + uint64(n.cost)
			g.taken += n.cost
		})
		t.taken += n.cost
		close(n.called)
	}
}

// change does something to a guest, and has it stand where it then belongs.
func (t *turns) change(g *guest, do func()) {
	if g.queue != nil {
		g.queue.Delete(g)
		g.queue = nil
	}
	do()
	if len(g.waits) == 0 || g.taken+g.waits[0].cost > t.share {
		return
	}
	if g.queue = t.later; g.given <= t.clock { // one that was away has not saved anything up
		g.queue = t.prompt
	}
	g.queue.ReplaceOrInsert(g)
}

// next is the client whose turn it is: of those whose share has room, the one
// that was given least, and has waited longest.
func (t *turns) next() *guest {
	for {
		g, ok := t.later.Min()
		if !ok || g.given > t.clock {
			break
		}
		t.change(g, func() {})
	}
	if g, ok := t.prompt.Min(); ok {
		return g
	}
	g, _ := t.later.Min()
	return g
}

// leave gives the seats of a request back, or its place in the line.
func (t *turns) leave(client string, n *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.guests[client]
	select {
	case <-n.called:
		t.change(g, func() { g.taken -= n.cost })
		t.taken -= n.cost
	default:
		if i := slices.Index(g.waits, n); i >= 0 {
			t.change(g, func() { g.waits = slices.Delete(g.waits, i, i+1) })
			t.waiting--
		}
	}
	if g.taken == 0 && len(g.waits) == 0 {
		delete(t.guests, client)
	}
	t.call()
}

// turnWait is how long a request waits for its turn.
const turnWait = 15 * time.Second

// enter waits until it is the request's turn. Who has entered must leave.
func (t *turns) enter(ctx context.Context, client string, cost int) (leave func(), err error) {
	t.mu.Lock()
	n, ok := t.ask(client, cost)
	t.mu.Unlock()
	if !ok {
		return nil, api.Errorf(api.TooMany, "%s has %d requests waiting already: try again in a moment, and ask for fewer at a time", client, t.line)
	}
	leave = func() { t.leave(client, n) }
	select {
	case <-n.called:
		return leave, nil
	default:
	}
	late := time.NewTimer(turnWait)
	defer late.Stop()
	select {
	case <-n.called:
		return leave, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = api.Errorf(api.TooMany, "the server is busy: this request has waited for %s: try again in a moment", turnWait)
		t.mu.Lock()
		t.refused++
		t.mu.Unlock()
	}
	leave()
	return nil, err
}

// load is how busy it is.
func (t *turns) load() (taken, waiting int, refused int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken, t.waiting, t.refused
}
