package machinetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestKills kills agents, their supervisors, containerds and the server at
// random moments (CLUSTERD_KILLS times, by CLUSTERD_SEED) while pods come and
// go. What runs goes on and is asked nothing, no request is lost, and of the
// pods that went nothing is left: no process, mount or cgroup.
func TestKills(t *testing.T) {
	kills, _ := strconv.Atoi(os.Getenv("CLUSTERD_KILLS"))
	if kills == 0 {
		t.Skip("a long campaign: run make chaos")
	}
	seed, err := strconv.ParseUint(os.Getenv("CLUSTERD_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to kill the same again: CLUSTERD_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := up(t, "kills")
	c.must(t, "image", "load", filepath.Join(c.root, ".cache/images/nginx-1.0.tar"))
	m := c.terraform(t, served("steady", "nginx:1.0", 3, 30090, "")+`
resource "clusterd_app" "churn" {
  name     = "churn"
  image    = "nginx:1.0"
  replicas = 1
  cpu      = "10m"
  memory   = "32Mi"
  wait     = false
}
`)
	m.apply(t)
	settled := func(replicas int) {
		eventually(t, 2*time.Minute, fmt.Sprintf("%d pods of churn run, and all nodes are ready", replicas), func() bool {
			if out := c.try("get", "nodes"); strings.Count(out, string(api.VerdictReady)) != 3 {
				return false
			}
			pods := c.pods(t, "churn")
			return len(pods) == replicas && !slices.ContainsFunc(pods, func(p *api.Pod) bool { return !p.Status.Ready })
		})
	}
	settled(1)
	before, running := c.left(t), c.pids(t, "steady")
	load := startLoad(c.at(t, 30090)...)

	stop, churned := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				churned <- n
				return
			default:
			}
			c.try("scale", "app/churn", strconv.Itoa(1+4*(n%2))) // the server may be down just now
			time.Sleep(2 * time.Second)
		}
	}()
	for n := range kills {
		what := c.kill(t, rng)
		t.Logf("%d: killed %s", n, what)
		// What systemd would start again at once. A supervisor that stays away for
		// longer than a verdict takes is a dead node, and its pods are replaced.
		c.must(t, "dev", "up", "--name", c.name, "--nodes", "3")
		time.Sleep(time.Duration(300+rng.IntN(2500)) * time.Millisecond)
	}
	close(stop)
	t.Logf("scaled %d times", <-churned)
	c.must(t, "scale", "app/churn", "1")
	settled(1)
	load.mustBeClean(t, fmt.Sprintf("%d kills", kills))
	if now := c.pids(t, "steady"); fmt.Sprint(now) != fmt.Sprint(running) {
		t.Errorf("processes and restarts are %v, were %v", now, running)
	}
	var after []string
	eventually(t, time.Minute, "what is left is as much as there was", func() bool {
		after = c.left(t)
		return len(after) <= len(before) || t.Failed()
	})
	if len(after) != len(before) {
		t.Errorf("there is\n%s\nbefore there was\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// kill ends one of the cluster's daemons, as kill -9 does, and says which.
func (c *cluster) kill(t *testing.T, rng *rand.Rand) string {
	supervisors := processes(t, "nodeagent run ", "/"+c.name+"/")
	children := func(words ...string) (pids []int) {
		for _, pid := range processes(t, words...) {
			if slices.Contains(supervisors, parent(pid)) {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	kinds := []struct {
		name string
		pids []int
	}{
		{"an agent", children("nodeagent agent")}, {"a containerd", children("nodeagent containerd")},
		{"a supervisor", supervisors}, {"the server", processes(t, "clusterd server ", "/"+c.name+"/")},
	}
	kind := kinds[rng.IntN(len(kinds))]
	if len(kind.pids) == 0 {
		return "nobody: " + kind.name + " is down already"
	}
	pid := kind.pids[rng.IntN(len(kind.pids))]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill %s, process %d: %v", kind.name, pid, err)
	}
	return fmt.Sprintf("%s, process %d", kind.name, pid)
}

// left lists the processes, mounts and cgroups of the cluster's pods and
// daemons, without what differs from one to the next.
func (c *cluster) left(t *testing.T) (out []string) {
	for _, line := range traces(t, c.name) {
		switch {
		case strings.HasPrefix(line, "process "):
			out = append(out, strings.TrimSpace(line))
		case strings.HasPrefix(line, "mount "):
			if f := strings.Fields(line); len(f) > 5 {
				out = append(out, "mount "+f[5])
			}
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/memory/clusterd/" + c.name + "/*/*")
	slices.Sort(out)
	return append(out, groups...)
}
