package apiserver

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// idsOf is what a member says that has taken over a set.
func idsOf(t *testing.T, set *keys.Set) api.KeyIDs {
	t.Helper()
	ca, err := pki.OpenCA(set.CA)
	if err != nil {
		t.Fatal(err)
	}
	return api.KeyIDs{Authorities: pki.AuthorityIDs(ca.PEM()), Gossip: pki.KeyIDs(set.GossipKeys())}
}

// TestPlanGossip: at each step members that are ready and members that are not
// yet understand each other, and a step waits for those that are not.
func TestPlanGossip(t *testing.T) {
	first, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	if p := planGossip(first, nil); p.next != nil {
		t.Errorf("with one key there is something to do: %s", p)
	}
	steps := []*keys.Set{first}
	fresh, err := first.RenewGossip()
	for set := fresh; err == nil && set != nil; {
		steps = append(steps, set)
		if _, err := set.RenewGossip(); err == nil && len(steps) < 4 {
			t.Errorf("step %d: another rotation begins", len(steps))
		}
		before, now := steps[len(steps)-2], idsOf(t, set)
		understands := func(a, b api.KeyIDs) bool {
			all := strings.Split(a.Gossip, ",")
			return strings.Contains(b.Gossip, all[len(all)-1])
		}
		if late := idsOf(t, before); !understands(late, now) || !understands(now, late) {
			t.Errorf("step %d: %s and %s do not understand each other", len(steps), late.Gossip, now.Gossip)
		}
		ready := []member{{name: "server s1", has: now}, {name: "node w1", has: now}}
		next := planGossip(set, ready)
		if len(next.waits) > 0 {
			t.Errorf("step %d waits for those that are ready: %s", len(steps), next)
		}
		if next.next != nil {
			for want, m := range map[string]member{
				"node w2 has not taken over":        {name: "node w2", has: idsOf(t, before)},
				"node w2 does not say which":        {name: "node w2"},
				"node w2 is without its agent, and": {name: "node w2", has: idsOf(t, before), deaf: "without its agent, and"},
			} {
				if p := planGossip(set, append(ready, m)); len(p.waits) != 1 || !strings.HasPrefix(p.waits[0], want) {
					t.Errorf("step %d: want %q:\n%s", len(steps), want, p)
				}
			}
		}
		set = next.next
	}
	if err != nil {
		t.Fatal(err)
	}
	last := steps[len(steps)-1]
	if len(steps) != 4 || len(last.GossipKeys()) != 1 || idsOf(t, last).Gossip == idsOf(t, first).Gossip {
		t.Errorf("after %d steps members gossip with %s, before with %s", len(steps), idsOf(t, last).Gossip, idsOf(t, first).Gossip)
	}
}

// TestAuthoritiesWaitForStores: servers that have run since before a new authority
// are locked out of each other's stores when it is the only one.
func TestAuthoritiesWaitForStores(t *testing.T) {
	set, err := keys.New("test")
	if err == nil {
		set, err = set.RenewAuthority("test")
	}
	if err != nil {
		t.Fatal(err)
	}
	has, now := idsOf(t, set), time.Now()
	for _, tc := range []struct {
		since time.Time
		waits int
	}{{now.Add(-time.Minute), 1}, {now.Add(time.Second), 0}, {time.Time{}, 0}} {
		p := planAuthorities(set, []member{{name: "server s1", has: has, since: tc.since}, {name: "node w1", has: has}})
		if len(p.waits) != tc.waits || tc.waits > 0 && !strings.Contains(p.waits[0], "server s1 has run since before that authority") {
			t.Errorf("started at %s: %s", tc.since, p)
		}
	}
}

// TestRotateByItself: the keys to gossip with go all the way once members say
// that they have them; authorities are forgotten only when nobody is locked out.
func TestRotateByItself(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		nodes := client.Of(c, api.Nodes)
		n := must(nodes.Create(t.Context(), &api.Node{Meta: api.Meta{Name: "w1"}}))(t)
		now := func() (k api.Keys) {
			if code, got := call(s, system, "GET", "/v1/keys", ""); code != 200 || json.Unmarshal([]byte(got), &k) != nil {
				t.Fatalf("%d %s", code, got)
			}
			return k
		}
		tell := func(ids api.KeyIDs) {
			n.Status.Keys = ids
			n = must(nodes.PutStatus(t.Context(), n))(t)
		}
		call(s, system, "PUT", "/v1/nodes/w1/health", `{"status":{"health":{"verdict":"ready"}}}`)
		start := now()
		tell(start.KeyIDs)
		rotate := func(what string, want int) string {
			code, got := call(s, system, "POST", "/v1/keys/"+what, "")
			if code != want {
				t.Fatalf("rotate %s: %d %s", what, code, got)
			}
			return got
		}
		if code, _ := call(s, Identity{Role: RoleNode, Name: "w1"}, "POST", "/v1/keys/gossip", ""); code != 403 {
			t.Errorf("a node may rotate: %d", code)
		}
		rotate("frob", 422)
		rotate("gossip?forget=true", 422)
		rotate("gossip", 200)
		for step := range 2 {
			waiting := now()
			time.Sleep(10 * keysSettle)
			if again := now(); again.Gossip != waiting.Gossip {
				t.Fatalf("step %d did not wait for w1", step)
			}
			if len(waiting.Waits) != 1 || !strings.Contains(waiting.Waits[0], "node w1") {
				t.Errorf("step %d waits for %q", step, waiting.Waits)
			}
			tell(waiting.KeyIDs)
			time.Sleep(2 * keysSettle)
		}
		if end := now(); end.Next != "" || strings.Contains(end.Gossip, ",") || end.Gossip == start.Gossip {
			t.Errorf("in the end: %+v", end)
		}
		if got := rotate("authorities?forget=true", 409); !strings.Contains(got, "one authority only") {
			t.Error(got)
		}
		rotate("authorities", 200)
		if got := rotate("authorities?forget=true", 409); !strings.Contains(got, "node w1 has not taken over") {
			t.Error(got)
		}
		tell(now().KeyIDs)
		rotate("authorities?forget=true", 200)
		if end := now(); strings.Contains(end.Authorities, ",") || end.Authorities == start.Authorities {
			t.Errorf("authorities in the end: %s", end.Authorities)
		}
	})
}
