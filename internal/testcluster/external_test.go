package testcluster

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/etcdtest"
)

// Two servers share an etcd that is not theirs. Both take writes; the one that
// leads is killed, and later stopped: the other takes over, what waits for a
// leader goes on, and no pod is started again.
func TestServersShareAnEtcd(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 2, Separate: true, Nodes: 1, External: server.Etcd{Endpoints: []string{etcdtest.Start(t, nil)}}})
	apps, servers := client.Of(c.Client(), api.Apps), client.Of(c.Client(), api.Servers)
	scale := func(to int) {
		t.Helper()
		app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{Container: api.Container{Image: "fake/run"}, Replicas: &to}}
		c.Await("the app is written", func(ctx context.Context) (bool, error) { _, err := apps.Put(ctx, app); return err == nil, err })
	}
	first := ""
	running := func(want int) {
		t.Helper()
		c.Await("the pods run", func(ctx context.Context) (bool, error) {
			pods, _, err := client.Of(c.Client(), api.Pods).List(ctx, "default", nil)
			ready, kept := 0, first == ""
			for _, p := range pods {
				if p.Status.Ready {
					ready++
				}
				kept = kept || p.Meta.UID == first && p.Status.Restarts() == 0
			}
			if first == "" && ready == 1 {
				first = pods[0].Meta.UID
			}
			return ready == want && kept, err
		})
	}
	for i := range c.URLs() {
		o := &api.Namespace{Meta: api.Meta{Name: []string{"one", "two"}[i]}}
		if _, err := client.Of(c.ClientOf(c.URLs()[i]), api.Namespaces).Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		other := client.Of(c.ClientOf(c.URLs()[1-i]), api.Namespaces)
		if _, err := other.Get(t.Context(), "", o.Meta.Name); err != nil {
			t.Errorf("one server does not read what the other has written: %v", err)
		}
	}
	scale(1)
	running(1)

	leader := c.Leader()
	other := c.Servers[0]
	if other == leader {
		other = c.Servers[1]
	}
	c.Await("the other stands by", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), other.name) == api.ServerStandby, nil
	})
	if err := servers.Delete(t.Context(), "", other.name, ""); !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a server that lives was deleted: %v", err)
	}
	if _, err := c.Client().Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/v1/snapshot", Body: []byte("{}")}); err == nil || !strings.Contains(err.Error(), "etcdctl snapshot save") {
		t.Errorf("a snapshot of somebody else's etcd: %v", err)
	}

	leader.Kill()
	killed := time.Now()
	scale(2)
	wrote := time.Since(killed)
	running(2)
	t.Logf("killed: a write was taken after %v, and a pod more ran after %v", wrote.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	c.Await("the killed one is missed, and the other leads", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), leader.name) == api.ServerDead && serverRole(ctx, c.Client(), other.name) == api.ServerLeader, nil
	})
	leader.Start()
	c.Await("it is back, and stands by", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), leader.name) == api.ServerStandby, nil
	})

	stopped := time.Now()
	other.Stop()
	scale(3)
	running(3)
	t.Logf("stopped: a pod more ran after %v", time.Since(stopped).Round(time.Millisecond))

	c.Await("the stopped one is missed", func(ctx context.Context) (bool, error) {
		return serverRole(ctx, c.Client(), other.name) == api.ServerDead, nil
	})
	if err := servers.Delete(t.Context(), "", other.name, ""); err != nil {
		t.Errorf("a server that has ended cannot be deleted: %v", err)
	}
	again, err := other.start(t.Context())
	if err == nil {
		err = again.run(t.Context())
	}
	if err == nil {
		t.Error("a server that was deleted starts")
	}
	if _, err := servers.Get(t.Context(), "", other.name); !api.Is(err, api.NotFound) {
		t.Errorf("a server that was deleted is back: %v", err)
	}
}

