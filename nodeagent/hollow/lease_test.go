package hollow_test

import (
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func stateful(isolation string) func(*api.PodSpec) {
	return func(s *api.PodSpec) {
		ordinal := 0
		s.App, s.Ordinal, s.Epoch, s.Isolation = "db", &ordinal, 7, isolation
	}
}

// A pod of an ordinal knows who it is, whatever its own name.
func TestOrdinalKnowsItself(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("db-0-7", stateful(api.StopIsolated))
		c.after(3 * time.Second)
		spec, ok := c.rt.Container(c.mainID("db-0-7"))
		if !ok || spec.Sandbox.Hostname != "db-0" {
			t.Fatalf("container is %+v", spec)
		}
		env := map[string]bool{}
		for _, kv := range spec.Env {
			env[kv] = true
		}
		if !env["CLUSTERD_ORDINAL=0"] || !env["CLUSTERD_EPOCH=7"] {
			t.Errorf("environment is %v", spec.Env)
		}
	})
}

// A node that is cut off kills what may run elsewhere when its lease ends, and
// nothing else; when it is back, it says so, and does not start the pod again.
func TestIsolatedPodEnds(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("db-0-7", stateful(api.StopIsolated))
		c.create("db-0-8", stateful(api.KeepIsolated))
		c.create("web-1", healthy)
		c.after(5 * time.Second)
		if st := c.get("db-0-7").Status; !st.Ready {
			t.Fatalf("not ready: %+v", st)
		}
		stop, keep, web := c.mainID("db-0-7"), c.mainID("db-0-8"), c.mainID("web-1")
		c.cut.Store(true)
		c.after(14 * time.Second)
		if !c.rt.Listening(stop) {
			t.Fatal("killed while its lease lasts")
		}
		c.after(7 * time.Second)
		if c.rt.Listening(stop) {
			t.Error("runs without a lease")
		}
		if !c.rt.Listening(keep) || !c.rt.Listening(web) {
			t.Error("what needs no lease was stopped")
		}
		c.cut.Store(false)
		c.after(30 * time.Second)
		if st := c.get("db-0-7").Status; st.Phase != api.PhaseFailed || st.Reason != api.Isolated || st.Message == "" {
			t.Errorf("status is %+v", st)
		}
		if c.rt.Listening(stop) {
			t.Error("it was started again")
		}
	})
}

// Restarts of the agent are no isolation: the lease is in a file.
func TestLeaseOutlivesTheAgent(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("db-0-7", stateful(api.StopIsolated))
		c.after(5 * time.Second)
		id := c.mainID("db-0-7")
		c.stop()
		c.after(3 * time.Second)
		c.start()
		c.after(30 * time.Second)
		if !c.rt.Listening(id) || c.get("db-0-7").Status.Restarts() != 0 {
			t.Errorf("the agent's restart was taken for isolation: %+v", c.get("db-0-7").Status)
		}
	})
}

// An agent that is gone, and comes back to a cluster that cannot be reached,
// leaves nothing running that its lease does not cover.
func TestLeaseEndsWithoutAnAgent(t *testing.T) {
	run(t, func(c *cluster) {
		c.create("db-0-7", stateful(api.StopIsolated))
		c.after(5 * time.Second)
		id := c.mainID("db-0-7")
		c.stop() // dead, or frozen
		c.after(25 * time.Second)
		if c.rt.Listening(id) {
			t.Error("runs on although nobody renews the lease")
		}
		c.start()
		c.after(30 * time.Second)
		if st := c.get("db-0-7").Status; st.Phase != api.PhaseFailed || st.Reason != api.Isolated {
			t.Errorf("status is %+v", st)
		}
	})
}
