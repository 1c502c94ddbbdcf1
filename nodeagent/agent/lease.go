package agent

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/lease"
)

// Lease is how the node's run lease is kept: in a file that who holds the
// containers reads too, by a clock that both share.
type Lease struct {
	Path  string      // "" remembers it nowhere: no pod then outlives its agent's lease for long, or the other way round
	Clock lease.Clock // nil: the kernel's
}

// keeper renews the node's run lease while a pod needs it, and tells the pods
// what is left of it.
type keeper struct {
	cfg   Lease
	renew func(context.Context) (time.Duration, error)
	wake  func() // the pods: it was gained or has ended
	log   hclog.Logger

	asked chan struct{} // whether it is needed has changed

	mu     sync.Mutex
	now    lease.Lease
	needed bool
}

func newKeeper(cfg Lease, renew func(context.Context) (time.Duration, error), wake func(), log hclog.Logger) *keeper {
	if cfg.Clock == nil {
		cfg.Clock = lease.Boot
	}
	k := &keeper{cfg: cfg, renew: renew, wake: wake, log: log, asked: make(chan struct{}, 1)}
	if cfg.Path != "" {
		if l, err := lease.Read(cfg.Path); err == nil {
			k.now = l // what ran on it goes on
		}
	}
	return k
}

// Left returns the era of the lease, and for how long it is held.
func (k *keeper) Left() (era int64, left time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now.Era, max(0, k.now.Until-k.cfg.Clock())
}

// Need says whether any pod needs the lease.
func (k *keeper) Need(is bool) {
	k.mu.Lock()
	k.needed = is
	k.mu.Unlock()
	select {
	case k.asked <- struct{}{}:
	default:
	}
}

func (k *keeper) isNeeded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.needed
}

// idle waits until a pod needs the lease, or ctx ends, and reports whether there
// was anything to wait for.
func (k *keeper) idle(ctx context.Context) (waited bool) {
	for ctx.Err() == nil && !k.isNeeded() {
		waited = true
		select {
		case <-ctx.Done():
		case <-k.asked:
		}
	}
	return waited
}

const (
	leaseTimeout = 3 * time.Second
	leaseRetry   = time.Second
)

// run renews until ctx ends: five times in a lease, and every second while it
// does not succeed. Without a pod that needs it, the lease just ends.
func (k *keeper) run(ctx context.Context) {
	held, missed := true, false
	for {
		if k.idle(ctx) {
			_, left := k.Left()
			held, missed = left > 0, false
		}
		if ctx.Err() != nil {
			return
		}
		asked := k.cfg.Clock() // the lease is counted from here
		rctx, cancel := context.WithTimeout(ctx, leaseTimeout)
		length, err := k.renew(rctx)
		cancel()
		wait := leaseRetry
		if err == nil {
			err = k.extend(asked, asked+length)
			wait = length / 5
		}
		if err != nil && ctx.Err() == nil && !missed {
			k.log.Warn("run lease not renewed; trying again", "error", err)
		}
		missed = err != nil
		if _, left := k.Left(); left > 0 != held {
			if held = left > 0; !held {
				k.log.Warn("the run lease has ended: pods that may run elsewhere are stopped")
			}
			k.wake()
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// extend notes a lease, in the file before anyone relies on it. After a gap it
// is a new one.
func (k *keeper) extend(asked, until time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.now
	if next.Until <= k.cfg.Clock() {
		next.Era = int64(asked) + 1 // never 0, which is none
		k.log.Info("run lease gained")
		defer k.wake()
	}
	next.Until = max(next.Until, until)
	if k.cfg.Path != "" {
		if err := lease.Write(k.cfg.Path, next); err != nil {
			return err
		}
	}
	k.now = next
	return nil
}

// renewLease asks the leader, whichever server that is.
func (a *Agent) renewLease(ctx context.Context) (time.Duration, error) {
	var ans api.LeaseAnswer
	path := client.Path(api.Nodes.Info(), "", a.cfg.Name) + "/lease"
	err := a.cfg.Leader.Call(ctx, http.MethodPost, path, nil, nil, &ans)
	return ans.For.D(), err
}
