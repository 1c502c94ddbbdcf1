package hollow_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// story is how the API saw a pod: a line per change that a reader would notice.
type story struct {
	mu    sync.Mutex
	lines []string
}

func (c *cluster) follow(name string) *story {
	s := &story{}
	ctx := c.Context()
	go func() {
		for ev, err := range c.pods.Watch(ctx, "default", nil, 0) {
			if err != nil {
				return
			}
			if ev.Object == nil || ev.Object.Meta.Name != name {
				continue
			}
			st := ev.Object.Status
			if (st.Phase == api.PhaseRunning || st.Phase == api.PhaseStarting) && !st.Ready && st.Reason == "" {
				continue // a moment: whether it is seen is chance
			}
			line := string(st.Phase)
			if st.Ready {
				line += " ready"
			}
			if st.Reason != "" {
				line += " " + st.Reason
			}
			if st.Fatal != nil {
				line += " fatal=" + st.Fatal.Reason
			}
			if n := st.Restarts(); n > 0 {
				line += fmt.Sprintf(" restarts=%d", n)
			}
			s.mu.Lock()
			if len(s.lines) == 0 || s.lines[len(s.lines)-1] != line {
				s.lines = append(s.lines, line)
			}
			s.mu.Unlock()
		}
	}()
	c.after(0) // it has heard how the pod is
	return s
}

func (s *story) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *story) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := s.String(); got != strings.Join(want, "\n") {
		t.Errorf("the pod's story is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// containers lists what the runtime has, as id=state.
func (c *cluster) containers() string {
	c.Helper()
	all, err := c.rt.List(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	var out []string
	for _, st := range all {
		_, id, _ := strings.Cut(st.ID, ".")
		out = append(out, fmt.Sprintf("%s=%s", id, st.State))
	}
	return strings.Join(out, " ")
}

func (c *cluster) mainID(name string) string {
	c.Helper()
	p := c.get(name)
	return fmt.Sprintf("%s.main.%d", p.Meta.UID, p.Status.Containers["main"].Restarts)
}

func healthy(s *api.PodSpec) { s.Health = &api.Health{HTTP: "/"} }

func image(ref string) func(*api.PodSpec) { return func(s *api.PodSpec) { s.Image = ref } }

func TestPodStarts(t *testing.T) {
	run(t, func(c *cluster) {
		s := c.follow("web-1")
		c.create("web-1", healthy)
		c.after(time.Second)
		s.expect(t, "", "starting pulling", "running ready")
		p := c.get("web-1")
		m := p.Status.Containers["main"]
		if p.Status.IP != "10.244.0.1" || m.PID == 0 || m.StartedAt.IsZero() || m.Image == "" || p.Status.ReadyAt.IsZero() || p.Status.StartedAt.IsZero() {
			t.Errorf("status is %+v", p.Status)
		}
		spec, _ := c.rt.Container(c.mainID("web-1"))
		if spec.MemoryLimit != 64<<20 || spec.CPU != 100 || spec.LogPath == "" || spec.Sandbox.Hostname != "web-1" {
			t.Errorf("container is %+v", spec)
		}
	})
}

// A process that dies is replaced in place: same pod, same address.
func TestKilledProcessRestarts(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(time.Second)
		before := c.get("web-1").Status
		s := c.follow("web-1")
		c.rt.Crash(c.mainID("web-1"), 137)
		c.after(2 * time.Second)
		s.expect(t, "running ready", "running restarting", "running ready restarts=1")
		p := c.get("web-1").Status
		if m := p.Containers["main"]; m.Last == nil || m.Last.Code != 137 || m.Last.Signal != 9 || p.IP != before.IP || p.Fatal != nil {
			t.Errorf("status is %+v", p)
		}
	})
}

func TestCrashLoopIsCertainAfterThree(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", image("exit-3"))
		c.after(time.Second / 2)
		if f := c.get("web-1").Status.Fatal; f != nil {
			t.Errorf("certain after one exit: %+v", f)
		}
		c.after(4 * time.Second)
		st := c.get("web-1").Status
		f := st.Fatal
		if f == nil || f.Reason != "crash_loop" || f.Pod != "web-1" || f.Node != "w1" || f.Container != "main" || *f.ExitCode != 3 ||
			!slices.Equal(f.Log, []string{"about to exit with 3"}) || !strings.Contains(f.Message, "exited with code 3") {
			t.Fatalf("fatal is %+v", f)
		}
		// It goes on trying, more and more seldom.
		c.after(10 * time.Second)
		if n := c.get("web-1").Status.Containers["main"].Restarts; n != 4 {
			t.Errorf("%d restarts after 14 s", n)
		}
		if got := len(strings.Fields(c.containers())); got != 1 {
			t.Errorf("old runs are kept: %s", c.containers())
		}
	})
}

