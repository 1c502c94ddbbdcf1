// Package reconcile runs the loops that make the cluster match its objects,
// and keeps the caches they read from.
//
// A loop is level-triggered: it is told which object to look at, never what
// happened to it. It reads from caches, plans, and writes through the client;
// it may be run at any time, and any number of times.
//
// Invariants: one object is never reconciled twice at once; an object that was
// enqueued while it was reconciled is looked at again; a failure is retried,
// ever more slowly, for ever; a loop starts only after every cache it watches
// has been filled; a loop that wrote at revision R does not plan again from a
// cache older than R, see Cache.Await.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Func brings one object to its wanted state as far as it can now. It asks to
// be run again after the returned delay, if positive. On error it is retried.
type Func func(ctx context.Context, ref api.Ref) (again time.Duration, err error)

// Loop is one controller.
type Loop struct {
	Name      string
	Watch     []Source // every cache the loop reads
	Reconcile Func
	Workers   int // how many objects at a time; one when 0
}

// Source feeds a loop with the objects to look at.
type Source struct {
	synced    func(context.Context) error
	subscribe func(enqueue func(api.Ref)) (stop func())
}

// Signal is a Source: a loop looks at ref whenever there is a token in c, of
// which it is the only reader.
func Signal(c <-chan struct{}, ref api.Ref) Source {
	return Source{
		synced: func(context.Context) error { return nil },
		subscribe: func(enqueue func(api.Ref)) func() {
			end, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				for {
					select {
					case <-end:
						return
					case <-c:
						enqueue(ref)
					}
				}
			}()
			return func() { close(end); <-ended }
		},
	}
}

const (
	minRetry = 50 * time.Millisecond
	maxRetry = 30 * time.Second
)

// Run runs the loop until ctx ends. Its end is not an error.
func (l Loop) Run(ctx context.Context, log hclog.Logger) error {
	log = log.Named(l.Name)
	for _, src := range l.Watch {
		if err := src.synced(ctx); err != nil {
			return nil
		}
	}
	q := newQueue()
	for _, src := range l.Watch {
		stop := src.subscribe(func(r api.Ref) { q.add(r, time.Now()) })
		defer stop()
	}
	var wg sync.WaitGroup
	for range max(l.Workers, 1) {
		wg.Go(func() { l.work(ctx, q, log) })
	}
	wg.Wait()
	return nil
}

func (l Loop) work(ctx context.Context, q *queue, log hclog.Logger) {
	for {
		ref, err := q.next(ctx)
		if err != nil {
			return
		}
		again, err := l.once(ctx, ref)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			q.done(ref, again)
			continue
		}
		d := q.failed(ref)
		// Somebody else was faster, or the cache is behind: nothing is wrong.
		if api.Is(err, api.Precondition) || api.Is(err, api.Conflict) {
			log.Debug("plan is out of date", "ref", ref, "retry_in", d, "error", err)
		} else {
			log.Warn("reconcile failed", "ref", ref, "retry_in", d, "error", err)
		}
	}
}

// once calls Reconcile; a panic of one object's plan must not stop the others.
func (l Loop) once(ctx context.Context, ref api.Ref) (again time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(err, fmt.Errorf("panic: %v\n%s", p, stack()))
		}
	}()
	return l.Reconcile(ctx, ref)
}
