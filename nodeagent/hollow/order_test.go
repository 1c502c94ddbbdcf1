package hollow_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// withInits gives a pod init containers by image, in order of their names.
func withInits(images ...string) func(*api.PodSpec) {
	return func(s *api.PodSpec) {
		s.Init = map[string]api.Init{}
		for i, image := range images {
			s.Init[fmt.Sprintf("i%d", i)] = api.Init{Image: image, CPU: "100m", Memory: "64Mi"}
		}
	}
}

// events lists what was said about a pod, as reason: message.
func (c *cluster) events(name string) string {
	c.Helper()
	ring, err := client.Of(c.client, api.EventRings).Get(c.Context(), "default", "pod-"+name)
	if err != nil {
		c.Fatal(err)
	}
	var out []string
	for _, e := range ring.Spec.Entries {
		out = append(out, e.Reason+": "+e.Message)
	}
	return strings.Join(out, "\n")
}

func TestInitContainersRunInOrderAndOnce(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", func(s *api.PodSpec) {
			withInits("exit-0-after-5s", "exit-0-after-10s")(s)
			s.Sidecars = map[string]api.Container{"log": {Image: "vector:1"}}
		})
		c.after(3 * time.Second)
		if got := c.containers(); got != "i0.0=running" {
			t.Errorf("at first: %s", got)
		}
		st := c.get("web-1").Status
		if st.Phase != api.PhaseStarting || st.Reason != "initializing" || st.Message != "main waits for init container i0 to end" || st.Containers["i0"].State != api.ContainerRunning {
			t.Errorf("at first: %+v", st)
		}
		c.after(5 * time.Second)
		if got := c.containers(); got != "i0.0=exited i1.0=running" {
			t.Errorf("then: %s", got)
		}
		c.after(8 * time.Second)
		if got := c.containers(); got != "i0.0=exited i1.0=exited log.0=running main.0=running" {
			t.Errorf("at last: %s", got)
		}
		st = c.get("web-1").Status
		if i1 := st.Containers["i1"]; !st.Ready || i1.State != api.ContainerExited || i1.Last == nil || i1.Last.Code != 0 || i1.Restarts != 0 {
			t.Errorf("at last: %+v", st)
		}
		// What is done stays done: whoever restarts, and whatever is lost of the three records.
		c.rt.Crash(c.mainID("web-1"), 1)
		c.after(5 * time.Second)
		for range 2 {
			c.stop()
			for uid := range must(c.node.Store.Load()) {
				c.node.Store.Delete(uid)
			}
			c.start()
			c.after(5 * time.Second)
		}
		if got := c.containers(); got != "i0.0=exited i1.0=exited log.0=running main.1=running" {
			t.Errorf("after restarts: %s", got)
		}
		// A node that was rebooted begins anew.
		c.stop()
		c.node.Reboot()
		c.start()
		c.after(3 * time.Second)
		if got := c.containers(); !strings.Contains(got, "i0.1=running") || strings.Contains(got, "main.1=running") {
			t.Errorf("after a reboot: %s", got)
		}
		c.after(20 * time.Second)
		if st := c.get("web-1").Status; !st.Ready {
			t.Errorf("after a reboot: %+v", st)
		}
	})
}

// An agent that is restarted between two init containers goes on with the second.
func TestAgentRestartsAmongInits(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", withInits("exit-0-after-5s", "exit-0-after-5s"))
		c.after(3 * time.Second)
		c.stop()
		c.after(5 * time.Second) // the first ends while nobody looks
		c.start()
		c.after(time.Second)
		if got := c.containers(); got != "i0.0=exited i1.0=running" {
			t.Errorf("the node has %s", got)
		}
	})
}

