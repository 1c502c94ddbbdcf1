package apiserver

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// adminToken makes a user's token.
func (c *tlsCluster) adminToken(ctx context.Context, fatal func(...any)) string {
	u := pki.NewUserToken()
	_, err := client.Of(c.system, api.Tokens).Create(ctx, &api.Token{Meta: api.Meta{Name: u.ID}, Spec: api.TokenSpec{Role: api.RoleAdmin, Hash: u.Hash()}})
	if err != nil {
		fatal(err)
	}
	return u.Reveal()
}

// benches runs f in process and over TLS on loopback, both on etcd.
func benches(b *testing.B, f func(b *testing.B, c *client.Client)) {
	c := startTLS(b, Config{Etcd: etcdConfig(b, b.TempDir())})
	over := c.client(b, c.adminToken(b.Context(), b.Fatal), nil)
	b.Run("in-process", func(b *testing.B) { f(b, c.system) })
	b.Run("tls", func(b *testing.B) { f(b, over) })
}

func benchApp(i int) *api.App {
	a := newApp("bench")
	a.Spec.Image = fmt.Sprint("docker.io/library/nginx:", i)
	a.Spec.Env = map[string]string{"A": "b", "LONGER_NAME": "and a longer value"}
	a.Spec.Ports = map[string]api.Port{"http": "80"}
	return a
}

func BenchmarkAPIPut(b *testing.B) {
	benches(b, func(b *testing.B, c *client.Client) {
		apps := client.Of(c, api.Apps)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := apps.Put(b.Context(), benchApp(i)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAPIPutParallel(b *testing.B) {
	benches(b, func(b *testing.B, c *client.Client) {
		apps := client.Of(c, api.Apps)
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			a := benchApp(0)
			a.Meta.Name = "b" + newUID()
			for i := 0; pb.Next(); i++ {
				a.Spec.Image = fmt.Sprint("nginx:", i)
				if _, err := apps.Put(b.Context(), a); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func BenchmarkAPIGet(b *testing.B) {
	benches(b, func(b *testing.B, c *client.Client) {
		apps := client.Of(c, api.Apps)
		if _, err := apps.Put(b.Context(), benchApp(0)); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := apps.Get(b.Context(), "default", "bench"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAPIList1000(b *testing.B) {
	benches(b, func(b *testing.B, c *client.Client) {
		apps := client.Of(c, api.Apps)
		for i := range 1000 {
			a := benchApp(i)
			a.Meta.Name = fmt.Sprintf("a%04d", i)
			if _, err := apps.Put(b.Context(), a); err != nil {
				b.Fatal(err)
			}
		}
		for b.Loop() {
			items, _, err := apps.List(b.Context(), "", nil)
			if err != nil || len(items) < 1000 {
				b.Fatal(len(items), err)
			}
		}
	})
}

// BenchmarkWatchFanOut is one write that 100 watchers of its node wait for,
// among 5,000 that watch other nodes.
func BenchmarkWatchFanOut(b *testing.B) {
	s, err := Open(b.Context(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done; s.Close() }()
	c := client.InProcess(s.InProcess(system))
	pod := &api.Pod{Meta: api.Meta{Namespace: "default", Name: "p"}}
	pod.Spec.Image = "n:1"
	if _, err := client.Of(c, api.Pods).Create(ctx, pod); err != nil {
		b.Fatal(err)
	}
	snap, err := s.cache.latest(ctx)
	if err != nil {
		b.Fatal(err)
	}
	watch := func(field, value string) *watcher {
		w, ok := s.cache.hub.watch(selector{kind: s.kinds["pods"], fields: map[string]string{field: value}}, snap.revision, false)
		if !ok {
			b.Fatal("gone")
		}
		return w
	}
	var interested []*watcher
	for range 100 {
		w, _ := s.cache.hub.watch(selector{kind: s.kinds["pods"], namespace: "default"}, snap.revision, false)
		interested = append(interested, w)
	}
	for i := range 5000 {
		watch("node", fmt.Sprint("w", i))
	}
	for i := 0; b.Loop(); i++ {
		pod.Status.Message = fmt.Sprint(i)
		if _, err := client.Of(c, api.Pods).PutStatus(ctx, pod); err != nil {
			b.Fatal(err)
		}
		for _, w := range interested {
			<-w.wake
			w.take()
		}
	}
}

// BenchmarkColdCache loads 10,000 pods as a server does when it starts.
func BenchmarkColdCache(b *testing.B) {
	s, err := Open(b.Context(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	p := &api.Pod{Kind: "Pod", Meta: api.Meta{Namespace: "default", UID: newUID(), Labels: map[string]string{"app": "web"}}}
	p.Spec.Container = benchApp(1).Spec.Container
	p.Status = api.PodStatus{Phase: api.PhaseRunning, IP: "10.244.3.7", Containers: map[string]api.ContainerStatus{"main": {State: "running", Image: "sha256:0123456789abcdef"}}}
	for i := range 10_000 {
		p.Meta.Name, p.Spec.Node = fmt.Sprintf("web-%05d", i), fmt.Sprint("w", i%100)
		put := store.Txn{Then: []store.Op{store.Put(s.kinds["pods"].key("default", p.Meta.Name), marshal(p))}}
		if _, err := s.store.Commit(b.Context(), put); err != nil {
			b.Fatal(err)
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var c *cache
	b.ReportAllocs()
	for b.Loop() {
		c = &cache{store: s.store, decode: s.decode, log: s.log, advanced: make(chan struct{})}
		if _, err := c.load(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heap()-before)/10_000, "heap-B/pod")
	runtime.KeepAlive(c)
}
