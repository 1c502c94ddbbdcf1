package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A run lease is what lets a stateful pod be replaced while its node is silent:
// the node runs the pod only while it has the lease, and whoever ran out of it
// stopped the pod itself. Nothing of it is stored; what makes it safe:
//
//   - Only the leader grants. It reads its own fence consistently after it was
//     asked, so that no lease begins after another server's term has.
//   - A node counts from before it asked, and the leader from after it granted,
//     each by its own clock that nobody sets: the leader's count ends later.
//   - A leader that begins waits for the leases that the one before it may have
//     granted until then, of that one's length.
//   - Before what a node ran is given up, it is refused new leases; and it starts
//     a pod only after the API has taken its word, under the same lease.

// LeaseDefault is how long a lease lasts unless Config says otherwise.
const LeaseDefault = 20 * time.Second

// LeaseMargin is how much longer than a lease the leader waits: for clocks that
// do not run alike, and for the killing.
const LeaseMargin = 5 * time.Second

// LeaseTable is what the leader knows of the leases. It has no clock.
type LeaseTable struct {
	Length, Margin time.Duration

	fence    int64         // of the term; 0 while another server leads
	began    time.Time     // after which nobody else granted
	earlier  time.Duration // the longest lease granted before
	granted  map[string]time.Time
	withheld map[string]bool
}

// Begin begins a term. earlier is how long leases of the one before it last.
func (l *LeaseTable) Begin(fence int64, earlier time.Duration, now time.Time) {
	l.fence, l.began, l.earlier = fence, now, max(l.Length, earlier)
	l.granted, l.withheld = map[string]time.Time{}, map[string]bool{}
}

// End ends the term.
func (l *LeaseTable) End() { l.fence = 0 }

// Grant notes a lease, before the node can learn of it.
func (l *LeaseTable) Grant(node string, fence int64, now time.Time) error {
	if l.fence == 0 || l.fence != fence {
		return errNotLeading()
	}
	if l.withheld[node] {
		return api.Errorf(api.Conflict, "node %s gets no lease: its pods are being given up", node)
	}
	l.granted[node] = now
	return nil
}

// Withhold returns for how long the node may still have a lease. Once that is
// zero, it gets none until Admit.
func (l *LeaseTable) Withhold(node string, now time.Time) time.Duration {
	if l.fence == 0 {
		return l.Length + l.Margin
	}
	end := l.began.Add(l.earlier + l.Margin)
	if last, ok := l.granted[node]; ok && last.Add(l.Length+l.Margin).After(end) {
		end = last.Add(l.Length + l.Margin)
	}
	if left := end.Sub(now); left > 0 {
		return left
	}
	l.withheld[node] = true
	return 0
}

// Admit lets the node have leases again.
func (l *LeaseTable) Admit(node string) { delete(l.withheld, node) }

func errNotLeading() error {
	return api.Errorf(api.Unready, "this server does not lead, and grants no leases: ask the others")
}

// Leases are the leases that a server grants while it leads: its table, by its
// clock.
type Leases struct {
	mu    sync.Mutex
	table LeaseTable
}

// Leases returns the leases that this server grants while it leads.
func (s *Server) Leases() *Leases { return &s.leases }

// Withhold returns for how long the node may still have a lease. Once that is
// zero, it gets none until Admit.
func (l *Leases) Withhold(node string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.Withhold(node, time.Now())
}

// Admit lets the node have leases again.
func (l *Leases) Admit(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table.Admit(node)
}

// term is what the fence key holds: who leads, and how long its leases last.
type term struct {
	Server string       `json:"server"`
	Lease  api.Duration `json:"lease"`
}

func (l *Leases) begin(fence int64, before []byte) {
	var t term
	_ = json.Unmarshal(before, &t) // there was none
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table.Begin(fence, t.Lease.D(), time.Now())
}

func (l *Leases) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table.End()
}

func (l *Leases) term() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.fence
}

func (l *Leases) grant(node string, fence int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.Grant(node, fence, time.Now())
}

// serveLease answers POST /v1/nodes/{name}/lease.
func (s *Server) serveLease(w http.ResponseWriter, r *request) error {
	node := r.PathValue("name")
	if err := s.onlyNode(r.by, node); err != nil {
		return err
	}
	fence := s.leases.term()
	if fence == 0 {
		return errNotLeading()
	}
	snap, err := s.latest(r) // a quorum says so, after the node asked
	if err != nil {
		return err
	}
	if snap.revisionOf(fenceKey) != fence {
		return errNotLeading()
	}
	if snap.get(s.kinds["nodes"].key("", node)) == nil {
		return s.missing(snap, api.Nodes.Ref("", node))
	}
	if err := s.leases.grant(node, fence); err != nil {
		return err
	}
	answer(w, http.StatusOK, snap.revision, marshal(api.LeaseAnswer{For: api.Duration(s.leases.table.Length.String())}))
	return nil
}

// claimed makes this server's fence, of whose leases the key tells, and returns
// what the key told before.
func (s *Server) claimed(ctx context.Context) (fence int64, before []byte, err error) {
	snap, err := s.cache.latest(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("read the fence: %w", err)
	}
	if o := snap.get(fenceKey); o != nil {
		before = o.value
	}
	claim := s.claim()
	claim.If = []store.Compare{{Key: fenceKey, Revision: snap.revisionOf(fenceKey)}}
	fence, err = s.store.Commit(ctx, claim)
	return fence, before, err
}
