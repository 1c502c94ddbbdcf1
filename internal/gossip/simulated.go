package gossip

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Simulated is a Source whose members are what it is told: for tests, and for
// hollow nodes by the thousand, which would drown in each other's probes.
type Simulated struct {
	changed chan struct{}

	mu      sync.Mutex
	members map[string]Member
}

// NewSimulated returns a Source that knows nobody yet.
func NewSimulated() *Simulated {
	return &Simulated{changed: make(chan struct{}, 1), members: map[string]Member{}}
}

// Set makes name known, in state s.
func (f *Simulated) Set(name string, s State) {
	f.mu.Lock()
	if f.members[name].State != s {
		f.members[name] = Member{Name: name, State: s, Since: time.Now()}
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Members lists everybody told of, by name.
func (f *Simulated) Members() []Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.members), func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
}

// Changes carries a signal after members changed. It has one reader.
func (f *Simulated) Changes() <-chan struct{} { return f.changed }