func TestOOMIsSaid(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", image("oom"))
		c.after(5 * time.Second)
		if f := c.get("web-1").Status.Fatal; f == nil || !f.OOM || !strings.Contains(f.Message, "more than its 64Mi of memory") {
			t.Errorf("fatal is %+v", f)
		}
	})
}

func TestCannotStart(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", image("cannot-start"))
		c.after(100 * time.Millisecond)
		st := c.get("web-1").Status
		if f := st.Fatal; f == nil || f.Reason != "cannot_start" || !strings.Contains(f.Message, "/none") || st.Phase != api.PhaseStarting {
			t.Errorf("status is %+v, fatal %+v", st, f)
		}
	})
}

func TestImageUnavailable(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", image("missing:1"))
		c.after(9 * time.Second)
		if st := c.get("web-1").Status; st.Fatal != nil || st.Reason != "image_unavailable" {
			t.Errorf("after 9s: %+v", st)
		}
		c.after(1500 * time.Millisecond)
		st := c.get("web-1").Status
		if f := st.Fatal; f == nil || f.Reason != "image_unavailable" || !strings.Contains(f.Message, "missing:1") || !strings.Contains(f.Message, "clusterd image load") {
			t.Fatalf("after 10.5s: %+v", st)
		}
		c.rt.AddImage("missing:1", fake.Serve()) // loaded by hand
		c.after(11 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Fatal != nil {
			t.Errorf("after it was loaded: %+v", st)
		}
	})
}

func TestSidecar(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", func(s *api.PodSpec) {
			s.Sidecars = map[string]api.Container{"log": {Image: "vector:1", Env: map[string]string{"A": "b"}}, "tmp": {Image: "exit-1-after-5s"}}
		})
		c.after(time.Second)
		st := c.get("web-1").Status
		if names := slices.Sorted(maps.Keys(st.Containers)); !slices.Equal(names, []string{"log", "main", "tmp"}) || !st.Ready {
			t.Errorf("status is %+v", st)
		}
		c.after(5 * time.Second) // one has exited and waits, or has been restarted
		st = c.get("web-1").Status
		if st.Containers["main"].Restarts+st.Containers["log"].Restarts != 0 || st.Containers["tmp"].Last == nil {
			t.Errorf("after the sidecar exited: %+v", st)
		}
	})
}

func TestUnhealthyIsNotReadyThenRestarted(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(15 * time.Second) // past the grace
		s := c.follow("web-1")
		c.rt.SetListening(c.mainID("web-1"), false)
		c.after(7 * time.Second)
		if st := c.get("web-1").Status; st.Ready || st.Reason != "unhealthy" || st.Restarts() != 0 {
			t.Errorf("after three failures: %+v", st)
		}
		c.after(15 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Restarts() != 1 {
			t.Errorf("after nine failures: %+v", st)
		}
		s.expect(t, "running ready", "running unhealthy", "running restarting", "running ready restarts=1")
	})
}

