//go:build linux

package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// space is a network namespace pinned as a file. It is entered with setns and
// not by `ip netns exec`, which would mount another /sys, without cgroups.
type space struct{ path string }

// exists reports whether the file pins a namespace, rather than just being there.
func (s space) exists() bool {
	var st unix.Statfs_t
	return unix.Statfs(s.path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// make creates and pins the namespace, unless it is there.
func (s space) make() error {
	if s.exists() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(s.path, nil, 0o444); err != nil {
		return err
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, s.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin the network namespace at %s: %w", s.path, err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// do runs f on a thread inside the namespace. A process that f starts is born there.
func (s space) do(f func() error) error {
	h, err := netns.GetFromPath(s.path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", s.path, err)
	}
	defer h.Close()
	return onThread(func() error {
		if err := netns.Set(h); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.path, err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own that ends with f: whatever f does to
// the thread, nothing else ever runs on it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// inode identifies the namespace: net:[inode].
func (s space) inode() (uint64, error) {
	if !s.exists() {
		return 0, os.ErrNotExist
	}
	var st unix.Stat_t
	if err := unix.Stat(s.path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// remove unpins the namespace: it ends with the last process in it.
func (s space) remove() error {
	for s.exists() {
		if err := unix.Unmount(s.path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unpin %s: %w", s.path, err)
		}
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// links returns a handle on the namespace's network devices.
func (s space) links() (*netlink.Handle, error) {
	h, err := netns.GetFromPath(s.path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", s.path, err)
	}
	defer h.Close()
	return netlink.NewHandleAt(h)
}
