package hollow_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// asks gives main a health check of commands.
func asks(h api.Health) func(*api.PodSpec) {
	three := 3
	for _, c := range []*api.Check{h.Start, h.Ready, h.Live} {
		if c != nil {
			c.Interval, c.Timeout = "2s", "1s"
			if c.Threshold == nil {
				c.Threshold = &three
			}
		}
	}
	return func(s *api.PodSpec) { s.Health = &h }
}

func TestExecCheck(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", asks(api.Health{Exec: []string{"true"}}))
		c.after(15 * time.Second)
		if st := c.get("web-1").Status; !st.Ready {
			t.Errorf("status is %+v", st)
		}
		c.rt.SetCommands(c.mainID("web-1"), 2)
		c.after(7 * time.Second)
		if st := c.get("web-1").Status; st.Ready || st.Message != "main does not pass its health check: true: exited with code 2" || st.Restarts() != 0 {
			t.Errorf("after three failures: %+v", st)
		}
		c.after(15 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Restarts() != 1 {
			t.Errorf("after nine: %+v", st)
		}
		if got := c.events("web-1"); !strings.Contains(got, "9 health checks failed in a row: true: exited with code 2") {
			t.Errorf("events are\n%s", got)
		}
	})
}

// A command that hangs has failed; a runtime that is away says nothing about
// the container.
func TestExecCheckThatHangs(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", asks(api.Health{Ready: &api.Check{Exec: []string{"sleep", "5"}}, Live: &api.Check{Exec: []string{"true"}}}))
		c.after(15 * time.Second)
		if st := c.get("web-1").Status; st.Ready || st.Message != "main does not pass its ready check: sleep 5: did not end within 1s" || st.Restarts() != 0 {
			t.Errorf("status is %+v", st)
		}
		c.rt.Break(fmt.Errorf("containerd is away"))
		c.after(time.Minute)
		c.rt.Break(nil)
		c.after(10 * time.Second)
		if st := c.get("web-1").Status; st.Restarts() != 0 {
			t.Errorf("after the runtime was away: %+v", st)
		}
	})
}

// ready decides about requests and live about restarts, each alone.
func TestReadyAndLiveAreApart(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("web-1", asks(api.Health{Ready: &api.Check{HTTP: "/ready"}, Live: &api.Check{Exec: []string{"true"}}}))
		c.after(15 * time.Second)
		c.rt.SetListening(c.mainID("web-1"), false)
		c.after(time.Minute)
		if st := c.get("web-1").Status; st.Ready || st.Restarts() != 0 || !strings.HasPrefix(st.Message, "main does not pass its ready check: GET http://10.244.0.1:80/ready") {
			t.Errorf("not ready: %+v", st)
		}
		c.rt.SetListening(c.mainID("web-1"), true)
		c.after(3 * time.Second)
		c.rt.SetCommands(c.mainID("web-1"), 1)
		c.after(3 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Restarts() != 0 {
			t.Errorf("failing to live, at first: %+v", st)
		}
		c.after(4 * time.Second)
		if st := c.get("web-1").Status; st.Restarts() != 1 {
			t.Errorf("failing to live: %+v", st)
		}
		if got := c.events("web-1"); !strings.Contains(got, "3 live checks failed in a row: true: exited with code 1") {
			t.Errorf("events are\n%s", got)
		}
	})
}

func TestStartCheck(t *testing.T) {
	run(t, func(c *cluster) {
		ten := 10
		start := func(s *api.PodSpec) {
			asks(api.Health{HTTP: "/", Start: &api.Check{Exec: []string{"true"}, Threshold: &ten}})(s)
		}
		// It listens, and is not asked whether it does before it has started.
		c.create("web-1", func(s *api.PodSpec) { start(s); s.Image = "commands-1" })
		c.after(12 * time.Second)
		if st := c.get("web-1").Status; st.Ready || st.Restarts() != 0 || st.Message != "main does not pass its start check: true: exited with code 1" {
			t.Errorf("before it has started: %+v", st)
		}
		c.rt.SetCommands(c.mainID("web-1"), 0)
		c.after(3 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Restarts() != 0 {
			t.Errorf("once it has: %+v", st)
		}
		// … and is not asked again.
		c.rt.SetCommands(c.mainID("web-1"), 1)
		c.after(time.Minute)
		if st := c.get("web-1").Status; !st.Ready || st.Restarts() != 0 {
			t.Errorf("later: %+v", st)
		}
		// Its last failure in a row restarts, and three of those are certain.
		c.create("web-2", func(s *api.PodSpec) { start(s); s.Image = "commands-1" })
		c.after(17 * time.Second)
		if st := c.get("web-2").Status; st.Restarts() != 0 {
			t.Errorf("it had not its time: %+v", st)
		}
		c.after(time.Minute)
		f := c.get("web-2").Status.Fatal
		if f == nil || f.Reason != "unhealthy" || !strings.Contains(f.Message, "10 start checks failed in a row: true: exited with code 1, 3 times in a row") {
			t.Errorf("fatal is %+v", f)
		}
	})
}

// P9: what checks came to survives the agent. Neither does readiness flip, nor
// does a failing container begin its count anew with each restart of the agent.
func TestAgentRestartsAndChecksGoOn(t *testing.T) {
	run(t, func(c *cluster) {
		five := 5
		c.create("web-1", asks(api.Health{Start: &api.Check{Exec: []string{"true"}}, Ready: &api.Check{HTTP: "/"}, Live: &api.Check{Exec: []string{"true"}, Threshold: &five}}))
		c.create("web-2", healthy)
		c.after(20 * time.Second)
		s := c.follow("web-1")
		c.rt.SetCommands(c.mainID("web-1"), 1) // it would not start again, and does not live
		for range 2 {
			c.after(3 * time.Second)
			c.stop()
			c.after(time.Second)
			c.start()
		}
		s.expect(t, "running ready")
		// Two failures before each restart of the agent, two at once after the
		// second: the fifth is near.
		c.after(3 * time.Second)
		st := c.get("web-1").Status
		if st.Restarts() != 1 {
			t.Errorf("restarts of the agent have reset its count: %+v", st)
		}
		c.stop()
		c.start()
		c.after(time.Second)
		if after := c.get("web-1").Status; after.Restarts() != 1 || after.Containers["main"].Last == nil {
			t.Errorf("before\n%+v\nafter\n%+v", st, after)
		}
		if st := c.get("web-2").Status; !st.Ready || st.Restarts() != 0 {
			t.Errorf("its neighbour: %+v", st)
		}
	})
}
