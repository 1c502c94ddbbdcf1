package testcluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
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
			pod = *pods[0]
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

// A snapshot brings back all there was, secrets included, and the pods on the
// nodes are taken over as they run. Of three servers of which two are lost for
// good, the third goes on after recover; others join it again.
func TestSnapshotAndRecovery(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3, Nodes: 1})
	one := 1
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{
		Container: api.Container{Image: "fake/run"}, Replicas: &one,
	}}
	secrets := client.Of(c.Client(), api.Secrets)
	if _, err := secrets.Create(t.Context(), &api.Secret{Meta: api.Meta{Name: "db", Namespace: "default"}, Spec: api.SecretSpec{Data: map[string]string{"key": "s3cr3t"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	pods := func(ctx context.Context, cl *client.Client) ([]*api.Pod, error) {
		all, _, err := client.Of(cl, api.Pods).List(ctx, "default", nil)
		return all, err
	}
	var before api.Pod
	c.Await("the pod runs", func(ctx context.Context) (bool, error) {
		all, err := pods(ctx, c.Client())
		if len(all) == 1 {
			before = *all[0]
		}
		return len(all) == 1 && all[0].Status.Ready, err
	})
	unharmed := func(when string) {
		t.Helper()
		c.Await(when+": the pod is the one of before, and serves", func(ctx context.Context) (bool, error) {
			all, err := pods(ctx, c.Client())
			return len(all) == 1 && all[0].Meta.UID == before.Meta.UID && all[0].Status.Ready && all[0].Status.Restarts() == 0, err
		})
		// Only who has the keys can make the same hash of the same values.
		s, err := client.Of(c.Client(), api.Secrets).Put(t.Context(), &api.Secret{Meta: api.Meta{Name: "db", Namespace: "default"}, Spec: api.SecretSpec{Data: map[string]string{"key": "s3cr3t"}}})
		if err != nil || s.Meta.Generation != 1 {
			t.Errorf("%s: the secret is another: %+v %v", when, s, err)
		}
	}
	oneAdmin := func(when string) {
		t.Helper()
		tokens, _, err := client.Of(c.Client(), api.Tokens).List(t.Context(), "", nil)
		admins := 0
		for _, tok := range tokens {
			if tok.Spec.Role == api.RoleAdmin {
				admins++
			}
		}
		if err != nil || admins != 1 {
			t.Errorf("%s: there are %d admin tokens: %v", when, admins, err)
		}
	}
	oneAdmin("with three servers")
	file := filepath.Join(t.TempDir(), "all.snap")
	save(t, c.Client(), file)
	if _, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: "after"}}); err != nil {
		t.Fatal(err)
	}

	for _, s := range c.Servers[1:] {
		s.Kill()
	}
	c.Servers[0].Kill()
	cfg := server.Config{Name: "s1", DataDir: c.dir, Listen: c.at[0].api, Peer: c.at[0].peer, Gossip: c.at[0].gossip, NoSync: true}
	if err := server.Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c.Servers[0].Start()
	c.Await("s1 is alone, and leads", func(ctx context.Context) (bool, error) {
		all, _, err := client.Of(c.Client(), api.Servers).List(ctx, "", nil)
		return len(all) == 1 && all[0].Status.Role == api.ServerLeader, err
	})
	if _, err := client.Of(c.Client(), api.Namespaces).Get(t.Context(), "", "after"); err != nil {
		t.Errorf("after the recovery: %v", err)
	}
	unharmed("after the recovery")
	c.AddServer()
	c.Await("s4 has a vote", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), "s4") == api.ServerVoter, nil
	})

	c.Servers[3].Kill()
	c.Servers[0].Kill()
	for _, gone := range []string{"store", "keys.json", "identity", server.AdminTokenFile} {
		if err := os.RemoveAll(filepath.Join(c.dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.Restore(server.RestoreConfig{Config: cfg, Snapshot: file, Passphrase: "wrong"}); err == nil || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("restored with a wrong passphrase: %v", err)
	}
	if _, err := server.Restore(server.RestoreConfig{Config: cfg, Snapshot: file, Passphrase: "a passphrase"}); err != nil {
		t.Fatal(err)
	}
	c.Servers[0].Start()
	unharmed("after the restore")
	oneAdmin("after the restore")
	if _, err := client.Of(c.Client(), api.Namespaces).Get(t.Context(), "", "after"); !api.Is(err, api.NotFound) {
		t.Errorf("what came after the snapshot is there: %v", err)
	}
}

func save(t *testing.T, c *client.Client, file string) {
	t.Helper()
	resp, err := c.Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/v1/snapshot", Body: []byte(`{"passphrase":"a passphrase"}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("s3cr3t")) || bytes.Contains(b, []byte("PRIVATE KEY")) {
		t.Error("the snapshot shows a secret")
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.OpenSnapshot(file, ""); err != nil {
		t.Error(err)
	}
	b[len(b)/2] ^= 1
	broken := file + ".broken"
	if err := os.WriteFile(broken, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.OpenSnapshot(broken, ""); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a broken snapshot: %v", err)
	}
}
