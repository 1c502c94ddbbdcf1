//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// calm is how long a cluster is left alone before it counts as idle.
const calm = 15 * time.Second

// idle measures what the processes cost and the store is written while nothing
// happens.
func (s sizes) idle(ctx context.Context, name string, c *cluster, processes ...*process) error {
	if err := pause(ctx, calm); err != nil {
		return err
	}
	revision := func() (int64, error) {
		_, rev, err := client.Of(c.client, api.Servers).List(ctx, "", nil)
		return rev, err
	}
	before, err := revision()
	if err != nil {
		return err
	}
	was := make([]time.Duration, len(processes))
	for i, p := range processes {
		was[i] = p.cpu()
	}
	began := time.Now()
	if err := pause(ctx, s.steady); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := revision()
	if err != nil {
		return err
	}
	values := []value{{float64(after-before) / took.Seconds(), "writes/s"}}
	share := func(p *process, was time.Duration) float64 { return 100 * (p.cpu() - was).Seconds() / took.Seconds() }
	values = append(values, value{processes[0].memory(), "server-MB"}, value{share(processes[0], was[0]), "server-%core"})
	if len(processes) > 1 {
		mb, core := 0.0, 0.0
		for i, p := range processes[1:] {
			mb, core = mb+p.memory(), core+share(p, was[i+1])
		}
		values = append(values, value{mb, "nodes-MB"}, value{core, "nodes-%core"})
	}
	report(name, 1, took, values...)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// place measures how long it takes from the writes of apps until all their pods
// have a node, or until all are ready.
func (s sizes) place(ctx context.Context, c *cluster, what string, nodes, pods int) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, from, err := client.Of(c.client, api.Servers).List(ctx, "", nil)
	if err != nil {
		return err
	}
	cpu := func() (server, nodes time.Duration) {
		for _, p := range c.hollows {
			nodes += p.cpu()
		}
		return c.cpu(), nodes
	}
	server, hollow := cpu()
	began := time.Now()
	failed := make(chan error, 1)
	go func() { failed <- s.declare(ctx, c, pods) }()
	watch := tally{pods: pods, uids: map[string]bool{}, from: from, counts: func(p *light) bool { return p.Spec.Node != "" }}
	if what == "Running" {
		watch.counts = func(p *light) bool { return p.Status.Ready }
	}
	if err := watch.follow(ctx, c.client); err != nil {
		return err
	}
	took, each := time.Since(began), float64(pods)
	srv, at := cpu()
	values := []value{{each / took.Seconds(), "pods/s"}, {float64((srv - server).Microseconds()) / each, "server-cpu-us/pod"},
		{float64((at - hollow).Microseconds()) / each, "nodes-cpu-us/pod"}, {c.server.memory(), "server-MB"}}
	_, to, err := client.Of(c.client, api.Servers).List(ctx, "", nil)
	if err != nil {
		return err
	}
	report(fmt.Sprintf("%s/nodes=%d/pods=%d", what, nodes, pods), pods, took, append(values, value{float64(to-from) / each, "txns/pod"})...)
	return <-failed
}

// declare writes the apps, a few at a time.
func (s sizes) declare(ctx context.Context, c *cluster, pods int) error {
	const writers = 8
	todo := make(chan int)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range todo {
				app := &api.App{Meta: api.Meta{Namespace: api.DefaultNamespace, Name: fmt.Sprintf("app-%d", i)}}
				app.Spec.Image, app.Spec.CPU, app.Spec.Memory = "web:1", "50m", "32Mi"
				app.Spec.Replicas = new(min(s.replicas, pods-i*s.replicas))
				if _, err := client.Of(c.client, api.Apps).Create(ctx, app); err != nil {
					errs[w] = errors.Join(errs[w], err)
				}
			}
		})
	}
	for i := 0; i*s.replicas < pods; i++ {
		todo <- i
	}
	close(todo)
	wg.Wait()
	return errors.Join(errs...)
}

