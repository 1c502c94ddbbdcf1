package apiserver

import (
	"context"
	"net/http"
	"time"
)

// Meter is told how long requests take. What lasts as long as its client likes
// (watches, logs, tunnels, …) is not told.
type Meter interface {
	// Request is one about objects of a kind, or a batch, which is of no kind; code
	// is its answer's.
	Request(verb, kind string, code int, took time.Duration)
}

// measure tells the meter of a request that rt answered.
func (s *Server) measure(rt route, r *http.Request, code int, took time.Duration) {
	if s.cfg.Meter == nil || rt.verb == "" || (&request{Request: r}).flag("watch") {
		return
	}
	kind := ""
	if rt.kind != nil {
		kind = rt.kind.info.Name
	}
	s.cfg.Meter.Request(rt.verb, kind, code, took)
}

// Vitals are how a server is at a moment.
type Vitals struct {
	Leads    bool
	Level    int   // of the cluster
	Watches  int   // that are served
	Revision int64 // up to which this server has seen everything
	// Behind is how many revisions the store is ahead of that; -1 says that it
	// does not answer.
	Behind int64
	// Seats are taken by requests at work, Waiting are those that wait for one, and
	// Refused those that were sent away since the start.
	Seats, Waiting                    int
	Refused                           int64
	StoreSize, StoreInUse, StoreQuota int64 // bytes; 0 without a quota
}

// Vitals looks at the server.
func (s *Server) Vitals(ctx context.Context) Vitals {
	v := Vitals{Leads: s.Leads(), Watches: s.cache.hub.count(), Behind: -1}
	for _, lane := range []*turns{s.common, s.admins} {
		taken, waiting, refused := lane.load()
		v.Seats, v.Waiting, v.Refused = v.Seats+taken, v.Waiting+waiting, v.Refused+refused
	}
	if now := s.cache.now.Load(); now != nil {
		v.Revision = now.revision
		if at, err := levelOf(now); err == nil {
			v.Level = at.Level
		}
	}
	if newest, err := s.store.Revision(ctx); err == nil {
		v.Behind = max(0, newest-v.Revision)
	}
	if sp := s.room.last.Load(); sp != nil {
		v.StoreSize, v.StoreInUse, v.StoreQuota = sp.Size, sp.InUse, sp.Quota
	}
	return v
}

// count is how many watchers there are.
func (h *hub) count() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, topic := range h.watchers {
		n += len(topic)
	}
	return n
}
