//go:build linux

package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// StopNode cuts a node's power: its link and all its processes are gone at once.
func (c *Cluster) StopNode(word string) error { return c.cut(word, false) }

// StopServer kills a server as kill -9 does.
func (c *Cluster) StopServer(word string) error { return c.cut(word, true) }

// seize finds a member of the cluster and keeps other commands out until unlock.
func (c *Cluster) seize(word string, server bool) (p Plan, m Member, unlock func(), err error) {
	if unlock, err = lock(); err != nil {
		return p, m, nil, err
	}
	if p, err = c.Plan(); err == nil {
		m, err = p.Member(word, server)
	}
	if err != nil {
		unlock()
	}
	return p, m, unlock, err
}

func (c *Cluster) cut(word string, server bool) error {
	_, m, unlock, err := c.seize(word, server)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.space(m.Name).exists() {
		c.cfg.Say("%s is stopped already", m.Name)
		return nil
	}
	if server { // the machine lives on, only its process does not
		t, err := c.territory(m)
		if err != nil {
			return err
		}
		_, err = t.kill()
		c.cfg.Say("server %s: killed", m.Name)
		return err
	}
	if err := c.setLink(m, false); err != nil {
		return err
	}
	n, err := c.bury(m)
	if err != nil {
		return fmt.Errorf("stop %s: %w", m.Name, err)
	}
	c.cfg.Say("node %s: stopped, as if its power was cut (%d processes)", m.Name, n.Processes)
	return nil
}

// StartNode boots a node and waits until it is ready.
func (c *Cluster) StartNode(ctx context.Context, word string) error {
	return c.restart(ctx, word, false)
}

// StartServer starts a server and waits until it answers.
func (c *Cluster) StartServer(ctx context.Context, word string) error {
	return c.restart(ctx, word, true)
}

func (c *Cluster) restart(ctx context.Context, word string, server bool) error {
	p, m, err := c.bootOne(ctx, word, server)
	if err != nil {
		return err
	}
	if server {
		return c.awaitServer(ctx, p, m)
	}
	return c.await(ctx, p, []Member{m})
}

func (c *Cluster) bootOne(ctx context.Context, word string, server bool) (p Plan, m Member, err error) {
	p, m, unlock, err := c.seize(word, server)
	if err != nil {
		return p, m, err
	}
	defer unlock()
	if !c.space("hub").exists() {
		return p, m, fmt.Errorf("cluster %s does not run: start it with clusterd dev up --name %s", p.Name, p.Name)
	}
	if _, ok := c.running(m); ok {
		c.cfg.Say("%s runs already", m.Name)
		return p, m, nil
	}
	return p, m, c.boot(ctx, p, m)
}

// Link connects a member to the others, or cuts it off while it goes on running.
// A number is a node's, and s2 the second server.
func (c *Cluster) Link(word string, up bool) error {
	_, m, unlock, err := c.seize(word, strings.HasPrefix(word, "s"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.setLink(m, up); err != nil {
		return err
	}
	c.cfg.Say("%s: link %s", m.Name, map[bool]string{true: "up", false: "down"}[up])
	return nil
}

// territory is where the processes of a member are: in its namespace, in those
// of its pods, in its cgroup.
func (c *Cluster) territory(m Member) (territory, error) {
	t := territory{spaces: map[uint64]bool{}, cgroup: c.cgroup(m.Name)}
	if ino, err := c.space(m.Name).inode(); err == nil {
		t.spaces[ino] = true
	}
	pinned, err := mountsBelow(c.runDir(m))
	if err != nil {
		return t, err
	}
	for _, mnt := range pinned {
		var ino uint64
		if strings.HasPrefix(mnt.root, "net:[") {
			if _, err := fmt.Sscanf(mnt.root, "net:[%d]", &ino); err == nil {
				t.spaces[ino] = true
			}
		}
	}
	// Whatever went wrong, this machine's own namespace is never the cluster's.
	for _, pid := range []string{"self", "1"} {
		var st unix.Stat_t
		if unix.Stat("/proc/"+pid+"/ns/net", &st) == nil {
			delete(t.spaces, st.Ino)
		}
	}
	return t, nil
}

// Removed counts what was taken away.
type Removed struct{ Processes, Mounts, Namespaces, Cgroups int }

func (r *Removed) add(o Removed) {
	r.Processes += o.Processes
	r.Mounts += o.Mounts
	r.Namespaces += o.Namespaces
	r.Cgroups += o.Cgroups
}

// bury takes away all that is left of a member but its disk.
func (c *Cluster) bury(m Member) (r Removed, err error) {
	t, err := c.territory(m)
	if err != nil {
		return r, err
	}
	if r.Processes, err = t.kill(); err != nil {
		return r, err
	}
	if err := c.unplug(m.Name); err != nil {
		return r, err
	}
	if r.Mounts, err = unmount(c.runDir(m), c.dataDir(m)); err != nil {
		return r, err
	}
	if c.space(m.Name).exists() {
		r.Namespaces = 1
	}
	if err := c.space(m.Name).remove(); err != nil {
		return r, err
	}
	if r.Cgroups, err = removeCgroups(c.cgroup(m.Name)); err != nil {
		return r, err
	}
	return r, errors.Join(os.RemoveAll(c.runDir(m)), removeFile(c.pidFile(m)))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