// requests measures reads and writes at a rate, and a list of all pods.
func (s sizes) requests(ctx context.Context, c *cluster) error {
	configs := client.Of(c.client, api.Configs)
	config := func(i int) *api.Config {
		return &api.Config{Meta: api.Meta{Namespace: api.DefaultNamespace, Name: fmt.Sprintf("sim-%d", i%100)}, Spec: api.ConfigSpec{Data: map[string]string{"n": fmt.Sprint(i)}}}
	}
	pods, _, err := client.Of(c.client, api.Pods).List(ctx, api.DefaultNamespace, client.Filter{"app": {"app-0"}})
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return errors.New("app-0 has no pods")
	}
	for _, kind := range []struct {
		name string
		call func(i int) error
	}{
		{"Write", func(i int) error { _, err := configs.Put(ctx, config(i)); return err }},
		{"Read", func(i int) error {
			_, err := client.Of(c.client, api.Pods).Get(ctx, api.DefaultNamespace, pods[i%len(pods)].Meta.Name)
			return err
		}},
	} {
		times, err := s.atRate(kind.call)
		if err != nil {
			return err
		}
		sum := time.Duration(0)
		for _, t := range times {
			sum += t
		}
		report(fmt.Sprintf("%s/pods=%d/rate=%d", kind.name, s.pods, s.rate), len(times), sum,
			value{quantile(times, 0.5), "p50-ms"}, value{quantile(times, 0.99), "p99-ms"})
	}
	const lists = 5
	size, cpu := int64(0), c.cpu()
	took, err := timed(func() error {
		for range lists {
			n, err := c.list(ctx)
			if size = n; err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	report(fmt.Sprintf("List/pods=%d", s.pods), lists, took, value{float64(size) / 1e6, "MB"},
		value{float64((c.cpu() - cpu).Milliseconds()) / lists, "server-cpu-ms/op"}, value{c.server.memory(), "server-MB"})
	return nil
}

// list reads all pods, as bytes.
func (c *cluster) list(ctx context.Context) (int64, error) {
	resp, err := c.client.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(api.Pods.Info(), "", "")})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

// atRate calls do so many times a second for ten seconds, whether or not
// earlier calls have ended, and returns how long each took from when it was due.
func (s sizes) atRate(do func(i int) error) ([]time.Duration, error) {
	n := 10 * s.rate
	times, errs := make([]time.Duration, n), make([]error, n)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(s.rate))
		time.Sleep(time.Until(due))
		wg.Go(func() {
			errs[i] = do(i)
			times[i] = time.Since(due)
		})
	}
	wg.Wait()
	return times, errors.Join(errs...)
}

// coldStart measures how long a server with all these pods takes until it
// answers with them.
func (s sizes) coldStart(ctx context.Context, c *cluster) error {
	c.leave()
	c.server.stop()
	cpu := time.Duration(0)
	took, err := timed(func() error {
		if err := c.serve(ctx); err != nil {
			return err
		}
		_, err := c.list(ctx)
		cpu = c.server.cpu()
		return err
	})
	if err != nil {
		return err
	}
	report(fmt.Sprintf("ColdStart/pods=%d", s.pods), 1, took, value{float64(cpu.Milliseconds()), "server-cpu-ms"}, value{c.server.memory(), "server-MB"})
	return nil
}

// changes measures how long it takes from the deletion of a pod until every
// node's proxy has followed that its service no longer leads there.
func (s sizes) changes(ctx context.Context, c *cluster) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	const pods, rounds = 100, 200
	app := &api.App{Meta: api.Meta{Namespace: api.DefaultNamespace, Name: "web"}}
	app.Spec.Image, app.Spec.Replicas, app.Spec.Ports = "web:1", new(pods), map[string]api.Port{"http": "80"}
	if _, err := client.Of(c.client, api.Apps).Create(ctx, app); err != nil {
		return err
	}
	svc := &api.Service{Meta: api.Meta{Namespace: api.DefaultNamespace, Name: "web"}}
	svc.Spec.App, svc.Spec.Ports = "web", map[string]api.ServicePort{"http": {Port: 80}}
	if _, err := client.Of(c.client, api.Services).Create(ctx, svc); err != nil {
		return err
	}
	kind := client.Of(c.client, api.Pods)
	var times []time.Duration
	for range rounds {
		var victim *api.Pod
		err := c.await(ctx, "all pods of the service are ready", func() bool {
			all, _, err := kind.List(ctx, api.DefaultNamespace, client.Filter{"app": {"web"}})
			ready := 0
			for i := range all {
				if all[i].Status.Ready && !all[i].Meta.Deleting() {
					victim, ready = all[i], ready+1
				}
			}
			return err == nil && ready == pods
		})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := kind.Delete(ctx, victim.Meta.Namespace, victim.Meta.Name, victim.Meta.UID); err != nil {
			return err
		}
		var ans api.DrainedAnswer
		path := client.Path(api.Pods.Info(), victim.Meta.Namespace, victim.Meta.Name) + "/drained"
		if err := c.client.Call(ctx, http.MethodGet, path, url.Values{"timeout": {"30s"}}, nil, &ans); err != nil {
			return err
		}
		if !ans.Drained {
			return fmt.Errorf("%s: proxies that do not follow: %v", victim.Ref(), ans.Waiting)
		}
		times = append(times, time.Since(began))
	}
	sum := time.Duration(0)
	for _, t := range times {
		sum += t
	}
	report(fmt.Sprintf("ServiceChange/nodes=%d", s.proxied), len(times), sum, value{quantile(times, 0.5), "p50-ms"}, value{quantile(times, 0.99), "p99-ms"})
	return nil
}
