//go:build linux

// Command sim measures a cluster at scale: a real clusterd with etcd on disk,
// and hollow nodes in processes of their own, over real connections. It prints
// what it finds in Go's benchmark format. `make sim` runs it.
//
// Invariants: everything that is measured goes through the API over TLS; what
// it starts ends with it; nothing it does needs root. Times depend on what else
// the machine does, so each comes with the processor time it took.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// sizes is what to measure at.
type sizes struct {
	bin       string
	log       string
	servers   int
	nodes     int
	pods      int
	replicas  int // of an app
	processes int
	runNodes  int // that run their pods
	runPods   int
	proxied   int // nodes of the service measurement
	rate      int // requests a second
	steady    time.Duration
	timeout   time.Duration
}

func main() {
	var s sizes
	flag.StringVar(&s.bin, "bin", "bin", "directory of clusterd and nodeagent")
	flag.StringVar(&s.log, "log", "", "directory for the logs and data of what is started; by default one that is removed")
	flag.IntVar(&s.servers, "servers", 1, "servers of each cluster; what the server is said to spend is the sum of all, its memory that of the first")
	flag.IntVar(&s.nodes, "nodes", 1000, "hollow nodes to bind pods to, which do not run them")
	flag.IntVar(&s.pods, "pods", 10_000, "pods to bind to them")
	flag.IntVar(&s.runNodes, "run-nodes", 300, "hollow nodes that run their pods")
	flag.IntVar(&s.runPods, "run-pods", 3000, "pods to run on them")
	flag.IntVar(&s.replicas, "replicas", 100, "pods of one app")
	flag.IntVar(&s.processes, "processes", 2, "processes that the hollow nodes are in")
	flag.IntVar(&s.proxied, "proxied", 100, "hollow nodes that follow services, for the way of a change to all of them")
	flag.IntVar(&s.rate, "rate", 200, "requests a second to measure the API with")
	flag.DurationVar(&s.steady, "steady", 20*time.Second, "how long to watch a cluster in which nothing happens")
	flag.DurationVar(&s.timeout, "timeout", 10*time.Minute, "how long any step may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error: "+err.Error())
		os.Exit(1)
	}
}

func (s sizes) run(ctx context.Context) error {
	fmt.Printf("goos: %s\ngoarch: %s\npkg: github.com/clusterd/terraform-provider-clusterd/internal/sim\nservers: %d\n# load when it began: %s\n", runtime.GOOS, runtime.GOARCH, s.servers, load())
	for _, part := range []struct {
		name    string
		nodes   int
		measure func(context.Context, *cluster) error
	}{{"services", s.proxied, s.services}, {"run", s.runNodes, s.running}, {"bind", s.nodes, s.binding}} {
		if part.nodes == 0 {
			continue
		}
		if err := s.within(ctx, part.measure); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	fmt.Printf("# load when it ended: %s\n", load())
	return nil
}

// within runs f with a cluster of its own.
func (s sizes) within(ctx context.Context, f func(context.Context, *cluster) error) error {
	c, err := start(ctx, s)
	if err != nil {
		return err
	}
	defer c.stop()
	return f(ctx, c)
}

// services measures an idle server, and how long it takes until every node's
// proxy has followed a change of a service.
func (s sizes) services(ctx context.Context, c *cluster) error {
	if err := s.idle(ctx, "Idle", c, c.server); err != nil {
		return err
	}
	if err := c.join(ctx, s.proxied, 1, "--proxy=true"); err != nil {
		return err
	}
	return s.changes(ctx, c)
}

// running measures nodes that run their pods.
func (s sizes) running(ctx context.Context, c *cluster) error {
	if err := s.joining(ctx, c, s.runNodes); err != nil {
		return err
	}
	all := append([]*process{c.server}, c.hollows...)
	if err := s.idle(ctx, fmt.Sprintf("Steady/nodes=%d", s.runNodes), c, all...); err != nil {
		return err
	}
	if err := s.place(ctx, c, "Running", s.runNodes, s.runPods); err != nil {
		return err
	}
	return s.idle(ctx, fmt.Sprintf("Steady/nodes=%d/pods=%d", s.runNodes, s.runPods), c, all...)
}

// binding measures the control plane alone, and the API at that size.
func (s sizes) binding(ctx context.Context, c *cluster) error {
	if err := s.joining(ctx, c, s.nodes, "--idle"); err != nil {
		return err
	}
	if err := s.place(ctx, c, "Bound", s.nodes, s.pods); err != nil {
		return err
	}
	if err := s.requests(ctx, c); err != nil || s.servers > 1 {
		return err // the others would go on meanwhile
	}
	return s.coldStart(ctx, c)
}

// joining measures how long nodes take to join, and what they cost.
func (s sizes) joining(ctx context.Context, c *cluster, nodes int, args ...string) error {
	before := c.server.memory()
	took, err := timed(func() error { return c.join(ctx, nodes, s.processes, append(args, "--proxy=false")...) })
	if err != nil {
		return err
	}
	hollow := 0.0
	for _, p := range c.hollows {
		hollow += p.memory()
	}
	report(fmt.Sprintf("Join/nodes=%d", nodes), nodes, took,
		value{hollow * 1000 / float64(nodes), "KB/hollow-node"}, value{(c.server.memory() - before) * 1000 / float64(nodes), "server-KB/node"})
	return nil
}
