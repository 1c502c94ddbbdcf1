//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Usage reads the control groups of the container's first process.
func (r *Runtime) Usage(ctx context.Context, id string) (runtime.Usage, error) {
	st, err := r.Status(ctx, id)
	if err != nil {
		return runtime.Usage{}, err
	}
	if st.State != runtime.Running {
		return runtime.Usage{}, fmt.Errorf("usage of container %s: %w", id, runtime.ErrNotRunning)
	}
	u, err := usageOf(st.PID)
	if os.IsNotExist(err) {
		err = runtime.ErrNotRunning // it has just ended
	}
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("usage of container %s: %w", id, err)
	}
	return u, nil
}

const cgroupRoot = "/sys/fs/cgroup"

// checkCgroups demands of the hierarchies at root what limits need: a node that
// lacks a controller would be ready, and could not start a single pod.
func checkCgroups(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	unified := strings.Fields(string(b))
	var lacks []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		has := slices.Contains(unified, c)
		if err != nil { // version 1: a hierarchy each
			_, missing := os.Stat(filepath.Join(root, c, "cgroup.procs"))
			has = missing == nil
		}
		if !has {
			lacks = append(lacks, c)
		}
	}
	if lacks != nil {
		return fmt.Errorf("this machine can limit no pods: of the cgroup controllers at %s these are missing: %s; mount them, or enable them in the kernel's command line", root, strings.Join(lacks, ", "))
	}
	return nil
}

// usageOf reads what the groups of a process have used, in version 2 or 1.
func usageOf(pid int) (u runtime.Usage, err error) {
	groups, err := groupsOf(pid)
	if err != nil {
		return u, err
	}
	if dir, ok := groups["cpuacct"]; ok {
		var ns int64
		if ns, err = number(filepath.Join(cgroupRoot, "cpuacct", dir, "cpuacct.usage")); err != nil {
			return u, err
		}
		u.CPU = time.Duration(ns)
	} else if us, err := field(filepath.Join(cgroupRoot, groups[""], "cpu.stat"), "usage_usec"); err != nil {
		return u, err
	} else {
		u.CPU = time.Duration(us) * time.Microsecond
	}
	used, stat, idle := filepath.Join(cgroupRoot, groups[""], "memory.current"), filepath.Join(cgroupRoot, groups[""], "memory.stat"), "inactive_file"
	if dir, ok := groups["memory"]; ok {
		used, stat, idle = filepath.Join(cgroupRoot, "memory", dir, "memory.usage_in_bytes"), filepath.Join(cgroupRoot, "memory", dir, "memory.stat"), "total_inactive_file"
	}
	if u.Memory, err = number(used); err != nil {
		return u, err
	}
	cache, err := field(stat, idle)
	u.Memory = max(0, u.Memory-cache)
	return u, err
}

// crowd returns how many processes and threads the group of a process has, and
// how many it may have; 0 is any number.
func crowd(pid int) (has, may int64, err error) {
	groups, err := groupsOf(pid)
	if err != nil {
		return 0, 0, err
	}
	dir := filepath.Join(cgroupRoot, groups[""])
	if v1, ok := groups["pids"]; ok {
		dir = filepath.Join(cgroupRoot, "pids", v1)
	}
	if has, err = number(filepath.Join(dir, "pids.current")); err != nil {
		return 0, 0, err
	}
	if may, err = number(filepath.Join(dir, "pids.max")); errors.Is(err, strconv.ErrSyntax) {
		return has, 0, nil // "max"
	}
	return has, may, err
}

// groupsOf returns the control groups of a process by controller; "" is version 2.
func groupsOf(pid int) (map[string]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			groups[controller] = parts[2]
		}
	}
	return groups, nil
}

func number(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// field reads one line "name value" of a file.
func field(path, name string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
