package client

import (
	"context"
	"math/rand/v2"
	"time"
)

// Bounds of the wait between the tries of Retry.
const (
	retryLeast = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Retry calls do until it succeeds or ctx ends, more and more slowly while it
// fails at once. It tells failed of each failure; first is one after a success
// of some length, the only one of an outage that is worth a warning.
func Retry(ctx context.Context, do func(context.Context) error, failed func(err error, first bool)) {
	wait := retryLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := do(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryMost {
			wait = retryLeast
		}
		failed(err, wait == retryLeast)
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)): // not all agents at once
		}
		wait = min(2*wait, retryMost)
	}
}
