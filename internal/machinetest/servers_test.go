package machinetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/historytest"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// soak skips what takes minutes.
func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("CLUSTERD_SOAK") == "" {
		t.Skip("a long campaign: run make soak")
	}
}

// TestLeaders: under some 200 writes a second whoever leads three servers is
// killed, cut off, stopped, and has a full disk. Each time the others go on
// within seconds; in the end the history is that of one store, nothing
// acknowledged is lost, whoever watched saw it all, and no pod noticed.
func TestLeaders(t *testing.T) {
	soak(t)
	c := upWith(t, "leaders", 3, 3)
	for _, server := range []string{"s1", "s2", "s3"} {
		c.ownDisk(t, server, 2000)
	}
	c.fleet(t, 30092)
	c.whole(t, 3)
	before := c.pids(t, "steady")
	load := startLoadOf(1, c.at(t, 30092)...)
	w := c.write(t)

	// fault does something to the leader, and mends it once the others went on.
	fault := func(t *testing.T, do func(leader string), mend func(leader string)) time.Duration {
		t.Helper()
		w.goesOn(t, 200)
		leader, at := c.leader(t), time.Now()
		do(leader)
		w.goesOn(t, 200)
		silence := w.Silence(at)
		if now := c.leader(t); now == leader {
			t.Errorf("%s still leads", leader)
		}
		mend(leader)
		c.whole(t, 3)
		w.Turn()
		return silence
	}
	start := func(leader string) { c.must(t, "dev", "server", "start", leader, "--name", c.name) }

	t.Run("killed", func(t *testing.T) {
		var took []time.Duration
		for range 5 {
			took = append(took, fault(t, func(leader string) { c.signal(t, leader, syscall.SIGKILL) }, start))
		}
		slices.Sort(took)
		t.Logf("kill -9 of the leader: no write for %s, median %s", took, took[2].Round(time.Millisecond))
		if took[2] > 3*time.Second {
			t.Errorf("writes resume after %s, want within 3s", took[2])
		}
	})
	t.Run("cut off", func(t *testing.T) {
		took := fault(t, func(leader string) {
			c.must(t, "dev", "link", leader, "down", "--name", c.name)
		}, func(leader string) {
			c.deposed(t, leader)
			c.must(t, "dev", "link", leader, "up", "--name", c.name)
		})
		t.Logf("leader cut off: no write for %s", took)
		if out := c.must(t, "get", "roles"); strings.Contains(out, "deposed") {
			t.Errorf("the deposed leader wrote:\n%s", out)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		took := fault(t, func(leader string) { c.signal(t, leader, syscall.SIGSTOP) }, func(leader string) { c.signal(t, leader, syscall.SIGCONT) })
		t.Logf("leader stopped: no write for %s", took)
	})
	t.Run("disk full", func(t *testing.T) {
		took := fault(t, func(leader string) {
			c.fill(t, leader)
			eventually(t, 2*time.Minute, "it leads no more", func() bool { return c.leader(t) != leader })
		}, func(leader string) {
			c.free(t, leader)
			start(leader)
		})
		t.Logf("leader's disk full: no write for %s", took)
	})

	w.end(t)
	load.mustBeClean(t, "leaders that go")
	c.unharmed(t, before)
}

// fleet runs six pods, and a service of them.
func (c *cluster) fleet(t *testing.T, port int) {
	t.Helper()
	c.must(t, "image", "load", filepath.Join(c.root, ".cache/images/nginx-1.0.tar"))
	c.terraform(t, served("steady", "nginx:1.0", 6, port, "")).apply(t)
}

// whole waits until so many servers have a vote, and all nodes are ready.
func (c *cluster) whole(t *testing.T, servers int) {
	t.Helper()
	eventually(t, time.Minute, "all servers have a vote, and all nodes are ready", func() bool {
		votes := 0
		for word := range strings.FieldsSeq(c.try("get", "servers")) {
			if word == string(api.ServerVoter) || word == string(api.ServerLeader) {
				votes++
			}
		}
		return votes == servers && !strings.Contains(c.try("get", "nodes"), string(api.VerdictDead))
	})
}

// leader is the server that leads, once it is one.
func (c *cluster) leader(t testing.TB) string {
	t.Helper()
	var leaders []string
	eventually(t, 30*time.Second, "one server leads", func() bool {
		leaders = nil
		for line := range strings.Lines(c.try("get", "servers")) {
			if strings.Contains(line, string(api.ServerLeader)) {
				leaders = append(leaders, strings.Fields(line)[0])
			}
		}
		return len(leaders) == 1
	})
	return leaders[0]
}

// signal sends a server's process a signal.
func (c *cluster) signal(t testing.TB, server string, sig syscall.Signal) {
	t.Helper()
	pids := processes(t, "clusterd server ", "/"+c.name+"/"+server+" ")
	if len(pids) != 1 {
		t.Fatalf("%s has processes %v", server, pids)
	}
	if err := syscall.Kill(pids[0], sig); err != nil {
		t.Fatal(err)
	}
}

// deposed asks a server that is cut off to write, from its own machine: it says
// that it cannot.
func (c *cluster) deposed(t *testing.T, server string) {
	t.Helper()
	own := ""
	for _, s := range get(t, c, api.Servers) {
		if s.Meta.Name == server {
			own = "https://" + s.Spec.Address
		}
	}
	for n := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "nsenter", "--net=/run/clusterd/dev/"+c.name+"/netns/"+server,
			filepath.Join(c.root, "bin/clusterd"), "role", "set", fmt.Sprintf("deposed-%d", n), "--rule", "read nodes")
		cmd.Env = append(append(os.Environ(), c.env...), "CLUSTERD_ADDR="+own)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil || strings.Contains(string(out), "cannot reach") {
			t.Errorf("%s was asked for a write while it was cut off: %v %s", server, err, out)
		} else {
			t.Logf("%s says: %s", server, strings.TrimSpace(string(out)))
		}
	}
}

