package testcluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

func TestMain(m *testing.M) { Main(m) }

// P1: what was acknowledged before a kill -9 is there after it.
func TestNoAcknowledgedWriteIsLostByAKill(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Separate: true})
	for round := range 3 {
		var acked sync.Map
		var count atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for w := range 4 {
			cl := c.Client()
			writers.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					name := fmt.Sprintf("ns-%d-%d-%d", round, w, i)
					if _, err := client.Of(cl, api.Namespaces).Create(ctx, &api.Namespace{Meta: api.Meta{Name: name}}); err == nil {
						acked.Store(name, true)
						count.Add(1)
					}
				}
			})
		}
		c.Await("a burst of writes is under way", func(context.Context) (bool, error) { return count.Load() > 50, nil })
		c.Server.Kill()
		stop()
		writers.Wait()
		c.Server.Start()
		have := map[string]bool{}
		items, _, err := client.Of(c.Client(), api.Namespaces).List(t.Context(), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range items {
			have[ns.Meta.Name] = true
		}
		acked.Range(func(name, _ any) bool {
			if !have[name.(string)] {
				t.Errorf("round %d: %s was acknowledged and is gone", round, name)
			}
			return true
		})
	}
}

// A watch that a restart breaks either goes on where it was or says that it
// cannot; what a watcher knows after that is complete.
func TestWatchersKnowEverythingAfterARestart(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Etcd: true})
	namespaces := client.Of(c.Client(), api.Namespaces)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	create := func(name string) {
		t.Helper()
		if _, err := namespaces.Create(ctx, &api.Namespace{Meta: api.Meta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	known, rev := map[string]bool{}, int64(0)
	list := func() {
		t.Helper()
		items, at, err := namespaces.List(ctx, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range items {
			known[ns.Meta.Name] = true
		}
		rev = at
	}
	follow := func(until string) {
		t.Helper()
		for !known[until] {
			for ev, err := range namespaces.Watch(ctx, "", nil, rev) {
				if api.Is(err, api.Gone) {
					list()
					break
				}
				if err != nil {
					t.Fatalf("waiting for %s: %v", until, err)
				}
				rev = ev.Revision
				if ev.Type == api.EventPut {
					known[ev.Object.Meta.Name] = true
				}
				if known[until] {
					break
				}
			}
		}
	}
	list()
	create("a")
	create("b")
	follow("b")
	create("c")
	c.Server.Stop()
	c.Server.Start()
	create("d")
	follow("d")
	for _, name := range []string{"a", "b", "c", "d"} {
		if !known[name] {
			t.Errorf("%s was skipped", name)
		}
	}
}

// The whole way: an app becomes pods on nodes, and a dead node's pods move.
func TestAppRunsAndSurvivesANode(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Nodes: 3})
	apps := client.Of(c.Client(), api.Apps)
	_, err := apps.Create(t.Context(), &api.App{
		Meta: api.Meta{Name: "web", Namespace: api.DefaultNamespace},
		Spec: api.AppSpec{Container: api.Container{Image: "nginx:1.27"}, Replicas: new(3)},
	})
	if err != nil {
		t.Fatal(err)
	}
	pods := client.Of(c.Client(), api.Pods)
	serving := func(ctx context.Context) (nodes map[string]int, err error) {
		items, _, err := pods.List(ctx, "", client.By("app", "web"))
		nodes = map[string]int{}
		for _, p := range items {
			if p.Status.Ready {
				nodes[p.Spec.Node]++
			}
		}
		return nodes, err
	}
	c.Await("three pods serve, one on each node", func(ctx context.Context) (bool, error) {
		nodes, err := serving(ctx)
		return nodes["w1"] == 1 && nodes["w2"] == 1 && nodes["w3"] == 1, err
	})
	c.Nodes["w2"].Kill()
	began := time.Now()
	c.Await("w2's pod serves elsewhere", func(ctx context.Context) (bool, error) {
		nodes, err := serving(ctx)
		return nodes["w2"] == 0 && nodes["w1"]+nodes["w3"] == 3, err
	})
	t.Logf("replaced after %s", time.Since(began).Round(10*time.Millisecond))
}

// P9: a control plane that dies and comes back flips no readiness, replaces no
// pod and changes no verdict.
func TestRestartOfTheServerDisturbsNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Nodes: 3, Separate: true})
	cl := c.Client()
	_, err := client.Of(cl, api.Apps).Create(t.Context(), &api.App{
		Meta: api.Meta{Name: "web", Namespace: api.DefaultNamespace},
		Spec: api.AppSpec{Container: api.Container{Image: "nginx:1.27"}, Replicas: new(3)},
	})
	if err != nil {
		t.Fatal(err)
	}
	state := func(ctx context.Context) (ready int, all string, err error) {
		pods, _, err := client.Of(cl, api.Pods).List(ctx, "", nil)
		if err != nil {
			return 0, "", err
		}
		for _, p := range pods {
			all += fmt.Sprintln(p.Meta.Name, p.Meta.UID, p.Status.Phase, p.Status.Ready, p.Status.ReadyAt)
			if p.Status.Ready {
				ready++
			}
		}
		nodes, _, err := client.Of(cl, api.Nodes).List(ctx, "", nil)
		for _, n := range nodes {
			all += fmt.Sprintln(n.Meta.Name, n.Status.Health)
		}
		return ready, all, err
	}
	c.Await("three pods serve", func(ctx context.Context) (bool, error) {
		ready, _, err := state(ctx)
		return ready == 3, err
	})
	_, before, err := state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Server.Kill()
	time.Sleep(6 * time.Second) // long enough for every witness to notice
	c.Server.Start()
	time.Sleep(15 * time.Second) // longer than a new leader listens before it judges
	if _, after, err := state(t.Context()); err != nil || after != before {
		t.Errorf("before:\n%s\nafter:\n%s(%v)", before, after, err)
	}
}