func TestInitThatFailsIsTheCause(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", withInits("exit-3"))
		c.after(time.Second / 2)
		st := c.get("web-1").Status
		if st.Reason != "restarting" || !strings.Contains(st.Message, "i0 exited with code 3") || st.Fatal != nil {
			t.Errorf("after one end: %+v", st)
		}
		c.after(4 * time.Second)
		st = c.get("web-1").Status
		if f := st.Fatal; f == nil || f.Container != "i0" || f.Reason != "crash_loop" || *f.ExitCode != 3 || !slices.Equal(f.Log, []string{"about to exit with 3"}) || st.Reason != "crash_loop" {
			t.Fatalf("after three: %+v, fatal %+v", st, f)
		}
		// What it lacked came: a migration's database, perhaps.
		c.rt.AddImage("exit-3", fake.Image{Script: []string{"exit=0"}})
		c.after(8 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Fatal != nil || st.Containers["i0"].State != api.ContainerExited {
			t.Errorf("once it could: %+v", st)
		}
	})
}

func TestInitThatCannotStart(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", withInits("cannot-start"))
		c.after(time.Second / 2)
		if f := c.get("web-1").Status.Fatal; f == nil || f.Container != "i0" || f.Reason != "cannot_start" {
			t.Errorf("fatal is %+v", f)
		}
	})
}

func TestSidecarIsReadyBeforeMain(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", func(s *api.PodSpec) {
			one := 1
			s.Sidecars = map[string]api.Container{
				"mesh": {Image: "ready-after-5s", Ports: map[string]api.Port{"mesh": "15001"}, Health: &api.Health{TCP: new(true), Interval: "1s", Timeout: "1s", GracePeriod: "10s", Threshold: &one}},
				"log":  {Image: "vector:1"},
			}
		})
		c.after(4 * time.Second)
		st := c.get("web-1").Status
		if got := c.containers(); got != "log.0=running mesh.0=running" || st.Message != "mesh does not pass its health check: connect to 10.244.0.1:15001: connection refused" {
			t.Errorf("before the sidecar serves: %s, %+v", got, st)
		}
		c.after(2500 * time.Millisecond)
		if st := c.get("web-1").Status; !st.Ready {
			t.Errorf("once it does: %+v", st)
		}
		// A sidecar that serves is needed for serving, and comes back by itself; one
		// that does not is not missed.
		uid := c.get("web-1").Meta.UID
		c.rt.Crash(uid+".log.0", 1)
		c.after(100 * time.Millisecond)
		if st := c.get("web-1").Status; !st.Ready || st.Containers["log"].Ready {
			t.Errorf("without its log: %+v", st)
		}
		c.rt.Crash(uid+".mesh.0", 1)
		c.after(100 * time.Millisecond)
		if st := c.get("web-1").Status; st.Ready {
			t.Errorf("without its mesh: %+v", st)
		}
		c.after(10 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Containers["main"].Restarts != 0 || st.Containers["mesh"].Restarts != 1 {
			t.Errorf("after it restarted: %+v", st)
		}
	})
}

// However often a sidecar ends, the pod goes on.
func TestSidecarFailsNoPod(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", func(s *api.PodSpec) {
			s.Sidecars = map[string]api.Container{"log": {Image: "exit-1-after-1s"}}
		})
		c.after(10 * time.Minute)
		st := c.get("web-1").Status
		if st.Phase != api.PhaseRunning || !st.Ready || st.Containers["main"].Restarts != 0 || st.Containers["log"].Restarts < 10 || st.Fatal == nil || st.Fatal.Container != "log" {
			t.Errorf("status is %+v", st)
		}
	})
}

func TestStopGoesBackwards(t *testing.T) {
	run(t, func(c *cluster) {
		c.rt.AddImage("slow:1", fake.Image{Script: []string{"listen", "on-term=0,1s", "forever"}})
		c.create("web-1", func(s *api.PodSpec) {
			s.Image = "slow:1"
			s.Sidecars = map[string]api.Container{"a": {Image: "slow:1"}, "b": {Image: "slow:1"}}
		})
		c.after(time.Second)
		if err := c.pods.Delete(c.Context(), "default", "web-1", ""); err != nil {
			t.Fatal(err)
		}
		c.after(400 * time.Millisecond) // it is drained
		for _, want := range []string{"a.0=running b.0=running main.0=running", "a.0=running b.0=running main.0=exited", "a.0=running b.0=exited main.0=exited", ""} {
			if got := c.containers(); got != want {
				t.Errorf("the node has %q, want %q", got, want)
			}
			c.after(time.Second)
		}
	})
}

