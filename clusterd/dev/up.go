//go:build linux

package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Up makes the cluster, or starts what of it does not run, and waits until
// every node is ready.
func (c *Cluster) Up(ctx context.Context, nodes, servers int) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	p, err := c.up(ctx, nodes, servers)
	unlock()
	if err != nil {
		return err
	}
	return c.await(ctx, p, p.Members())
}

func (c *Cluster) up(ctx context.Context, nodes, servers int) (Plan, error) {
	p, err := c.plan(nodes, servers)
	if err != nil {
		return p, err
	}
	if _, err := mirror(c.mirrorDir(), filepath.Join(c.cfg.Bin, "terraform-provider-clusterd"), time.Now()); err != nil {
		return p, err
	}
	if err := os.WriteFile(c.cliConfigFile(), []byte(cliConfig(c.mirrorDir())), 0o644); err != nil {
		return p, err
	}
	if err := c.hubUp(p); err != nil {
		return p, err
	}
	// Servers that were members before need each other to start; new ones need
	// those that are there.
	var back []Member
	for _, m := range p.Members() {
		if !m.Server || !c.isMember(m) {
			continue
		}
		if err := c.boot(ctx, p, m); err != nil {
			return p, err
		}
		back = append(back, m)
	}
	for _, m := range back {
		if err := c.awaitServer(ctx, p, m); err != nil {
			return p, err
		}
	}
	for _, m := range p.Members() {
		if m.Server && c.isMember(m) {
			continue
		}
		if err := c.boot(ctx, p, m); err != nil {
			return p, err
		}
		if m.Server {
			if err := c.awaitServer(ctx, p, m); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// isMember reports whether a server has founded or joined the cluster.
func (c *Cluster) isMember(m Member) bool {
	_, err := os.Stat(c.keysFile(m))
	return err == nil
}

// keysFile is where a server keeps what it shares with the others.
func (c *Cluster) keysFile(m Member) string { return filepath.Join(c.dataDir(m), "keys.json") }

// boot makes sure the member runs. One that was stopped starts like a machine
// after a power cut: with its disk, and nothing else of before. One whose
// process alone is gone is just started again.
func (c *Cluster) boot(ctx context.Context, p Plan, m Member) error {
	if _, ok := c.running(m); ok {
		return nil
	}
	if !c.space(m.Name).exists() {
		if _, err := c.bury(m); err != nil {
			return fmt.Errorf("clean up after %s: %w", m.Name, err)
		}
		boot, err := c.bootOf(ctx, p, m)
		if err != nil {
			return err
		}
		c.before[m.Name] = boot
	}
	if err := c.plug(p, m); err != nil {
		return err
	}
	if m.Server {
		c.cfg.Say("server %s: starting at %s", m.Name, m.Addr)
		args := []string{"server", "--name", m.Name, "--data-dir", c.dataDir(m), "--advertise", m.Addr.String()}
		if m != p.Members()[0] { // the founder joins nobody
			token, err := c.joinToken(ctx, p, api.RoleServer, c.keysFile(m))
			if err != nil {
				return err
			}
			args = append(args, "--token-file", token)
			for _, o := range p.Members() {
				if o.Server && c.isMember(o) {
					args = append(args, "--join", o.Addr.String())
				}
			}
		}
		return c.start(m, filepath.Base(c.cfg.Exe), args...)
	}
	c.cfg.Say("node %s: starting at %s", m.Name, m.Addr)
	args, err := c.agentArgs(ctx, p, m)
	if err != nil {
		return err
	}
	return c.start(m, "nodeagent", args...)
}

// bootOf returns the last boot of a node that the control plane has heard of.
// A node that was deleted there forgets who it was: it joins anew.
func (c *Cluster) bootOf(ctx context.Context, p Plan, m Member) (string, error) {
	cl, err := c.client(p)
	if err != nil || m.Server {
		return "", nil // the control plane has not been up yet
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	n, err := client.Of(cl, api.Nodes).Get(ctx, "", m.Name)
	switch {
	case api.Is(err, api.NotFound):
		return "", os.RemoveAll(c.identityDir(m))
	case err != nil:
		return "", nil // it is down: the node starts as it was
	}
	return n.Status.BootID, nil
}

// identityDir is where a node keeps its certificate.
func (c *Cluster) identityDir(m Member) string { return filepath.Join(c.dataDir(m), "identity") }

func (c *Cluster) agentArgs(ctx context.Context, p Plan, m Member) ([]string, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("ask for this machine's memory: %w", err)
	}
	cpu, mem := share(runtime.NumCPU(), info.Totalram*uint64(info.Unit), p.Nodes)
	token, err := c.nodeToken(ctx, p, m)
	if err != nil {
		return nil, err
	}
	server := p.Members()[0]
	return []string{"run", "--name", m.Name, "--address", m.Addr.String(), "--server", server.Addr.String() + ":7443",
		"--token-file", token, "--data-dir", c.dataDir(m), "--run-dir", c.runDir(m), "--cgroup", c.cgroup(m.Name),
		"--allocatable-cpu", cpu, "--allocatable-memory", mem}, nil
}

// nodeToken returns the file of a token the node can join with. A node with a
// certificate needs none, so the control plane may be down.
func (c *Cluster) nodeToken(ctx context.Context, p Plan, m Member) (path string, err error) {
	if id, err := pki.LoadIdentity(c.identityDir(m)); err == nil && time.Now().Before(id.Leaf().NotAfter) {
		return c.tokenFile(api.RoleNode), nil
	}
	return c.joinToken(ctx, p, api.RoleNode, "")
}

func (c *Cluster) tokenFile(role string) string { return filepath.Join(c.run, role+".token") }

// joinToken returns the file of a token of the role. Who has the file proof has
// joined, and needs none.
func (c *Cluster) joinToken(ctx context.Context, p Plan, role, proof string) (path string, err error) {
	path = c.tokenFile(role)
	if _, err := os.Stat(proof); err == nil {
		return path, nil
	}
	if fi, err := os.Stat(path); err == nil && time.Since(fi.ModTime()) < tokenLife/2 {
		return path, nil
	}
	cl, err := c.client(p)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	_, _, cacert, err := c.credentials(p)
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(cacert)
	if err != nil {
		return "", err
	}
	pin, err := pki.PinOf(ca)
	if err != nil {
		return "", err
	}
	tok := pki.NewJoinToken(pin)
	o := &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{
		Role: role, Hash: tok.Hash(), Description: "clusterd dev", ExpiresAt: time.Now().Add(tokenLife).UTC().Truncate(time.Second),
	}}
	if _, err := client.Of(cl, api.Tokens).Create(ctx, o); err != nil {
		return "", fmt.Errorf("make a join token: %w", err)
	}
	return path, pki.WriteFile(path, []byte(tok.Reveal()+"\n"))
}

// tokenLife is how long a join token is good for.
const tokenLife = time.Hour

const (
	serverBound = 30 * time.Second
	nodeBound   = 90 * time.Second
	silence     = 3 * time.Second // of the control plane, until it counts as down
	poll        = 100 * time.Millisecond
)

// awaitServer waits until the server answers, or too few of them run for that.
func (c *Cluster) awaitServer(ctx context.Context, p Plan, m Member) error {
	ctx, cancel := context.WithTimeout(ctx, serverBound)
	defer cancel()
	var last error
	for {
		if _, ok := c.running(m); !ok {
			return c.died(m)
		}
		cl, err := c.client(p)
		if err == nil {
			err = cl.Use([]string{m.url()})
		}
		if err == nil {
			try, done := context.WithTimeout(ctx, 2*time.Second)
			_, err = client.Of(cl, api.Servers).Get(try, "", m.Name)
			done()
			cl.Close()
		}
		if err == nil {
			c.cfg.Say("server %s: ready", m.Name)
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if up, all := c.servers(p); all > 1 && up <= all/2 {
			c.cfg.Say("server %s: running; with %d of %d servers there is no majority yet: start another with clusterd dev server start", m.Name, up, all)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("server %s does not answer: %w; its log is %s", m.Name, last, c.log(m))
		case <-time.After(poll):
		}
	}
}

// servers counts the servers that are members, and those of them that run.
func (c *Cluster) servers(p Plan) (up, all int) {
	for _, m := range p.Members() {
		if !m.Server || !c.isMember(m) {
			continue
		}
		all++
		if _, ok := c.running(m); ok {
			up++
		}
	}
	return up, all
}

// await waits until every node among members is ready, saying so of each.
func (c *Cluster) await(ctx context.Context, p Plan, members []Member) error {
	ctx, cancel := context.WithTimeout(ctx, nodeBound)
	defer cancel()
	cl, err := c.client(p)
	if err != nil {
		return err
	}
	defer cl.Close()
	said := map[string]bool{}
	silent := time.Now().Add(silence)
	for {
		waiting := ""
		for _, m := range members {
			if m.Server || said[m.Name] {
				continue
			}
			if _, ok := c.running(m); !ok {
				return c.died(m)
			}
			n, err := client.Of(cl, api.Nodes).Get(ctx, "", m.Name)
			if api.Is(err, api.Unready) && time.Now().After(silent) {
				c.cfg.Say("node %s: running; the control plane does not answer, so nobody can say whether it is ready", m.Name)
				said[m.Name] = true
				continue
			}
			booted := err == nil && (n.Status.BootID != c.before[m.Name] || n.Status.BootID == "")
			if booted && n.Status.Health.Verdict == api.VerdictReady {
				said[m.Name] = true
				c.cfg.Say("node %s: ready", m.Name)
				continue
			}
			waiting = "node " + m.Name + " is " + healthOf(n, err)
			if err == nil && !booted {
				waiting = "node " + m.Name + " has not reported since it started"
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: its log is in %s", waiting, c.logs())
		case <-time.After(poll):
		}
	}
}

// healthOf is what the cluster thinks of a node, in words.
func healthOf(n *api.Node, err error) string {
	switch {
	case api.Is(err, api.NotFound):
		return "not joined yet"
	case err != nil:
		return "unknown: " + err.Error()
	case n.Status.Health.Message != "":
		return string(n.Status.Health.Verdict) + ": " + n.Status.Health.Message
	case n.Status.Health.Verdict == "":
		return string(api.VerdictJoining)
	}
	return string(n.Status.Health.Verdict)
}

// died says how a process ended that should run: with its last words.
func (c *Cluster) died(m Member) error {
	b, err := os.ReadFile(c.log(m))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not run", m.Name)
	}
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return fmt.Errorf("%s ended; the end of its log %s:\n  %s", m.Name, c.log(m), strings.Join(lines[max(0, len(lines)-8):], "\n  "))
}