// Logs and exec go user → server → tunnel → agent, and fail in words.
func TestStreamsReachThePod(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Nodes: 1})
	cl := c.Client()
	_, err := client.Of(cl, api.Apps).Create(t.Context(), &api.App{
		Meta: api.Meta{Name: "web", Namespace: api.DefaultNamespace},
		Spec: api.AppSpec{Container: api.Container{Image: "nginx:1.27"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var pod api.Pod
	c.Await("the pod serves", func(ctx context.Context) (bool, error) {
		pods, _, err := client.Of(cl, api.Pods).List(ctx, "", nil)
		if len(pods) == 1 {
			pod = *pods[0]
		}
		return pod.Status.Ready, err
	})
	path := client.Path(api.Pods.Info(), pod.Meta.Namespace, pod.Meta.Name)
	logs := func() (string, error) {
		resp, err := cl.Do(t.Context(), client.Request{Method: http.MethodGet, Path: path + "/logs"})
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if got, err := logs(); err != nil || !strings.Contains(got, "listening") {
		t.Errorf("logs: %q %v", got, err)
	}

	roots, err := pki.LoadRoots(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, c.URL()+path+"/exec?command=echo&command=hello", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.Token())
	conn, err := tunnel.Dial(t.Context(), c.Addr(), roots, r, tunnel.ExecProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frames, out := tunnel.NewFrames(conn), ""
	for {
		kind, b, err := frames.Read()
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		if kind == tunnel.FrameExit {
			if string(b) != `{"code":0}` {
				t.Errorf("exit: %s", b)
			}
			break
		}
		out += string(b)
	}
	if out != "hello\n" {
		t.Errorf("exec printed %q", out)
	}

	c.Nodes["w1"].Agent.Kill()
	c.Await("its node's connection is gone", func(context.Context) (bool, error) {
		_, err := logs()
		return api.Is(err, api.Unready) && strings.Contains(err.Error(), "node w1 is not connected"), nil
	})
}
