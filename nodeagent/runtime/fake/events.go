package fake

import (
	"context"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// pump carries events to one subscriber. What it has not taken yet is kept
// once per container, so a slow one holds up nobody and misses nothing.
type pump struct {
	mu      sync.Mutex
	pending []string
	wake    chan struct{}
	stop    context.CancelFunc
}

// tell notes that a container changed. The runtime's mutex is held.
func (r *Runtime) tell(id string) {
	for p := range r.pumps {
		p.add(id)
	}
}

func (p *pump) add(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, have := range p.pending {
		if have == id {
			return
		}
	}
	p.pending = append(p.pending, id)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pump) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := p.pending
	p.pending = nil
	return ids
}

// Events yields changes until ctx ends, or the runtime breaks or is closed.
func (r *Runtime) Events(ctx context.Context) (<-chan runtime.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return nil, r.down
	}
	ctx, stop := context.WithCancel(ctx)
	p := &pump{wake: make(chan struct{}, 1), stop: stop}
	r.pumps[p] = true
	out := make(chan runtime.Event)
	go func() {
		defer close(out)
		defer r.drop(p)
		for {
			for _, id := range p.take() {
				select {
				case out <- runtime.Event{ID: id}:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (r *Runtime) drop(p *pump) {
	p.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pumps, p)
}