func TestNeverReadyIsCertainAfterThreeRestarts(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", func(s *api.PodSpec) { healthy(s); s.Image = "never-ready" })
		c.after(2 * time.Minute)
		st := c.get("web-1").Status
		if f := st.Fatal; f == nil || f.Reason != "unhealthy" || !strings.Contains(f.Message, "health checks failed") || st.Ready {
			t.Errorf("status is %+v, fatal %+v", st, f)
		}
	})
}

func TestStopDrainsThenSignals(t *testing.T) {
	run(t, func(c *cluster) {
		c.rt.AddImage("nginx:1", fake.Image{Script: []string{"listen", "on-term=0,3s", "forever"}, StopSignal: "SIGQUIT"})
		c.create("web-1", healthy)
		c.after(time.Second)
		s := c.follow("web-1")
		uid := c.get("web-1").Meta.UID
		if err := c.pods.Delete(c.Context(), "default", "web-1", uid); err != nil {
			t.Fatal(err)
		}
		c.after(2 * time.Second)
		if st := c.get("web-1").Status; st.Phase != api.PhaseStopping || st.Ready || c.containers() != "main.0=running" {
			t.Errorf("at once: %+v, %s", st, c.containers())
		}
		c.after(2 * time.Second)
		if st := c.get("web-1").Status; st.Phase != api.PhaseSucceeded || st.EndedAt.IsZero() || c.containers() != "" {
			t.Errorf("after its own 3s: %+v, %s", st, c.containers())
		}
		s.expect(t, "running ready", "stopping draining", "stopping", "succeeded")
		if left, _ := c.node.Network.List(c.Context()); len(left) != 0 {
			t.Errorf("its address is still taken: %v", left)
		}
		if saved, _ := c.node.Store.Load(); len(saved) != 0 {
			t.Errorf("its checkpoint is still there: %v", saved)
		}
		if err := c.pods.Finalize(c.Context(), "default", "web-1", uid); err != nil {
			t.Error(err)
		}
	})
}

// A proxy that does not answer holds a stopping pod up for two seconds, no more.
func TestStopDoesNotWaitForever(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(time.Second)
		p := c.get("web-1")
		must(client.Of(c.client, api.Services).Create(c.Context(), &api.Service{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.ServiceSpec{
			App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80}}}}))
		must(client.Of(c.client, api.EndpointSlices).Create(c.Context(), &api.Endpoints{Meta: api.Meta{Name: "web-0", Namespace: "default"}, Spec: api.EndpointsSpec{
			Service: "web", Addresses: []api.Endpoint{{Pod: "web-1", UID: p.Meta.UID, Node: "w1", IP: p.Status.IP, Ports: map[string]int{"http": 80}}}}}))
		if err := c.pods.Delete(c.Context(), "default", "web-1", ""); err != nil {
			t.Fatal(err)
		}
		c.after(1900 * time.Millisecond)
		if got := c.containers(); got != "main.0=running" {
			t.Errorf("before the bound: %s", got)
		}
		c.after(time.Second)
		if got := c.get("web-1").Status.Phase; got != api.PhaseSucceeded {
			t.Errorf("after it, the pod is %s", got)
		}
	})
}

