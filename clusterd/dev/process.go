//go:build linux

package dev

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// record names one process for good: ids are used again, start times are not.
type record struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the machine's boot
}

// start starts a program inside the member's namespace and records it.
func (c *Cluster) start(m Member, program string, args ...string) error {
	path := filepath.Join(c.cfg.Bin, program)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s is not beside clusterd: run make build (%w)", program, err)
	}
	if err := os.MkdirAll(c.logs(), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(c.log(m), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// What our caller left open, such as a lock, must not live on with the member.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("start %s of %s: %w", program, m.Name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a hang-up of our terminal is not theirs
	if err := c.space(m.Name).do(cmd.Start); err != nil {
		return fmt.Errorf("start %s of %s: %w", program, m.Name, err)
	}
	go cmd.Wait() // while we live, its end leaves no zombie
	stat, err := statOf(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("%s of %s ended at once: see %s", program, m.Name, c.log(m))
	}
	b, err := json.Marshal(record{cmd.Process.Pid, stat.start})
	if err != nil {
		return err
	}
	return os.WriteFile(c.pidFile(m), b, 0o644)
}

// environment is ours without what speaks of clusters, and with the directories
// of system programs, such as runc, which not every shell of root searches.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CLUSTERD_") && !strings.HasPrefix(kv, "SUDO_") && !strings.HasPrefix(kv, "TF_") && !strings.HasPrefix(kv, "PATH=") {
			env = append(env, kv)
		}
	}
	return append(env, "PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
}

// running returns the recorded process of the member if it still is that one.
func (c *Cluster) running(m Member) (pid int, ok bool) {
	b, err := os.ReadFile(c.pidFile(m))
	if err != nil {
		return 0, false
	}
	var r record
	if json.Unmarshal(b, &r) != nil {
		return 0, false
	}
	s, err := statOf(r.PID)
	return r.PID, err == nil && s.start == r.Start && s.state != 'Z' && s.state != 'X'
}

type stat struct {
	state byte
	start uint64
}

// statOf reads /proc/PID/stat.
func statOf(pid int) (s stat, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	return parseStat(b)
}

// parseStat reads the state and the start time, fields 3 and 22. The name
// before them may hold anything, but ends at the last parenthesis.
func parseStat(b []byte) (s stat, err error) {
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return s, errors.New("not a process's stat")
	}
	s.state = f[0][0]
	s.start, err = strconv.ParseUint(f[19], 10, 64)
	return s, err
}

// territory is where processes of a cluster can be.
type territory struct {
	spaces map[uint64]bool // inodes of network namespaces, never that of this process
	cgroup string          // "/clusterd/demo/w1": this one and all below
}

// processes returns those inside t. A zombie is nowhere any more.
func (t territory) processes() (pids []int, err error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
			continue
		}
		if t.spaces[st.Ino] || t.holds(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (t territory) holds(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && t.cgroup != "" && inCgroup(string(b), t.cgroup)
}

// inCgroup reports whether a /proc/PID/cgroup names the group or one below it.
func inCgroup(file, group string) bool {
	for line := range strings.Lines(file) {
		_, rest, _ := strings.Cut(line, ":")
		_, path, _ := strings.Cut(strings.TrimSpace(rest), ":")
		if path == group || strings.HasPrefix(path, group+"/") {
			return true
		}
	}
	return false
}
