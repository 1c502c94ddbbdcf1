// Package testcluster runs a whole cluster inside a test: a server with real
// TLS on loopback, and nodes that join it over the wire with the real agent and
// real gossip; only their containers are state machines.
//
// Invariants: nothing is shared between two clusters, so tests run in
// parallel; a server that is stopped and started again keeps its address and
// its data; everything ends with the test.
package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Config of a cluster. The zero value is a server with its objects in memory
// and no nodes.
type Config struct {
	Nodes   int  // called w1, w2, …
	Servers int  // called s1, s2, …; one when unset, more imply Etcd
	Etcd    bool // keep objects in embedded etcd, on disk
	// External is an etcd that the servers share instead, if it has endpoints.
	External server.Etcd
	// Separate runs the server as a process of its own, which Kill can end as
	// kill -9 does. It implies Etcd, and needs Main as the package's TestMain.
	Separate bool
	// Registry is asked for the digests of images; by default that which the nodes
	// fetch from. A server in a process of its own always asks that.
	Registry apiserver.Registry
	// Log gets everybody's log. By default it goes to the file named by
	// CLUSTERD_TEST_LOG, or nowhere.
	Log hclog.Logger
}

// Cluster is a running cluster.
type Cluster struct {
	Server  *Process   // the founder of the control plane
	Servers []*Process // all of them, the founder first
	Nodes   map[string]*Node

	t       testing.TB
	cfg     Config
	log     hclog.Logger
	dir     string
	at      []place // of the servers
	joining string  // token
}

// place is where a server is, also after a restart: host:port each.
type place struct{ api, gossip, peer string }

// Start starts a cluster that ends with the test. It returns once the API
// answers and every node is ready for pods.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	c := &Cluster{t: t, cfg: cfg, dir: t.TempDir(), Nodes: map[string]*Node{}}
	if c.log = cfg.Log; c.log == nil {
		c.log = fileLog(t)
	}
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			n.Kill()
		}
		for _, s := range slices.Backward(c.Servers) {
			s.Stop()
		}
	})
	for range max(cfg.Servers, 1) {
		c.AddServer()
	}
	for i := range cfg.Nodes {
		c.AddNode(fmt.Sprintf("w%d", i+1))
	}
	c.Await("every node is ready", func(ctx context.Context) (bool, error) {
		nodes, _, err := client.Of(c.Client(), api.Nodes).List(ctx, "", nil)
		ready := 0
		for _, n := range nodes {
			if n.Status.Health.Schedulable() {
				ready++
			}
		}
		return ready == cfg.Nodes, err
	})
	return c
}

// AddServer starts one more server. It is ready when this returns.
func (c *Cluster) AddServer() *Process {
	c.t.Helper()
	i := len(c.Servers)
	p := &Process{name: fmt.Sprintf("s%d", i+1), t: c.t}
	at, dir := place{"127.0.0.1:0", "127.0.0.1:0", freePort(c.t)}, c.dir
	if i > 0 {
		dir = filepath.Join(c.dir, p.name)
		at = place{freePort(c.t), freePort(c.t), at.peer}
	}
	c.at, c.Servers = append(c.at, at), append(c.Servers, p)
	p.start = func(ctx context.Context) (running, error) {
		return c.startServer(ctx, p, dir, &c.at[i])
	}
	if i == 0 {
		c.Server = p
	}
	p.Start()
	return p
}

// freePort is an address on loopback that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startServer starts a server in this process, or in one of its own.
func (c *Cluster) startServer(ctx context.Context, p *Process, dir string, at *place) (running, error) {
	name := p.name
	cfg := server.Config{
		Name: name, Level: p.Level, DataDir: dir, Listen: at.api, Gossip: at.gossip, Peer: at.peer,
		InMemory: !c.cfg.Etcd && !c.cfg.Separate && c.cfg.Servers < 2 && c.cfg.External.Endpoints == nil, NoSync: true,
		Etcd: c.cfg.External,
	}
	if _, err := os.Stat(dir); name != "s1" && errors.Is(err, os.ErrNotExist) {
		cfg.Join, cfg.JoinToken = []string{c.at[0].api}, c.newToken(api.RoleServer)
	}
	if c.cfg.Separate {
		return startSeparate(cfg, &at.api, &at.gossip)
	}
	if cfg.Log, cfg.Registry = c.log.Named(name), c.cfg.Registry; cfg.Registry == nil {
		cfg.Registry = offers{}
	}
	s, err := server.Open(ctx, cfg)
	if err != nil {
		return running{}, err
	}
	at.api, at.gossip = s.Addr(), s.GossipAddr()
	return running{run: s.Run, ready: s.Ready()}, nil
}

