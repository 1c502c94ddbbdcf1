package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Bounds of what reporters may cause.
const (
	ringEvery   = time.Second // at most one write of a ring in this time
	maxReport   = 16 << 10
	maxSubjects = 10_000 // with reports that wait to be written
	maxMessage  = 2000
	maxReason   = 128
	finalFlush  = 3 * time.Second
)

// rings collects reports until they are written. Events must never load the
// store: a crash loop that reports a hundred times a second is one write.
type rings struct {
	mu      sync.Mutex
	pending map[api.Ref][]api.Event
	last    map[api.Ref]time.Time // of the write before; forgotten once it is long ago
	wake    chan struct{}
}

func (r *rings) init() {
	r.pending, r.last, r.wake = map[api.Ref][]api.Event{}, map[api.Ref]time.Time{}, make(chan struct{}, 1)
}

// ringKey returns where the ring of a subject is kept.
func (s *Server) ringKey(subject api.Ref) string {
	ring := api.EventsOf(subject)
	return s.kinds["events"].key(ring.Namespace, ring.Name)
}

// serveEvent answers POST /v1/events.
func (s *Server) serveEvent(w http.ResponseWriter, r *request) error {
	rep, err := decodeBody[api.EventReport](w, r, maxReport, r.by.check)
	if err != nil {
		return err
	}
	k, err := s.kindOf(rep.Subject.Kind)
	if err != nil {
		return err
	}
	var errs api.Errors
	if !plausible(rep.Subject.Name) || k.namespaced() != plausible(rep.Subject.Namespace) {
		errs.Addf("subject", "want kind, name, and the namespace where the kind has one")
	}
	if rep.Event.Reason == "" {
		errs.Addf("event.reason", "required: one word")
	}
	if len(rep.Event.Reason) > maxReason || len(rep.Event.By) > maxReason {
		errs.Addf("event", "its reason and by are at most %d bytes each", maxReason)
	}
	if errs != nil {
		return invalid(api.Ref{}, errs)
	}
	if r.by.Role == RoleNode {
		if err := s.onlyOwn(r, k, rep.Subject); err != nil {
			return err
		}
		rep.Event.By = r.by.String()
	} else if err := allow(r.by, ask{verb: api.VerbReport, kind: k, namespace: rep.Subject.Namespace, name: rep.Subject.Name}); err != nil {
		return err
	}
	e := rep.Event
	e.Message = strings.ToValidUTF8(e.Message[:min(len(e.Message), maxMessage)], "")
	e.Count = max(e.Count, 1)
	now := api.Now()
	if e.Last.IsZero() {
		e.Last = now
	}
	if e.First.IsZero() {
		e.First = e.Last
	}
	if e.By == "" {
		e.By = r.by.String()
	}
	if !s.rings.add(rep.Subject, e) {
		return api.Errorf(api.TooMany, "too many events wait to be written")
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// onlyOwn lets a node report about itself and its own pods.
func (s *Server) onlyOwn(r *request, k *kind, subject api.Ref) error {
	if k.info.Name == api.Nodes.Name && subject.Name == r.by.Name {
		return nil
	}
	if k.info.Name == api.Pods.Name {
		snap, err := s.latest(r)
		if err != nil {
			return err
		}
		if nodeOf(snap.get(k.key(subject.Namespace, subject.Name))) == r.by.Name {
			return nil
		}
	}
	return api.Errorf(api.Denied, "%s may not report about %s: only about itself and its pods", r.by.Identity, subject)
}

// add queues e; false if too much waits.
func (r *rings) add(subject api.Ref, e api.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	waits := r.pending[subject] != nil
	if len(r.pending) >= maxSubjects && !waits {
		return false
	}
	if r.pending[subject] = fold(r.pending[subject], e); waits {
		return true // a time to write it is set
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// fold appends e to a ring. The same again, wherever it stands in the ring,
// is only counted, and moves to the end.
func fold(ring []api.Event, e api.Event) []api.Event {
	out := make([]api.Event, 0, len(ring)+1)
	for _, old := range ring {
		if old.Reason == e.Reason && old.Message == e.Message && old.By == e.By && old.Warning == e.Warning {
			e.Count += old.Count
			e.First = old.First
			continue
		}
		out = append(out, old)
	}
	out = append(out, e)
	return out[max(0, len(out)-api.MaxEvents):]
}

// due takes the rings whose time has come, and says when the next is.
func (r *rings) due(now time.Time, all bool) (ready map[api.Ref][]api.Event, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready, wait = map[api.Ref][]api.Event{}, time.Hour
	for subject, events := range r.pending {
		if left := ringEvery - now.Sub(r.last[subject]); left > 0 && !all {
			wait = min(wait, left)
			continue
		}
		ready[subject] = events
		delete(r.pending, subject)
		r.last[subject] = now
	}
	for subject, at := range r.last {
		if now.Sub(at) > ringEvery && r.pending[subject] == nil {
			delete(r.last, subject)
		}
	}
	return ready, wait
}

// putBack queues what could not be written, before what has come since.
func (r *rings) putBack(subject api.Ref, events []api.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.pending[subject] {
		events = fold(events, e)
	}
	r.pending[subject] = events
}

// flushRings writes rings as they become due, and all that is left in the end.
func (s *Server) flushRings(ctx context.Context) {
	for ctx.Err() == nil {
		ready, wait := s.rings.due(time.Now(), false)
		for subject, events := range ready {
			if err := s.writeRing(ctx, subject, events); err != nil {
				s.rings.putBack(subject, events)
				wait = min(wait, ringEvery)
				if ctx.Err() == nil {
					s.log.Warn("write events", "ref", subject, "error", err, "retry_in", ringEvery)
				}
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.rings.wake:
		}
		timer.Stop()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalFlush)
	defer cancel()
	ready, _ := s.rings.due(time.Now(), true)
	for subject, events := range ready {
		if err := s.writeRing(last, subject, events); err != nil {
			s.log.Warn("write events", "ref", subject, "error", err)
			return
		}
	}
}

// writeRing adds events to the ring of subject. Those of an object that is
// gone are dropped with it.
func (s *Server) writeRing(ctx context.Context, subject api.Ref, events []api.Event) error {
	k, err := s.kindOf(subject.Kind)
	if err != nil {
		return err
	}
	if s.room.full.Load() { // they are the first to go without
		return nil
	}
	by := caller{Identity: Identity{RoleSystem, "events"}}
	_, err = s.commit(ctx, by, func(t *txn) error {
		if t.read(k.key(subject.Namespace, subject.Name)) == nil {
			return nil
		}
		rings := s.kinds["events"]
		ring := api.EventsOf(subject)
		var spec api.EventsSpec
		old := t.read(rings.key(ring.Namespace, ring.Name))
		if old != nil {
			if err := json.Unmarshal(old.spec, &spec); err != nil {
				return fmt.Errorf("decode %s: %w", old.ref(), err)
			}
		}
		spec.Subject = subject
		for _, e := range events {
			spec.Entries = fold(spec.Entries, e)
		}
		in := &incoming{kind: rings, meta: api.Meta{Namespace: ring.Namespace, Name: ring.Name, Owner: &subject}, spec: marshal(spec)}
		if old != nil {
			_, err := t.replace(old, in)
			return err
		}
		in.typed = rings.New()
		o := &object{key: rings.key(ring.Namespace, ring.Name), kind: rings, spec: in.spec, meta: in.meta}
		o.meta.UID, o.meta.Generation, o.meta.CreatedAt = newUID(), 1, t.now
		t.sign(o)
		if err := t.settle(nil, o, in); err != nil {
			return err
		}
		t.put(o)
		return nil
	})
	return err
}
