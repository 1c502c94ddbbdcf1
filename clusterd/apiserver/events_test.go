package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestEventStormIsOneWriteASecond: the same again only counts, and nothing is
// lost in the end.
func TestEventStormIsOneWriteASecond(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx := t.Context()
		a := must(client.Of(c, api.Apps).Create(ctx, newApp("web")))(t)
		before := s.cache.now.Load().revision
		for i := range 300 { // thirty seconds of a crash loop that reports every 100 ms
			if err := c.Record(ctx, a.Ref(), api.Event{Reason: "crash_loop", Message: "exited with code 1", Warning: true}); err != nil {
				t.Fatal(err)
			}
			if i%100 == 0 {
				c.Record(ctx, a.Ref(), api.Event{Reason: "other", Message: fmt.Sprint(i)})
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if writes := s.cache.now.Load().revision - before; writes > 32 {
			t.Errorf("%d writes in 30 seconds", writes)
		}
		ring := must(client.Of(c, api.EventRings).Get(ctx, "default", "app-web"))(t)
		last := ring.Spec.Entries[len(ring.Spec.Entries)-1]
		if len(ring.Spec.Entries) != 4 || last.Reason != "crash_loop" || last.Count != 300 || last.Last.Sub(last.First) < 29*time.Second || !last.Warning || last.By != "system:test" {
			t.Errorf("ring is %+v", ring.Spec.Entries)
		}
		// A ring keeps the newest.
		for i := range 50 {
			c.Record(ctx, a.Ref(), api.Event{Reason: "step", Message: fmt.Sprint(i)})
		}
		time.Sleep(3 * time.Second)
		ring = must(client.Of(c, api.EventRings).Get(ctx, "default", "app-web"))(t)
		if n := len(ring.Spec.Entries); n != api.MaxEvents || ring.Spec.Entries[n-1].Message != "49" {
			t.Errorf("ring has %d entries, the last is %+v", n, ring.Spec.Entries[n-1])
		}
		// It goes with its subject, and late reports do not bring it back.
		if err := client.Of(c, api.Apps).Delete(ctx, "default", "web", ""); err != nil {
			t.Fatal(err)
		}
		if err := client.Of(c, api.Apps).Finalize(ctx, "default", "web", ""); err != nil {
			t.Fatal(err)
		}
		c.Record(ctx, a.Ref(), api.Event{Reason: "late", Message: "too late"})
		time.Sleep(3 * time.Second)
		_, err := client.Of(c, api.EventRings).Get(ctx, "default", "app-web")
		wantCode(t, err, api.NotFound)
		wantCode(t, c.Record(ctx, api.Ref{Kind: "Apps", Name: "x"}, api.Event{Reason: "x"}), api.BadRequest)
		wantCode(t, c.Record(ctx, api.Ref{Kind: "App", Name: "x"}, api.Event{Reason: "x"}), api.Invalid)
	})
}

// TestEventsAreFlushedInTheEnd: a server that stops writes what waits.
func TestEventsAreFlushedInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		c := client.InProcess(s.InProcess(system))
		n := must(client.Of(c, api.Nodes).Create(ctx, &api.Node{Meta: api.Meta{Name: "w1"}}))(t)
		for i := range 3 {
			if err := c.Record(ctx, n.Ref(), api.Event{Reason: "booted", Message: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		<-done
		e, err := s.store.Get(t.Context(), s.ringKey(n.Ref()))
		if err != nil {
			t.Fatal(err)
		}
		var ring api.Events
		if err := json.Unmarshal(e.Value, &ring); err != nil || len(ring.Spec.Entries) != 3 {
			t.Errorf("ring is %s: %v", e.Value, err)
		}
	})
}