// connect returns a client of all servers that asks the nth first.
func (c *cluster) connect(t testing.TB, n int) *client.Client {
	t.Helper()
	env := c.variables()
	roots, err := pki.LoadRoots(env["CLUSTERD_CACERT"])
	if err != nil {
		t.Fatal(err)
	}
	urls := strings.Split(env["CLUSTERD_ADDR"], ",")
	n %= len(urls)
	cl, err := client.New(client.Config{Addresses: append(urls[n:], urls[:n]...), Token: env["CLUSTERD_TOKEN"], TLS: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// writers ask all servers, some 200 writes a second together.
type writers struct {
	*historytest.History
	asks *client.Client
	stop context.CancelFunc
	all  sync.WaitGroup
	from time.Time
}

func (c *cluster) write(t *testing.T) *writers {
	t.Helper()
	const clients = 40
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{History: &historytest.History{Every: 125 * time.Millisecond}, asks: c.connect(t, 0), stop: cancel, from: time.Now()}
	t.Cleanup(func() { cancel(); w.all.Wait() })
	for who := range clients {
		cl := c.connect(t, who)
		w.all.Go(func() { w.Client(ctx, cl, who) })
	}
	watcher := c.connect(t, 1)
	w.all.Go(func() { historytest.Watch(ctx, t, watcher) })
	return w
}

// goesOn waits until so many more writes are acknowledged.
func (w *writers) goesOn(t testing.TB, writes int) {
	t.Helper()
	from := w.Writes()
	eventually(t, time.Minute, fmt.Sprintf("%d more writes are acknowledged", writes), func() bool { return w.Writes() > from+writes })
}

// end stops the writers and checks what they heard.
func (w *writers) end(t testing.TB) {
	t.Helper()
	w.stop()
	w.all.Wait()
	t.Logf("%.0f writes a second", float64(w.Writes())/time.Since(w.from).Seconds())
	w.Check(t)
	w.NothingLost(t, w.asks)
}

// ownDisk stops a server, and starts it with its data on a file system of so
// many MB that holds nothing else, and is in the file it returns.
func (c *cluster) ownDisk(t *testing.T, server string, size int) (image string) {
	t.Helper()
	c.must(t, "dev", "server", "stop", server, "--name", c.name)
	image = filepath.Join(t.TempDir(), server)
	at := c.disk(server)
	for _, args := range [][]string{
		{"truncate", "-s", fmt.Sprintf("%dM", size), image},
		{"mkfs.ext4", "-q", "-m", "0", "-d", at, image},
		{"mount", "-o", "loop", image, at},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) }) // of a cluster that dev down did not reach
	c.must(t, "dev", "server", "start", server, "--name", c.name)
	return image
}

// disk is where a server's data is.
func (c *cluster) disk(server string) string {
	return filepath.Join("/var/lib/clusterd/dev", c.name, server)
}

// fill leaves a server that has its own disk no byte of it.
func (c *cluster) fill(t testing.TB, server string) {
	t.Helper()
	f, err := os.Create(filepath.Join(c.disk(server), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var own, above syscall.Stat_t
	if err := errors.Join(syscall.Stat(c.disk(server), &own), syscall.Stat(filepath.Dir(c.disk(server)), &above)); err != nil || own.Dev == above.Dev {
		t.Fatalf("%s has no disk of its own: %v", server, err)
	}
	at := int64(0)
	for size := int64(1) << 30; size >= 1<<10; {
		switch err := syscall.Fallocate(int(f.Fd()), 0, at, size); {
		case err == nil:
			at += size
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case !errors.Is(err, syscall.EINTR):
			t.Fatal(err)
		}
	}
	t.Logf("%s: %d MB were free", server, at>>20)
}

// free undoes fill.
func (c *cluster) free(t testing.TB, server string) {
	t.Helper()
	if err := os.Remove(filepath.Join(c.disk(server), "filler")); err != nil {
		t.Fatal(err)
	}
}
