package apiserver

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestDeposedLeaderCannotWrite: a token of an earlier term is refused, and the
// one who leads claims a new one when somebody else took it.
func TestDeposedLeaderCannotWrite(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tokens := make(chan int64, 10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for token := range s.Leader(ctx) {
				tokens <- token
			}
		}()
		first := <-tokens
		if first == 0 || !s.Leads() {
			t.Fatal("the only server does not lead")
		}
		current := first
		fenced := c.Fenced(func() int64 { return current })
		must(client.Of(fenced, api.Apps).Create(ctx, newApp("a")))(t)
		// Another server claims the fence.
		if _, err := s.store.Commit(ctx, s.claim()); err != nil {
			t.Fatal(err)
		}
		if lost := <-tokens; lost != 0 {
			t.Fatalf("told %d, not that leadership is lost", lost)
		}
		_, err := client.Of(fenced, api.Apps).Create(ctx, newApp("b"))
		wantCode(t, err, api.Precondition)
		if current = <-tokens; current <= first {
			t.Fatalf("second token is %d after %d", current, first)
		}
		must(client.Of(fenced, api.Apps).Create(ctx, newApp("b")))(t)
		synctest.Wait()
		if len(tokens) != 0 {
			t.Errorf("more tokens: %d", <-tokens)
		}
		cancel()
		<-done
	})
}
