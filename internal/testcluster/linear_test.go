package testcluster

import (
	"context"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/historytest"
)

// TestHistoryIsLinearizable (P1, P2): what many clients of three servers asked
// and heard, while leaders are killed and paused, is the history of one store;
// and who watches sees every generation of every object, without a gap.
func TestHistoryIsLinearizable(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3, Separate: true})
	for _, name := range []string{"s1", "s2", "s3"} {
		c.Await(name+" has a vote", func(ctx context.Context) (bool, error) {
			role := serverRole(ctx, c.Client(), name)
			return role == api.ServerVoter || role == api.ServerLeader, nil
		})
	}
	linearizable(t, c, 4, loseLeader(c))
}

// loseLeader kills the server that leads, or pauses it.
func loseLeader(c *Cluster) func(round int) (string, func()) {
	return func(round int) (string, func()) {
		leader := c.Leader()
		if round%2 == 0 {
			leader.Kill()
			return leader.name, leader.Start
		}
		leader.Pause()
		return leader.name, leader.Resume
	}
}

// linearizable checks the history of clients of all servers, while in each round
// somebody is lost, and then found.
func linearizable(t *testing.T, c *Cluster, rounds int, lose func(round int) (who string, find func())) {
	t.Helper()
	var history historytest.History
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for who := range 6 {
		cl := c.Client()
		urls := c.URLs()
		first := who % len(urls)
		if err := cl.Use(append(urls[first:], urls[:first]...)); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { history.Client(ctx, cl, who) })
	}
	all.Go(func() { historytest.Watch(ctx, t, c.Client()) })
	for round := range rounds {
		seen := history.Len()
		c.Await("calls go on", func(context.Context) (bool, error) { return history.Len() > seen+100, nil })
		who, find := lose(round)
		seen = history.Len()
		c.Await("calls go on without "+who, func(context.Context) (bool, error) { return history.Len() > seen+100, nil })
		find()
		history.Turn()
	}
	stop()
	all.Wait()
	history.Check(t)
	history.NothingLost(t, c.Client())
}
