package testcluster

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// serverRole is what the cluster says of a server; empty when it is none.
func serverRole(ctx context.Context, c *client.Client, name string) api.ServerRole {
	s, err := client.Of(c, api.Servers).Get(ctx, "", name)
	if err != nil {
		return ""
	}
	return s.Status.Role
}

// P1 and P2 with three servers: many increment a counter by compare-and-swap
// while whoever leads is killed, again and again. No acknowledged increment is
// lost or counted twice, no reader goes back whichever server it asks, and the
// pods never notice.
func TestAnyServerMayDie(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3, Separate: true, Nodes: 1})
	for _, name := range []string{"s1", "s2", "s3"} {
		c.Await(name+" has a vote", func(ctx context.Context) (bool, error) {
			role := serverRole(ctx, c.Client(), name)
			return role == api.ServerVoter || role == api.ServerLeader, nil
		})
	}
	one := 1
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{Container: api.Container{Image: "fake/run"}, Replicas: &one}}
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	var pod api.Pod
	c.Await("the pod runs", func(ctx context.Context) (bool, error) {
		pods, _, err := client.Of(c.Client(), api.Pods).List(ctx, "default", nil)
		if len(pods) == 1 {
			pod = pods[0]
		}
		return len(pods) == 1 && pods[0].Status.Ready, err
	})
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
	// One reader walks from server to server: what one has said, the next knows.
	cl := c.Client()
	all.Go(func() {
		urls := c.URLs()
		for last, i := 0, 0; ctx.Err() == nil; i++ {
			if err := cl.Use(append(urls[i%3:], urls[:i%3]...)); err != nil {
				t.Error(err)
				return
			}
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
	for round := range 3 {
		seen := acked.Load()
		c.Await("increments go on", func(context.Context) (bool, error) { return acked.Load() > seen+30, nil })
		leader := c.Leader()
		leader.Kill()
		seen = acked.Load()
		c.Await(fmt.Sprintf("round %d: increments go on without %s", round, leader.name), func(context.Context) (bool, error) { return acked.Load() > seen+30, nil })
		leader.Start()
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
	now, err := client.Of(c.Client(), api.Pods).Get(t.Context(), "default", pod.Meta.Name)
	if err != nil || now.Meta.UID != pod.Meta.UID || now.Status.Restarts() != 0 || !now.Status.Ready {
		t.Errorf("the pod noticed: %+v %v", now, err)
	}
	t.Logf("%d increments acknowledged, %d of unknown end, counted to %d", acked.Load(), unknown.Load(), n)
}

// A server that is gone for good makes room for the next that joins, and all
// that was written is there; deleting one takes its vote; never so many go that
// the rest is no majority.
func TestServersComeAndGo(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3})
	servers := client.Of(c.Client(), api.Servers)
	if _, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: "kept"}}); err != nil {
		t.Fatal(err)
	}
	c.Servers[2].Kill()
	c.Await("s3 is missed", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), "s3") == api.ServerDead, nil
	})
	if err := servers.Delete(t.Context(), "", "s2", ""); !api.Is(err, api.Conflict) {
		t.Errorf("a server went whose vote is needed: %v", err)
	}
	c.AddServer()
	c.Await("s4 has a vote, and s3 is gone", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), "s4") == api.ServerVoter && serverRole(ctx, c.Client(), "s3") == "", nil
	})
	// The founder goes, too: nothing hangs on it.
	c.Await("three are there", func(ctx context.Context) (bool, error) {
		all, _, err := servers.List(ctx, "", nil)
		return len(all) == 3, err
	})
	if err := servers.Delete(t.Context(), "", "s1", ""); err != nil {
		t.Fatal(err)
	}
	c.Await("s1 has ended", func(context.Context) (bool, error) { return c.Servers[0].Ended(), nil })
	rest := c.Client()
	if err := rest.Use([]string{c.URLs()[3], c.URLs()[1]}); err != nil {
		t.Fatal(err)
	}
	c.Await("the others go on", func(ctx context.Context) (bool, error) {
		_, err := client.Of(rest, api.Namespaces).Create(ctx, &api.Namespace{Meta: api.Meta{Name: "after"}})
		return err == nil || api.Is(err, api.Conflict), err
	})
	if _, err := client.Of(rest, api.Namespaces).Get(t.Context(), "", "kept"); err != nil {
		t.Error(err)
	}
}