// Leader returns the server that leads.
func (c *Cluster) Leader() (leader *Process) {
	c.t.Helper()
	c.Await("a server leads", func(ctx context.Context) (bool, error) {
		all, _, err := client.Of(c.Client(), api.Servers).List(ctx, "", nil)
		for _, s := range all {
			if s.Status.Role == api.ServerLeader {
				for _, p := range c.Servers {
					if p.name == s.Meta.Name && p.cancel != nil {
						leader = p
					}
				}
			}
		}
		return leader != nil, err
	})
	return leader
}

// AddNode joins a node, and starts it. It is ready a moment later.
func (c *Cluster) AddNode(name string) *Node {
	c.t.Helper()
	if c.joining == "" {
		c.joining = c.NewJoinToken()
	}
	n, err := newNode(c.t, name, c.addrs(), c.joining, c.dir, c.log)
	if err != nil {
		c.t.Fatalf("join %s: %v", name, err)
	}
	n.Start()
	c.Nodes[name] = n
	return n
}

// URL is where the API of the founder is: https://127.0.0.1:port.
func (c *Cluster) URL() string { return "https://" + c.Addr() }

// Addr is host:port of the founder's API.
func (c *Cluster) Addr() string { return c.at[0].api }

// addrs are host:port of the API of every server.
func (c *Cluster) addrs() (all []string) {
	for _, at := range c.at {
		all = append(all, at.api)
	}
	return all
}

// URLs are where the API of every server is.
func (c *Cluster) URLs() (all []string) {
	for _, addr := range c.addrs() {
		all = append(all, "https://"+addr)
	}
	return all
}

// CAFile is the path of the certificate to verify the API with.
func (c *Cluster) CAFile() string { return filepath.Join(c.dir, server.CACertFile) }

// Token is the admin's bearer token.
func (c *Cluster) Token() string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, server.AdminTokenFile))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// Env is the environment of a program that is to use the cluster.
func (c *Cluster) Env() map[string]string {
	return map[string]string{"CLUSTERD_ADDR": strings.Join(c.URLs(), ","), "CLUSTERD_TOKEN": c.Token(), "CLUSTERD_CACERT": c.CAFile()}
}

// Client returns a client with the admin's token.
func (c *Cluster) Client() *client.Client { return c.ClientOf(c.URLs()...) }

// ClientOf returns a client of some of the servers, by URL.
func (c *Cluster) ClientOf(urls ...string) *client.Client {
	c.t.Helper()
	roots, err := pki.LoadRoots(c.CAFile())
	if err != nil {
		c.t.Fatal(err)
	}
	cl, err := client.New(client.Config{Addresses: urls, Token: c.Token(), TLS: roots, UserAgent: "testcluster"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// NewJoinToken makes a token that any number of nodes may join with.
func (c *Cluster) NewJoinToken() string { return c.newToken(api.RoleNode) }

func (c *Cluster) newToken(role string) string {
	c.t.Helper()
	ca, err := os.ReadFile(c.CAFile())
	if err != nil {
		c.t.Fatal(err)
	}
	pin, err := pki.PinOf(ca)
	if err != nil {
		c.t.Fatal(err)
	}
	tok := pki.NewJoinToken(pin)
	_, err = client.Of(c.Client(), api.Tokens).Create(c.t.Context(), &api.Token{
		Meta: api.Meta{Name: tok.ID},
		Spec: api.TokenSpec{Role: role, Hash: tok.Hash(), Description: "testcluster"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return tok.Reveal()
}

// Await calls met until it reports true. It fails the test with what and
// met's last error after half a minute.
func (c *Cluster) Await(what string, met func(context.Context) (bool, error)) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	var last error
	for {
		ok, err := met(ctx)
		if err == nil && ok {
			return
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("still not so after 30 s: %s (last error: %v)", what, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func fileLog(t testing.TB) hclog.Logger {
	var out io.Writer = io.Discard
	if path := os.Getenv("CLUSTERD_TEST_LOG"); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		out = f
	}
	return hclog.New(&hclog.LoggerOptions{Name: t.Name(), Level: hclog.Debug, Output: out})
}
