package machinetest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestLocalClusters: two clusters live side by side, a partition and its end
// are seen, a kill -9 is mended, and what is taken down leaves no trace, while
// the other goes on.
func TestLocalClusters(t *testing.T) {
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		t.Skip("needs Linux")
	}
	before := traces(t, "side-b")
	a := up(t, "side-a")
	b := upWith(t, "side-b", 1, 1)
	if slices.Equal(a.env, b.env) {
		t.Fatalf("both clusters are the same: %v", a.env)
	}
	verdict := func(node string) api.Verdict {
		for _, n := range a.nodes(t) {
			if n.Meta.Name == node {
				return n.Status.Health.Verdict
			}
		}
		return ""
	}

	a.must(t, "dev", "link", "2", "down", "--name", a.name)
	eventually(t, 15*time.Second, "a node without a link is dead", func() bool { return verdict("w2") == api.VerdictDead })
	if v := verdict("w1"); v != api.VerdictReady {
		t.Errorf("w1 is %s", v)
	}
	a.must(t, "dev", "link", "w2", "up", "--name", a.name)
	eventually(t, 15*time.Second, "with its link it is ready", func() bool { return verdict("w2") == api.VerdictReady })

	for _, pid := range processes(t, "nodeagent run ", "/side-a/w3") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if out := a.must(t, "dev", "status", "--name", a.name); !strings.Contains(out, "ended") {
		t.Errorf("status does not show that w3's process ended:\n%s", out)
	}
	a.must(t, "dev", "up", "--name", a.name, "--nodes", "3")
	if out := a.must(t, "dev", "status", "--name", a.name); strings.Contains(out, "ended") {
		t.Errorf("up did not start what was missing:\n%s", out)
	}

	b.must(t, "dev", "node", "stop", "1", "--name", b.name)
	b.must(t, "dev", "node", "start", "1", "--name", b.name)
	b.must(t, "dev", "down", "--name", b.name)
	if left := traces(t, "side-b"); !slices.Equal(left, before) {
		t.Errorf("after down there is\n%s\nbefore there was\n%s", strings.Join(left, "\n"), strings.Join(before, "\n"))
	}
	b.must(t, "dev", "down", "--name", b.name) // again: nothing to do
	if v := verdict("w1"); v != api.VerdictReady {
		t.Errorf("the other cluster suffered: w1 is %s", v)
	}
	if out, err := exec.Command(filepath.Join(a.root, "bin/clusterd"), "dev", "node", "stop", "9", "--name", a.name).CombinedOutput(); err == nil || !strings.Contains(string(out), "want 1 to 3") {
		t.Errorf("stop of no node: %v %s", err, out)
	}
}

// traces lists what a cluster of the name has on this machine: processes,
// mounts, links, cgroups and files.
func traces(t *testing.T, name string) (out []string) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, _ := os.ReadFile(d + "/cmdline")
		group, _ := os.ReadFile(d + "/cgroup")
		if strings.Contains(string(cmdline), "/"+name+"/") || strings.Contains(string(group), "/"+name+"/") {
			out = append(out, "process "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/"+name) {
			out = append(out, "mount "+line)
		}
	}
	for _, pattern := range []string{"/run/clusterd/dev/" + name, "/var/lib/clusterd/dev/" + name, "/sys/fs/cgroup/clusterd/" + name, "/sys/fs/cgroup/*/clusterd/" + name} {
		found, _ := filepath.Glob(pattern)
		out = append(out, found...)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{} // by clusters that are there
	plans, _ := filepath.Glob("/var/lib/clusterd/dev/*/cluster.json")
	for _, p := range plans {
		b, _ := os.ReadFile(p)
		_, rest, _ := strings.Cut(string(b), "10.89.")
		n, _, _ := strings.Cut(rest, ".")
		used["clusterd"+n] = true
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "clusterd") && !used[l.Name] {
			out = append(out, "link "+l.Name)
		}
	}
	return out
}
