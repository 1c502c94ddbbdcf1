package apiserver

import "sync"

// applied is how far the proxy of each node has followed the endpoints.
type applied struct {
	mu       sync.Mutex
	revision map[string]int64
	changed  chan struct{}
}

func (a *applied) init() { a.revision, a.changed = map[string]int64{}, make(chan struct{}) }
