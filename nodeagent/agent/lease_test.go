package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The lease is asked for while a pod needs it, and only then: at once when the
// first one comes, in time afterwards, and anew after a gap.
func TestLeaseIsKeptWhileNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const length = 20 * time.Second
		begin := time.Now()
		var asked, woken atomic.Int64
		k := newKeeper(Lease{Clock: func() time.Duration { return time.Since(begin) }}, func(context.Context) (time.Duration, error) {
			asked.Add(1)
			return length, nil
		}, func() { woken.Add(1) }, hclog.NewNullLogger())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go k.run(ctx)
		known := int64(0)
		pass := func(d time.Duration) (era int64, left time.Duration, n int64) {
			time.Sleep(d)
			synctest.Wait()
			era, left = k.Left()
			all := asked.Load()
			n, known = all-known, all
			return era, left, n
		}
		if era, left, n := pass(time.Hour); era != 0 || left != 0 || n != 0 {
			t.Errorf("nobody needs it: asked %d times, left %s in era %d", n, left, era)
		}
		k.Need(true)
		first, left, n := pass(0)
		if first == 0 || left != length || n != 1 || woken.Load() == 0 {
			t.Errorf("at once: asked %d times, left %s in era %d, pods woken %d times", n, left, first, woken.Load())
		}
		if era, left, n := pass(time.Minute); era != first || left < length*4/5-time.Second || n != 15 {
			t.Errorf("in a minute: asked %d times, left %s in era %d after %d", n, left, era, first)
		}
		k.Need(false)
		if _, left, n := pass(time.Minute); left != 0 || n > 1 {
			t.Errorf("needed no more: asked %d times, left %s", n, left)
		}
		k.Need(true)
		if era, left, n := pass(0); era == first || left != length || n != 1 {
			t.Errorf("after a gap: asked %d times, left %s in era %d after %d", n, left, era, first)
		}
	})
}
