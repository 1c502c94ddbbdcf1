package apiserver

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// roundEvery is how often the server goes through all that is open: how soon a
// stream ends whose right to be has ended, and how long a watch is told nothing
// while much changes. One round for all: thousands of nodes have a few streams
// each, and a timer each would cost more than what it is for.
const roundEvery = 5 * time.Second

// stream is what somebody has open.
type stream struct {
	by    caller
	asked ask
	end   context.CancelCauseFunc // with why the right to it has ended
}

// streams are all of them.
type streams struct {
	mu   sync.Mutex
	open map[*stream]struct{}
}

func (s *streams) enter(st *stream) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*stream]struct{}{}
	}
	s.open[st] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, st)
	}
}

func (s *streams) all() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.open))
}

// makeRounds goes through all that is open until ctx ends.
func (s *Server) makeRounds(ctx context.Context) {
	for {
		if pause(ctx, roundEvery); ctx.Err() != nil {
			return
		}
		s.cache.hub.round()
		for _, st := range s.streams.all() {
			if err := s.review(st.by, st.asked); err != nil {
				st.end(err)
			}
		}
	}
}
