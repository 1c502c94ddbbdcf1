//go:build linux

package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// Down removes every trace of the cluster and checks that it did.
func (c *Cluster) Down() error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	r, err := c.down()
	unlock()
	if err != nil {
		return err
	}
	for _, dir := range []string{runRoot, filepath.Dir(runRoot), Root, filepath.Dir(Root)} {
		_ = os.Remove(dir) // refused while something else is in it
	}
	removeEmptyCgroup("/clusterd")
	if r == (Removed{}) {
		c.cfg.Say("cluster %s: nothing was left of it", c.cfg.Name)
		return nil
	}
	c.cfg.Say("cluster %s: removed %d processes, %d mounts, %d network namespaces with their nft tables, %d cgroups, and its files",
		c.cfg.Name, r.Processes, r.Mounts, r.Namespaces, r.Cgroups)
	return nil
}

func (c *Cluster) down() (r Removed, err error) {
	p, err := c.Plan()
	if err != nil && !errors.Is(err, ErrNone) {
		// A broken plan must not keep the rest from being removed.
		c.cfg.Say("%s", err)
	}
	for _, m := range c.traces(p) {
		one, err := c.bury(m)
		r.add(one)
		if err != nil {
			return r, fmt.Errorf("remove %s: %w", m.Name, err)
		}
	}
	hub := c.space("hub")
	if hub.exists() {
		r.Namespaces++
	}
	if p.Subnet.IsValid() {
		if link, err := netlink.LinkByName(p.rootLink()); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				return r, fmt.Errorf("remove the link %s: %w", p.rootLink(), err)
			}
		}
	}
	if err := hub.remove(); err != nil {
		return r, err
	}
	n, err := removeCgroups(c.cgroup(""))
	if r.Cgroups += n; err != nil {
		return r, err
	}
	mounts, err := unmount(c.run, c.cfg.Dir)
	if r.Mounts += mounts; err != nil {
		return r, err
	}
	if err := errors.Join(os.RemoveAll(c.run), os.RemoveAll(c.cfg.Dir)); err != nil {
		return r, err
	}
	return r, c.verify()
}

// traces are the members of the plan, and those of which something is left all
// the same.
func (c *Cluster) traces(p Plan) []Member {
	members := p.Members()
	known := map[string]bool{"hub": true}
	for _, m := range members {
		known[m.Name] = true
	}
	pins, _ := filepath.Glob(filepath.Join(c.run, "netns", "*"))
	for _, path := range pins {
		if name := filepath.Base(path); !known[name] {
			members = append(members, Member{Name: name, Server: strings.HasPrefix(name, "s")})
		}
	}
	return members
}

// verify looks for what should be gone.
func (c *Cluster) verify() error {
	var left []string
	pids, err := territory{cgroup: c.cgroup("")}.processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	mounts, err := mountsBelow(c.run, c.cfg.Dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		left = append(left, "mount "+m.point)
	}
	for _, dir := range append(cgroups(c.cgroup("")), c.run, c.cfg.Dir) {
		if _, err := os.Lstat(dir); err == nil {
			left = append(left, dir)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("cluster %s is not quite gone; what is left: %s", c.cfg.Name, strings.Join(left, ", "))
	}
	return nil
}