// once makes a pod of a job, with a sidecar that would run forever.
func once(image string) func(*api.PodSpec) {
	return func(s *api.PodSpec) {
		s.App, s.Job, s.Once, s.Image = "", "report", true, image
		s.Sidecars = map[string]api.Container{"log": {Image: "vector:1"}}
	}
}

func TestOnceEndsWithMain(t *testing.T) {
	run(t, func(c *cluster) {
		s := c.follow("job-1")
		c.create("job-1", once("exit-0-after-5s"))
		c.after(3 * time.Second)
		if st := c.get("job-1").Status; st.Phase != api.PhaseRunning {
			t.Errorf("while it works: %+v", st)
		}
		c.after(3 * time.Second)
		st := c.get("job-1").Status
		if st.Phase != api.PhaseSucceeded || st.Fatal != nil || st.Containers["main"].Last.Code != 0 || c.containers() != "" {
			t.Errorf("afterwards: %+v, %s", st, c.containers())
		}
		if got := s.String(); strings.Contains(got, "restarts") || !strings.HasSuffix(got, "stopping\nsucceeded") {
			t.Errorf("its story:\n%s", got)
		}
	})
}

func TestOnceFails(t *testing.T) {
	for image, want := range map[string]api.Cause{
		"exit-3-after-5s": {Reason: "exited", Message: "main exited with code 3 after 5s", ExitCode: new(3), Log: []string{"about to exit with 3"}},
		"oom-after-5s":    {Reason: "out_of_memory", Message: "main was killed after 5s for using more than its 64Mi of memory", ExitCode: new(137), OOM: true},
		"cannot-start":    {Reason: "cannot_start", Message: `main cannot start: exec: "/none": stat /none: no such file or directory; check command and image`},
		"missing":         {Reason: "image_unavailable", Message: "image missing is not on the node and cannot be fetched: not found; check its name, or load it with: clusterd image load <oci-tar>"},
	} {
		t.Run(image, func(t *testing.T) {
			run(t, func(c *cluster) {
				c.create("job-1", once(image))
				c.after(12 * time.Second)
				want.Pod, want.Node, want.Container = "job-1", "w1", "main"
				st := c.get("job-1").Status
				if st.Phase != api.PhaseFailed || st.Fatal == nil || fmt.Sprintf("%+v", deref(*st.Fatal)) != fmt.Sprintf("%+v", deref(want)) || c.containers() != "" {
					t.Errorf("status is %+v\nfatal %+v\nwant  %+v\n%s", st, deref(*st.Fatal), deref(want), c.containers())
				}
			})
		})
	}
}

// deref is a cause as it is compared.
func deref(c api.Cause) any {
	code := api.Deref(c.ExitCode)
	c.ExitCode = nil
	return []any{c, code}
}

// A pod that runs once never runs twice: not after an agent's restart or lost
// checkpoint, nor when its node was rebooted under it.
func TestOnceNeverTwice(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("job-1", once("exit-0-after-1m"))
		c.create("job-2", once("exit-0-after-20s"))
		c.after(10 * time.Second)
		c.stop()
		for uid := range must(c.node.Store.Load()) {
			c.node.Store.Delete(uid)
		}
		c.after(15 * time.Second)
		c.start()
		c.after(time.Second)
		if st := c.get("job-2").Status; st.Phase != api.PhaseSucceeded {
			t.Errorf("it ended while nobody looked: %+v", st)
		}
		c.stop()
		c.node.Reboot()
		c.start()
		c.after(5 * time.Second)
		st := c.get("job-1").Status
		if f := st.Fatal; st.Phase != api.PhaseFailed || f == nil || f.Reason != "unseen" {
			t.Errorf("after a reboot: %+v, %+v", st, f)
		}
		if got := c.containers(); got != "" {
			t.Errorf("the node has %s", got)
		}
	})
}

