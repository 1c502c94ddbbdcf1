package machinetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// testKeys: the keys that servers and nodes share are changed for new ones while
// everything runs: no request is lost, no container restarted, and no node is
// taken for another than it is. What comes after this test starts agents and
// servers with the new keys.
func testKeys(t *testing.T, c *cluster) {
	now := func() (k api.Keys) {
		if err := json.Unmarshal([]byte(c.must(t, "keys", "show", "-o", "json")), &k); err != nil {
			t.Fatal(err)
		}
		return k
	}
	before, running := now(), c.pids(t, "web")
	load := startLoad(c.nodePorts(t)...)
	steady := func(what string, done func(api.Keys) bool) (k api.Keys) {
		eventually(t, time.Minute, what, func() bool {
			for _, n := range c.nodes(t) {
				if n.Status.Health.Verdict != api.VerdictReady {
					t.Fatalf("while %s node %s is %s", what, n.Meta.Name, n.Status.Health.Verdict)
				}
			}
			k = now()
			return done(k)
		})
		return k
	}

	c.must(t, "keys", "rotate", "gossip")
	if out := c.try("keys", "rotate", "gossip"); !strings.Contains(out, "being rotated already") {
		t.Errorf("another rotation beside the first: %s", out)
	}
	after := steady("one key to gossip with is left", func(k api.Keys) bool { return k.Next == "" })
	if after.Gossip == before.Gossip || strings.Contains(after.Gossip, ",") {
		t.Errorf("members gossip with %s, and did with %s", after.Gossip, before.Gossip)
	}

	c.must(t, "keys", "rotate", "authorities")
	both := steady("all have a certificate of the new authority", func(k api.Keys) bool { return k.Next != "" && len(k.Waits) == 0 })
	c.must(t, "keys", "rotate", "authorities", "--forget")
	newest, old, _ := strings.Cut(both.Authorities, ",")
	if old != before.Authorities {
		t.Errorf("the authorities are %s, with %s before", both.Authorities, before.Authorities)
	}
	steady("all trust the new authority alone", func(k api.Keys) bool {
		return !slices.ContainsFunc(c.nodes(t), func(n *api.Node) bool {
			return n.Status.Keys.Authorities != newest || n.Status.Keys.Gossip != after.Gossip
		})
	})

	load.mustBeClean(t, "keys rotated")
	if still := c.pids(t, "web"); fmt.Sprint(still) != fmt.Sprint(running) {
		t.Errorf("processes and restarts are %v, were %v", still, running)
	}
}
