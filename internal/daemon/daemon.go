// Package daemon is what every long-running program of the cluster needs
// around its work: a group of parts that live and die together, signals, the
// log, metrics and a version.
//
// Invariants: Run returns only after every part has returned; the first part
// that fails names itself in the error; a log line goes to one place, in one
// format, chosen at start.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Runner is a part of a program. Run blocks until ctx is done or the part
// cannot go on, and owns every goroutine it starts.
type Runner interface {
	Run(ctx context.Context) error
}

// Func makes a Runner of a function.
type Func func(ctx context.Context) error

// Run calls f.
func (f Func) Run(ctx context.Context) error { return f(ctx) }

// Named makes r say who it is when it fails.
func Named(name string, r Runner) Runner {
	return Func(func(ctx context.Context) error {
		if err := r.Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

// Run runs the parts until all have returned. The first error stops the others
// and is the result; a part that returns nil is simply done. Ending because
// ctx was cancelled is not an error.
func Run(ctx context.Context, parts ...Runner) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	for _, r := range parts {
		wg.Go(func() {
			if err := r.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				stop(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Signals returns a context that SIGINT or SIGTERM cancels. A second signal
// ends the process at once.
func Signals(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // gives the second signal back to the kernel
	return ctx, stop
}