// What was asked to stop before it was done has not succeeded.
func TestOnceStoppedBeforeItsEnd(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("job-1", once("nginx:1"))
		c.after(time.Second)
		if err := c.pods.Delete(c.Context(), "default", "job-1", ""); err != nil {
			t.Fatal(err)
		}
		c.after(5 * time.Second)
		if st := c.get("job-1").Status; st.Phase != api.PhaseFailed || st.Fatal != nil {
			t.Errorf("status is %+v", st)
		}
	})
}

func TestAttemptsAreSpent(t *testing.T) {
	run(t, func(c *cluster) {
		four := 4
		c.create("web-1", func(s *api.PodSpec) {
			s.Image = "exit-3"
			s.Restart = &api.Restart{Backoff: "10s", MaxBackoff: "15s", ResetAfter: "10m", Attempts: &four}
			s.Sidecars = map[string]api.Container{"log": {Image: "vector:1"}}
		})
		c.after(36 * time.Second) // 10 + 15 + 15 less up to a quarter
		if st := c.get("web-1").Status; st.Phase.Ended() && st.Containers["main"].Restarts < 3 {
			t.Errorf("before: %+v", st)
		}
		c.after(10 * time.Second)
		st := c.get("web-1").Status
		if f := st.Fatal; st.Phase != api.PhaseFailed || f == nil || f.Reason != "crash_loop" || *f.ExitCode != 3 || !strings.Contains(f.Message, "4 times in a row") || c.containers() != "" {
			t.Errorf("afterwards: %+v, %+v, %s", st, f, c.containers())
		}
		if got := c.events("web-1"); !strings.Contains(got, "failed: the pod ends: main exited with code 3 after 0s, 4 times in a row") {
			t.Errorf("events are\n%s", got)
		}
	})
}

// pre_stop runs in main once nobody is sent here any more, and before the signal.
func TestPreStop(t *testing.T) {
	for name, tc := range map[string]struct {
		command []string
		ends    time.Duration // after the request to stop
		event   string
	}{
		"it ends":      {[]string{"sleep", "3"}, 3 * time.Second, ""},
		"it fails":     {[]string{"false"}, 0, "pre_stop_failed: pre_stop: false: exited with code 1; main is asked to end all the same"},
		"it is absent": {[]string{"nope"}, 0, `pre_stop_failed: pre_stop: nope: exec: "nope": executable file not found in $PATH; main is asked to end all the same`},
		"it hangs":     {[]string{"sleep", "1000"}, 9 * time.Second, "pre_stop_failed: pre_stop: sleep 1000: did not end within 9s; main is asked to end all the same"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(c *cluster) {
				c.create("web-1", func(s *api.PodSpec) { healthy(s); s.Stop.PreStop = tc.command })
				c.after(time.Second)
				if err := c.pods.Delete(c.Context(), "default", "web-1", ""); err != nil {
					t.Fatal(err)
				}
				c.after(tc.ends)
				if got := c.containers(); got != "main.0=running" {
					t.Errorf("too early: %s", got)
				}
				c.after(time.Second)
				if st := c.get("web-1").Status; st.Phase != api.PhaseSucceeded || st.Containers["main"].Last.Code != 0 {
					t.Errorf("too late: %+v", st)
				}
				got := c.events("web-1")
				if tc.event == "" && strings.Contains(got, "pre_stop_failed") || !strings.Contains(got, tc.event) {
					t.Errorf("events are\n%s", got)
				}
			})
		})
	}
}

func TestHostnameOfAnOrdinal(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("db-0-3", func(s *api.PodSpec) { s.App, s.Ordinal, s.Epoch = "db", new(0), 3 })
		c.after(time.Second)
		spec, _ := c.rt.Container(c.mainID("db-0-3"))
		if spec.Sandbox.Hostname != "db-0" {
			t.Errorf("it is called %s", spec.Sandbox.Hostname)
		}
	})
}
