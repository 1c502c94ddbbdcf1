package machinetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestNodeDeaths cuts the power of nodes, ten times: how long until the verdict,
// and until what ran there runs elsewhere, in the median and at worst.
func TestNodeDeaths(t *testing.T) {
	soak(t)
	c := up(t, "deaths")
	c.fleet(t, 30095)
	nodes, pods := client.Of(c.connect(t, 0), api.Nodes), client.Of(c.connect(t, 0), api.Pods)
	var judged, healed []time.Duration
	for range 10 {
		c.settled(t, 6)
		victim := c.pods(t, "steady")[0].Spec.Node
		died := time.Now()
		c.must(t, "dev", "node", "stop", victim, "--name", c.name)
		eventually(t, 30*time.Second, victim+" is dead", func() bool {
			o, err := nodes.Get(t.Context(), "", victim)
			return err == nil && o.Status.Health.Verdict == api.VerdictDead
		})
		judged = append(judged, time.Since(died).Round(time.Millisecond))
		eventually(t, 30*time.Second, "six pods are ready on other nodes", func() bool {
			all, _, err := pods.List(t.Context(), "default", nil)
			ready := 0
			for _, p := range all {
				if p.Spec.App == "steady" && p.Status.Ready && p.Spec.Node != victim && !p.Status.Phase.Ended() {
					ready++
				}
			}
			return err == nil && ready == 6
		})
		healed = append(healed, time.Since(died).Round(time.Millisecond))
		c.must(t, "dev", "node", "start", victim, "--name", c.name)
	}
	for what, took := range map[string][]time.Duration{"dead": judged, "healed": healed} {
		slices.Sort(took)
		t.Logf("%s after: median %s, worst %s", what, took[5], took[9])
	}
	if judged[9] > 5*time.Second || healed[9] > 10*time.Second {
		t.Errorf("want the verdict within 5s and replacements within 10s: %s and %s", judged, healed)
	}
}

// settled waits until so many pods are ready and none is on its way out.
func (c *cluster) settled(t testing.TB, replicas int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%d pods are ready", replicas), func() bool {
		pods := c.pods(t, "steady")
		return len(pods) == replicas && !slices.ContainsFunc(pods, func(p *api.Pod) bool { return !p.Status.Ready })
	})
}
