package apiserver

import (
	"context"
	"sync"
	"time"

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
}

// guest is a client that works or waits.
type guest struct {
	taken int
	given uint64 // seats so far, on the clock of all
	waits []*turn
}

// turn is one request.
type turn struct {
	cost    int
	arrived uint64
	called  chan struct{}
}

func newTurns(seats, share, line int) *turns {
	return &turns{seats: seats, share: share, line: line, guests: map[string]*guest{}}
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
	g.waits = append(g.waits, n)
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
		g.waits = g.waits[1:]
		t.waiting--
		t.clock = max(t.clock, g.given)
		g.given = t.clock + uint64(n.cost)
		g.taken += n.cost
		t.taken += n.cost
		close(n.called)
	}
}

// next is the client whose turn it is: of those whose share has room, the one
// that was given least, and has waited longest.
func (t *turns) next() (least *guest) {
	for _, g := range t.guests {
		if len(g.waits) == 0 || g.taken+g.waits[0].cost > t.share {
			continue
		}
		if least == nil || t.due(g) < t.due(least) || t.due(g) == t.due(least) && g.waits[0].arrived < least.waits[0].arrived {
			least = g
		}
	}
	return least
}

// due is what a guest has had; one that was away has not saved anything up.
func (t *turns) due(g *guest) uint64 { return max(g.given, t.clock) }

// leave gives the seats of a request back, or its place in the line.
func (t *turns) leave(client string, n *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.guests[client]
	select {
	case <-n.called:
		g.taken -= n.cost
		t.taken -= n.cost
	default:
		for i, w := range g.waits {
			if w == n {
				g.waits = append(g.waits[:i:i], g.waits[i+1:]...)
				t.waiting--
				break
			}
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
