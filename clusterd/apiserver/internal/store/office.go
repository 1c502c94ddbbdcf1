package store

import "sync"

// Office is whether a server leads, for those who wait until that changes.
type Office struct {
	mu      sync.Mutex
	held    bool
	changed chan struct{}
}

// NewOffice returns one that is not held.
func NewOffice() *Office { return &Office{changed: make(chan struct{})} }

// Set says whether it is held from now on.
func (o *Office) Set(held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = held
	close(o.changed)
	o.changed = make(chan struct{})
}

// Get returns whether it is held, and a channel that is closed when that is said
// anew.
func (o *Office) Get() (held bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held, o.changed
}