// TestSharedEtcdIsLinearizable (P1, P2): the same history, of two servers that
// share an etcd with somebody who writes all the time.
func TestSharedEtcdIsLinearizable(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, nil)
	neighbour, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer func() {
		stop()
		all.Wait()
		if err := neighbour.Close(); err != nil {
			t.Error(err)
		}
	}()
	all.Go(func() {
		for ctx.Err() == nil {
			if _, err := neighbour.Put(ctx, "/clusterd.neighbour", "x"); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	c := Start(t, Config{Servers: 2, Separate: true, External: server.Etcd{Endpoints: []string{etcd}}})
	linearizable(t, c, 2, loseLeader(c))
}

// refusedStart starts a server that must say why it does not.
func refusedStart(t *testing.T, cfg server.Config, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cfg.Name, cfg.Listen, cfg.Gossip = "s9", "127.0.0.1:0", "127.0.0.1:0"
	s, err := server.Open(ctx, cfg)
	if err == nil {
		over, end := context.WithCancel(ctx)
		end()
		s.Run(over)
	}
	if err == nil || !strings.Contains(err.Error(), want) || ctx.Err() != nil {
		t.Errorf("got %v, want it to say %q", err, want)
	}
}

// What would split a cluster in two, or serve an empty one to nodes that obey
// it, is refused before anything is written.
func TestOneClusterOneStore(t *testing.T) {
	t.Parallel()
	etcd, empty := server.Etcd{Endpoints: []string{etcdtest.Start(t, nil)}}, server.Etcd{Endpoints: []string{etcdtest.Start(t, nil)}}
	outside := Start(t, Config{External: etcd})
	inside := Start(t, Config{Etcd: true})
	fresh := func() string { return filepath.Join(t.TempDir(), "server") }
	elsewhere := etcd
	elsewhere.Prefix = "/other"
	down := server.Etcd{Endpoints: []string{"http://127.0.0.1:1"}}
	outsideDir, insideDir := outside.dir, fresh()
	if err := os.MkdirAll(filepath.Join(insideDir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct {
		cfg  server.Config
		want string
	}{
		"one more founder":            {server.Config{DataDir: fresh(), Etcd: etcd}, "give --join"},
		"without endpoints":           {server.Config{DataDir: outsideDir}, "start the server with --etcd-endpoints"},
		"another place":               {server.Config{DataDir: outsideDir, Etcd: elsewhere}, "is below /clusterd"},
		"another etcd":                {server.Config{DataDir: outsideDir, Etcd: empty}, "has no cluster below /clusterd"},
		"no etcd":                     {server.Config{DataDir: fresh(), Etcd: down}, "--etcd-endpoints: reach the etcd at http://127.0.0.1:1"},
		"a store of its own":          {server.Config{DataDir: insideDir, Etcd: empty}, "has a store of its own"},
		"join in another etcd":        {server.Config{DataDir: fresh(), Etcd: empty, Join: []string{outside.Addr()}, JoinToken: outside.newToken(api.RoleServer)}, "is it the one that the other servers use?"},
		"join without endpoints":      {server.Config{DataDir: fresh(), Join: []string{outside.Addr()}, JoinToken: outside.newToken(api.RoleServer)}, "start the server with --etcd-endpoints"},
		"join those who have no etcd": {server.Config{DataDir: fresh(), Etcd: etcd, Join: []string{inside.Addr()}, JoinToken: inside.newToken(api.RoleServer)}, "without --etcd-endpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			o.cfg.Peer, o.cfg.NoSync = freePort(t), true
			refusedStart(t, o.cfg, o.want)
			if _, err := os.Stat(filepath.Join(o.cfg.DataDir, "keys.json")); err == nil && o.cfg.DataDir != outsideDir {
				t.Error("it left keys")
			}
		})
	}
	if _, err := server.Restore(server.RestoreConfig{Config: server.Config{DataDir: outsideDir}}); err == nil || !strings.Contains(err.Error(), "etcdutl snapshot restore") {
		t.Errorf("a restore into somebody else's etcd: %v", err)
	}
	if err := server.Recover(t.Context(), server.Config{DataDir: outsideDir}); err == nil || !strings.Contains(err.Error(), "in an etcd of its own") {
		t.Errorf("a recovery of somebody else's etcd: %v", err)
	}
}