// What the node cannot do for a pod is said, and done once it can.
func TestNodeTroubleIsSaid(t *testing.T) {
	run(t, func(c *cluster) {
		c.node.Network.Break(errors.New("all addresses are in use"))
		c.create("web-1", nil)
		c.after(2 * time.Second)
		if st := c.get("web-1").Status; st.Reason != "node_trouble" || !strings.Contains(st.Message, "all addresses are in use") {
			t.Errorf("status is %+v", st)
		}
		c.node.Network.Break(nil)
		c.after(10 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Reason != "" {
			t.Errorf("status is %+v", st)
		}
	})
}

func TestStubbornIsKilledAfterGrace(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", func(s *api.PodSpec) {
			s.Image = "ignores-term"
			s.Sidecars = map[string]api.Container{"log": {Image: "vector:1"}, "mule": {Image: "ignores-term"}}
		})
		c.after(time.Second)
		if err := c.pods.Delete(c.Context(), "default", "web-1", ""); err != nil {
			t.Fatal(err)
		}
		c.after(9 * time.Second)
		if got := c.containers(); got != "log.0=running main.0=running mule.0=running" {
			t.Errorf("before the grace is over: %s", got)
		}
		c.after(4500 * time.Millisecond)
		st := c.get("web-1").Status
		if st.Phase != api.PhaseSucceeded || st.Containers["main"].Last.Signal != 9 || st.Containers["log"].Last.Code != 0 || st.Containers["mule"].Last.Signal != 9 {
			t.Errorf("after the grace: %+v", st)
		}
	})
}

// P9: an agent that comes back adopts what runs; nothing restarts and no
// readiness flips.
func TestAgentRestartsAndNothingElse(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.create("web-2", func(s *api.PodSpec) { s.Sidecars = map[string]api.Container{"log": {Image: "vector:1"}} })
		c.after(time.Minute)
		before, runs := c.get("web-1").Status, c.containers()
		s := c.follow("web-1")
		for range 3 {
			c.stop()
			c.after(10 * time.Second)
			c.start()
			c.after(10 * time.Second)
		}
		after := c.get("web-1").Status
		if fmt.Sprint(before) != fmt.Sprint(after) || c.containers() != runs {
			t.Errorf("before\n%+v\nafter\n%+v\n%s", before, after, c.containers())
		}
		s.expect(t, "running ready")
	})
}

// An agent that is told to stop while the node is in trouble stops.
func TestAgentStopsInTrouble(t *testing.T) {
	run(t, func(c *cluster) {
		c.rt.SetDelays(0, time.Hour)
		c.create("web-1", nil) // its start takes an hour
		c.after(time.Second)
		before := time.Now()
		c.stop()
		if took := time.Since(before); took > time.Second {
			t.Errorf("it took %s", took)
		}
		c.start()
		c.after(time.Second)
	})
}

// The same when the checkpoint is lost: the API and the runtime know enough.
func TestAgentRestartsWithoutCheckpoint(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(time.Minute)
		before := c.get("web-1").Status
		c.stop()
		for uid := range must(c.node.Store.Load()) {
			if err := c.node.Store.Delete(uid); err != nil {
				t.Fatal(err)
			}
		}
		s := c.follow("web-1")
		c.start()
		c.after(10 * time.Second)
		if after := c.get("web-1").Status; fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("before\n%+v\nafter\n%+v", before, after)
		}
		s.expect(t, "running ready")
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// P8: without a control plane pods go on, restart, and outlive the agent.
func TestControlPlaneGone(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.create("web-2", healthy)
		c.after(15 * time.Second)
		c.cut.Store(true)
		c.rt.Crash(c.mainID("web-1"), 1)
		c.after(5 * time.Second)
		if got := c.containers(); strings.Count(got, "main.1=running") != 1 || strings.Count(got, "main.0=running") != 1 {
			t.Errorf("while cut off: %s", got)
		}
		c.stop()
		c.rt.Crash(c.mainID("web-2"), 1) // while nobody looks
		c.after(time.Second)
		c.start()
		c.after(9 * time.Second)
		if got := c.containers(); strings.Count(got, "main.1=running") != 1 {
			t.Errorf("a starting agent did not wait for word from the API: %s", got)
		}
		c.after(5 * time.Second)
		if got := c.containers(); strings.Count(got, "main.1=running") != 2 {
			t.Errorf("the agent restarted while cut off: %s", got)
		}
		c.cut.Store(false)
		c.after(10 * time.Second)
		for _, name := range []string{"web-1", "web-2"} {
			if st := c.get(name).Status; !st.Ready || st.Restarts() != 1 {
				t.Errorf("%s once the API is back: %+v", name, st)
			}
		}
	})
}

