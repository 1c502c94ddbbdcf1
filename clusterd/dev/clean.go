//go:build linux

package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killBound is how long processes may take to die of SIGKILL.
const killBound = 10 * time.Second

// kill ends every process of t at once and returns how many there were when
// the last is gone. What forks meanwhile is found by the next look.
func (t territory) kill() (killed int, err error) {
	seen := map[int]bool{}
	for deadline := time.Now().Add(killBound); ; time.Sleep(10 * time.Millisecond) {
		pids, err := t.processes()
		if err != nil || len(pids) == 0 {
			return len(seen), err
		}
		for _, pid := range pids {
			seen[pid] = true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return len(seen), fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		if time.Now().After(deadline) {
			return len(seen), fmt.Errorf("processes %v do not die", pids)
		}
	}
}

// mount is one line of /proc/self/mountinfo.
type mount struct {
	root  string // net:[4026532281] for a pinned namespace
	point string
}

// mountsBelow lists the mounts at or below any of the directories, the last
// made first.
func mountsBelow(dirs ...string) ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(b), dirs), nil
}

func parseMounts(info string, dirs []string) (out []mount) {
	for line := range strings.Lines(info) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		m := mount{unescape(f[3]), unescape(f[4])}
		if slices.ContainsFunc(dirs, func(d string) bool { return m.point == d || strings.HasPrefix(m.point, d+"/") }) {
			out = append(out, m)
		}
	}
	slices.Reverse(out)
	return out
}

// unescape undoes the octal escapes of mountinfo: \040 is a space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmount takes away every mount at or below the directories.
func unmount(dirs ...string) (n int, err error) {
	mounts, err := mountsBelow(dirs...)
	if err != nil {
		return 0, err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return n, fmt.Errorf("unmount %s: %w", m.point, err)
		}
		n++
	}
	return n, nil
}

const cgroupRoot = "/sys/fs/cgroup"

// cgroups lists the directories of a cgroup in every hierarchy there is.
func cgroups(group string) (dirs []string) {
	candidates, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", group))
	for _, d := range append(candidates, filepath.Join(cgroupRoot, group)) {
		if fi, err := os.Lstat(d); err == nil && fi.IsDir() {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// removeCgroups removes a cgroup and all below it. The kernel needs a moment
// after the death of the last process.
func removeCgroups(group string) (n int, err error) {
	for deadline := time.Now().Add(killBound); ; time.Sleep(20 * time.Millisecond) {
		var last error
		for _, top := range cgroups(group) {
			var all []string
			filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			slices.Reverse(all) // children first
			for _, d := range all {
				if err := unix.Rmdir(d); err == nil {
					n++
				} else if !errors.Is(err, unix.ENOENT) {
					last = fmt.Errorf("remove cgroup %s: %w", d, err)
				}
			}
		}
		if last == nil || time.Now().After(deadline) {
			return n, last
		}
	}
}

// removeEmptyCgroup removes a parent of cgroups once nothing else is in it.
func removeEmptyCgroup(group string) {
	for _, d := range cgroups(group) {
		_ = unix.Rmdir(d) // refused while another cluster is in it
	}
}
