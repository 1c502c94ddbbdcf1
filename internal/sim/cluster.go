//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// cluster is servers and hollow nodes, each a process.
type cluster struct {
	sizes
	dir     string
	keep    bool
	addr    string // of the first server's API
	gossip  string
	peer    string
	server  *process // the first one
	others  []*process
	hollows []*process
	client  *client.Client
}

// start starts a server with a new data directory, and waits until it answers.
func start(ctx context.Context, s sizes) (*cluster, error) {
	c := &cluster{sizes: s, dir: s.log, keep: s.log != ""}
	var err error
	if c.keep {
		err = os.MkdirAll(c.dir, 0o755)
	}
	if err == nil {
		c.dir, err = os.MkdirTemp(c.dir, "clusterd-sim-")
	}
	if err != nil {
		return nil, err
	}
	for _, addr := range []*string{&c.addr, &c.gossip, &c.peer} {
		if *addr, err = freePort(); err != nil {
			return nil, err
		}
	}
	err = c.serve(ctx)
	if err == nil {
		err = c.crowd(ctx)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// crowd has more servers join the first, until all are voters.
func (c *cluster) crowd(ctx context.Context) error {
	for i := 2; i <= c.servers; i++ {
		file, err := c.token(ctx, api.RoleServer)
		if err != nil {
			return err
		}
		name := fmt.Sprint("s", i)
		args := []string{"server", "--data-dir", filepath.Join(c.dir, name), "--name", name, "--advertise", "127.0.0.1", "--token-file", file, "--join", c.addr}
		for _, flag := range []string{"--listen", "--gossip", "--peer"} {
			addr, err := freePort()
			if err != nil {
				return err
			}
			args = append(args, flag, addr)
		}
		p, err := run(filepath.Join(c.bin, "clusterd"), filepath.Join(c.dir, name+".log"), args...)
		if err != nil {
			return err
		}
		c.others = append(c.others, p)
		err = c.await(ctx, name+" is a voter", func() bool {
			s, err := client.Of(c.client, api.Servers).Get(ctx, "", name)
			return err == nil && s.Status.Role == api.ServerVoter
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// all returns the servers.
func (c *cluster) all() []*process { return append([]*process{c.server}, c.others...) }

// cpu is what all servers have used.
func (c *cluster) cpu() (sum time.Duration) {
	for _, p := range c.all() {
		sum += p.cpu()
	}
	return sum
}

// serve starts the server, which may have been there before.
func (c *cluster) serve(ctx context.Context) (err error) {
	data := filepath.Join(c.dir, "server")
	c.server, err = run(filepath.Join(c.bin, "clusterd"), filepath.Join(c.dir, "server.log"), "server",
		"--data-dir", data, "--name", "s1", "--listen", c.addr, "--advertise", "127.0.0.1", "--gossip", c.gossip, "--peer", c.peer,
		"--pods", "10.0.0.0/9", "--services", "10.128.0.0/16")
	if err != nil {
		return err
	}
	return c.await(ctx, "the server answers", func() bool {
		token, err := os.ReadFile(filepath.Join(data, "admin.token"))
		if err != nil {
			return false
		}
		roots, err := pki.LoadRoots(filepath.Join(data, "ca.crt"))
		if err != nil {
			return false
		}
		if c.client == nil {
			c.client, err = client.New(client.Config{Addresses: []string{"https://" + c.addr}, TLS: roots, Token: strings.TrimSpace(string(token)), UserAgent: "sim"})
		}
		if err == nil {
			_, _, err = client.Of(c.client, api.Servers).List(ctx, "", nil)
		}
		return err == nil
	})
}

// join starts n hollow nodes in so many processes, and waits until all of them
// are ready for pods.
func (c *cluster) join(ctx context.Context, n, processes int, args ...string) error {
	file, err := c.token(ctx, api.RoleNode)
	if err != nil {
		return err
	}
	for i := range processes {
		some := n / processes
		if i < n%processes {
			some++
		}
		p, err := run(filepath.Join(c.bin, "nodeagent"), filepath.Join(c.dir, fmt.Sprintf("hollow-%d.log", i)), append([]string{"hollow",
			"--nodes", fmt.Sprint(some), "--name", fmt.Sprintf("h%d", i), "--server", c.addr, "--token-file", file}, args...)...)
		if err != nil {
			return err
		}
		c.hollows = append(c.hollows, p)
	}
	// To list thousands again and again would be most of the work.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	nodes := reconcile.NewCache(c.client, api.Nodes, hclog.NewNullLogger())
	go func() { _ = nodes.Run(watching) }() // it ends as it is told to
	return c.await(ctx, "all nodes are ready", func() bool {
		ready := 0
		for n := range nodes.All() {
			if n.Status.Health.Schedulable() {
				ready++
			}
		}
		return ready == n
	})
}

// token makes a token to join with, and returns its file.
func (c *cluster) token(ctx context.Context, role string) (string, error) {
	ca, err := os.ReadFile(filepath.Join(c.dir, "server", "ca.crt"))
	if err != nil {
		return "", err
	}
	pin, err := pki.PinOf(ca)
	if err != nil {
		return "", err
	}
	token := pki.NewJoinToken(pin)
	_, err = client.Of(c.client, api.Tokens).Create(ctx, &api.Token{
		Meta: api.Meta{Name: token.ID}, Spec: api.TokenSpec{Role: role, Hash: token.Hash(), Description: "sim"},
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.dir, "token-"+token.ID)
	return file, os.WriteFile(file, []byte(token.Reveal()), 0o600)
}

// await asks until met, or until nothing is to be expected any more.
func (c *cluster) await(ctx context.Context, what string, met func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for !met() {
		if dead := c.dead(); dead != nil {
			return fmt.Errorf("%s: %w", what, dead)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not so after %s: %s", c.timeout, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func (c *cluster) dead() error {
	for _, p := range append(c.all(), c.hollows...) {
		select {
		case <-p.ended:
			return fmt.Errorf("a process has ended: see %s", p.log)
		default:
		}
	}
	return nil
}

// stop ends the processes, hollow nodes first.
func (c *cluster) stop() {
	c.leave()
	for _, p := range c.all() {
		if p != nil {
			p.stop()
		}
	}
	if c.client != nil {
		c.client.Close()
	}
	if !c.keep {
		os.RemoveAll(c.dir)
	}
}

// leave ends the hollow nodes.
func (c *cluster) leave() {
	for _, p := range c.hollows {
		p.stop()
	}
	c.hollows = nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	return addr, l.Close()
}