func TestNodeReboots(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(15 * time.Second)
		before := c.get("web-1")
		c.stop()
		c.node.Reboot()
		s := c.follow("web-1")
		c.start()
		c.after(5 * time.Second)
		after := c.get("web-1")
		if after.Meta.UID != before.Meta.UID || after.Status.IP != before.Status.IP || !after.Status.Ready || after.Status.Restarts() != 1 || after.Status.Fatal != nil {
			t.Errorf("before\n%+v\nafter\n%+v", before.Status, after.Status)
		}
		if got := s.String(); !strings.Contains(got, "running ready\nrunning") {
			t.Errorf("readiness was not taken back:\n%s", got)
		}
	})
}

// A node that was given up for dead comes back: its pods of before are stopped,
// not started again.
func TestLostPodsAreCleaned(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.create("web-2", healthy)
		c.create("web-3", healthy)
		c.after(15 * time.Second)
		c.cut.Store(true)
		c.stop()
		c.node.Reboot()
		for _, name := range []string{"web-1", "web-2"} {
			p := c.get(name)
			p.Status.Phase, p.Status.Ready = api.PhaseLost, false
			if _, err := c.pods.PutStatus(c.Context(), p); err != nil {
				t.Fatal(err)
			}
			if name == "web-2" { // … and was even removed
				if err := c.pods.Delete(c.Context(), "default", name, ""); err != nil {
					t.Fatal(err)
				}
				if err := c.pods.Finalize(c.Context(), "default", name, p.Meta.UID); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.cut.Store(false)
		c.start()
		c.after(5 * time.Second)
		if got := c.containers(); got != "main.1=running" {
			t.Errorf("the node has %s", got)
		}
		if st := c.get("web-1").Status; st.Phase != api.PhaseLost {
			t.Errorf("the lost pod became %s", st.Phase)
		}
		if left := must(c.node.Network.List(c.Context())); len(left) != 1 {
			t.Errorf("%d addresses are taken", len(left))
		}
	})
}

// A running node that was cut off learns that its pods were replaced.
func TestPartitionedNodeStopsLostPods(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(15 * time.Second)
		c.cut.Store(true)
		c.after(time.Minute)
		p := c.get("web-1")
		p.Status.Phase, p.Status.Ready = api.PhaseLost, false
		must(c.pods.PutStatus(c.Context(), p))
		c.cut.Store(false)
		c.after(time.Minute)
		if got := c.containers(); got != "" {
			t.Errorf("the node still has %s", got)
		}
	})
}

func TestOrphansAreRemoved(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", nil)
		c.after(time.Second)
		c.stop()
		for uid := range must(c.node.Store.Load()) {
			c.node.Store.Delete(uid)
		}
		p := c.get("web-1")
		c.pods.Delete(c.Context(), "default", "web-1", "")
		c.pods.Finalize(c.Context(), "default", "web-1", p.Meta.UID)
		c.start()
		c.after(5 * time.Second)
		if got := c.containers(); got != "" {
			t.Errorf("the node still has %s", got)
		}
		if left := must(c.node.Network.List(c.Context())); len(left) != 0 {
			t.Errorf("addresses still taken: %v", left)
		}
	})
}

// Containers go on while the runtime does not answer, and nothing is started
// on a guess.
func TestRuntimeGone(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", healthy)
		c.after(15 * time.Second)
		s := c.follow("web-1")
		c.rt.Break(fmt.Errorf("containerd is away"))
		c.after(20 * time.Second)
		c.rt.Break(nil)
		c.after(20 * time.Second)
		if got := c.containers(); got != "main.0=running" {
			t.Errorf("the node has %s", got)
		}
		s.expect(t, "running ready")
		if st := c.get("web-1").Status; !st.Ready || st.Restarts() != 0 {
			t.Errorf("status is %+v", st)
		}
	})
}
