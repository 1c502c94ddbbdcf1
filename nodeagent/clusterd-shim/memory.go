//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// memoryCgroup finds the directory of a process's memory controller, on the
// unified hierarchy or on version 1's own.
func memoryCgroup(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	unified := ""
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) < 3:
		case f[1] == "memory":
			return filepath.Join("/sys/fs/cgroup/memory", f[2])
		case f[0] == "0":
			unified = filepath.Join("/sys/fs/cgroup", f[2])
		}
	}
	return unified
}

// oomKills counts the processes of a cgroup that were killed for want of memory.
func oomKills(dir string) (n int) {
	if dir == "" {
		return 0
	}
	for _, name := range []string{"memory.oom_control", "memory.events"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == "oom_kill" {
				fmt.Sscan(v, &n)
				return n
			}
		}
	}
	return 0
}
