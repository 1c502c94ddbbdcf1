package testcluster

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// P1 and P2 on one object: many increment it by compare-and-swap while the
// server is killed again and again. No acknowledged increment is lost or
// counted twice, and nobody's reads ever go back.
func TestCounterSurvivesKills(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Separate: true})
	counter := func(n int) *api.Namespace {
		return &api.Namespace{Meta: api.Meta{Name: "counter"}, Spec: api.NamespaceSpec{Description: strconv.Itoa(n)}}
	}
	read := func(ctx context.Context, cl *client.Client) (n int, generation int64, err error) {
		o, err := client.Of(cl, api.Namespaces).Get(ctx, "", "counter")
		if err != nil {
			return 0, 0, err
		}
		n, err = strconv.Atoi(o.Spec.Description)
		return n, o.Meta.Generation, err
	}
	if _, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), counter(0)); err != nil {
		t.Fatal(err)
	}
	var acked, unknown atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 3 {
		cl := c.Client()
		all.Go(func() {
			for ctx.Err() == nil {
				n, generation, err := read(ctx, cl)
				if err != nil {
					continue
				}
				_, err = client.Of(cl, api.Namespaces).Replace(ctx, counter(n+1), generation)
				switch code := api.CodeOf(err); {
				case err == nil:
					acked.Add(1)
				case code == api.Precondition || code == api.Conflict: // somebody was faster
				default:
					unknown.Add(1)
				}
			}
		})
	}
	for range 2 {
		cl := c.Client()
		all.Go(func() {
			for last := 0; ctx.Err() == nil; {
				n, _, err := read(ctx, cl)
				if err != nil {
					continue
				}
				if n < last {
					t.Errorf("read %d after %d", n, last)
					return
				}
				last = n
			}
		})
	}
	for range 3 {
		seen := acked.Load()
		c.Await("increments go on", func(context.Context) (bool, error) { return acked.Load() > seen+30, nil })
		c.Server.Kill()
		c.Server.Start()
	}
	stop()
	all.Wait()
	n, _, err := read(t.Context(), c.Client())
	if err != nil {
		t.Fatal(err)
	}
	if low, high := acked.Load(), acked.Load()+unknown.Load(); int64(n) < low || int64(n) > high {
		t.Errorf("counted to %d with %d acknowledged increments and %d of unknown end", n, low, unknown.Load())
	}
	t.Logf("%d increments acknowledged, %d of unknown end, counted to %d", acked.Load(), unknown.Load(), n)
}
