package machinetest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestTwoBuilds: servers and nodes of an earlier build, whose programs are in
// CLUSTERD_PREVIOUS, become this one's, one by one, and in the middle of it one
// of each goes back; under some 200 writes a second and requests to pods. The
// history is that of one store, nothing acknowledged is lost, no request fails,
// no container starts again.
func TestTwoBuilds(t *testing.T) {
	soak(t)
	old := os.Getenv("CLUSTERD_PREVIOUS")
	if old == "" {
		t.Skip("needs the programs of an earlier build: run make test-upgrade")
	}
	c := upFrom(t, old, "builds", 3, 3)
	current := filepath.Join(c.root, "bin")
	c.fleet(t, 30097)
	c.whole(t, 3)
	before := c.pids(t, "steady")
	load := startLoadOf(1, c.at(t, 30097)...)
	w := c.write(t)
	for _, step := range []struct{ server, bin string }{{"s1", current}, {"s2", current}, {"s2", old}, {"s2", current}, {"s3", current}} {
		w.goesOn(t, 200)
		c.must(t, "dev", "server", "stop", step.server, "--name", c.name)
		c.bin = step.bin
		c.must(t, "dev", "server", "start", step.server, "--name", c.name)
		c.whole(t, 3)
		w.Turn()
		c.runs(t, "server "+step.server, step.bin, func() string {
			for _, s := range get(t, c, api.Servers) {
				if s.Meta.Name == step.server {
					return s.Status.Version
				}
			}
			return ""
		})
	}
	for _, step := range []struct{ node, bin string }{{"w1", current}, {"w1", old}, {"w1", current}, {"w2", current}, {"w3", current}} {
		w.goesOn(t, 200)
		c.bin = step.bin
		for _, pid := range c.supervisors(t, step.node) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // a stop takes seconds, which a package's restart does not wait for in between
				t.Fatal(err)
			}
		}
		c.must(t, "dev", "up", "--name", c.name, "--nodes", "3", "--servers", "3")
		c.whole(t, 3)
		c.runs(t, "node "+step.node, step.bin, func() string {
			for _, n := range c.nodes(t) {
				if n.Meta.Name == step.node {
					return n.Status.Version
				}
			}
			return ""
		})
	}
	w.end(t)
	load.mustBeClean(t, "an upgrade of everything, and some ways back")
	c.unharmed(t, before)
}

// runs waits until a server or node says the version of a build.
func (c *cluster) runs(t testing.TB, who, bin string, version func() string) {
	t.Helper()
	c.bin = bin
	own, _, _ := strings.Cut(c.must(t, "version"), "\n") // what it says of the servers comes after
	want := strings.TrimPrefix(own, "clusterd ")
	eventually(t, 30*time.Second, who+" is of version "+want, func() bool { return version() == want })
}
