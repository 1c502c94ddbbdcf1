package apiserver

import (
	"context"
	"iter"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func (s *Server) followLeader(ctx context.Context) {
	for leads := range s.store.Leading(ctx) {
		s.leads.Set(leads)
	}
	s.leads.Set(false)
}

// Leads reports whether this server leads now, as far as it knows.
func (s *Server) Leads() bool {
	leads, _ := s.leads.Get()
	return leads
}

// Leader yields a fence token whenever this server begins to lead, and 0
// whenever it stops, until ctx ends. Writes that carry the token (the header
// Clusterd-Fence) fail as soon as another leader, or a later term, has one: run
// what only a leader may do between a token and the 0 that follows it.
func (s *Server) Leader(ctx context.Context) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		const retry = 500 * time.Millisecond
		var fence int64
		defer s.leases.end()
		for ctx.Err() == nil {
			leads, changed := s.leads.Get()
			advanced := s.cache.next()
			snap := s.cache.now.Load()
			lost := fence != 0 && snap != nil && snap.revision >= fence && snap.revisionOf(fenceKey) != fence
			switch {
			case fence != 0 && (!leads || lost):
				s.leases.end()
				if fence = 0; !yield(0) {
					return
				}
				if lost { // who took it may believe to lead, too: do not fight over it
					pause(ctx, retry)
				}
				continue
			case fence == 0 && leads:
				token, before, err := s.claimed(ctx)
				if err == nil {
					s.leases.begin(token, before)
					if fence = token; !yield(token) {
						return
					}
					continue
				}
				s.log.Warn("claim leadership", "error", err, "retry_in", retry)
				pause(ctx, retry)
				continue
			}
			if fence == 0 {
				advanced = nil
			}
			select {
			case <-ctx.Done():
			case <-changed:
			case <-advanced:
			}
		}
	}
}

// claim is the write that makes a fence token: its revision.
func (s *Server) claim() store.Txn {
	mine := term{Server: s.cfg.Name, Lease: api.Duration(s.leases.table.Length.String())}
	return store.Txn{Then: []store.Op{store.Put(fenceKey, marshal(mine))}}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
