package server

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/controller"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// crewed is members of whom one speaks for others.
type crewed struct{ *gossip.Simulated }

func (c crewed) Members() []gossip.Member {
	name, meta := gossip.Crew("h", 3)
	return append(c.Simulated.Members(), gossip.Member{Name: name, Meta: meta, State: gossip.Alive})
}

// A node is heard of by its own word, or by that of who speaks for it.
func TestWitnessHearsOfCrews(t *testing.T) {
	g := gossip.NewSimulated()
	g.Set("node:h-2", gossip.Dead)
	g.Set("node:w1", gossip.Alive)
	g.Set("server:s1", gossip.Alive)
	got := newWitness(crewed{g}, tunnel.NewHub(nil)).Gossip()
	for name, want := range map[string]controller.Hearsay{"h-1": controller.Alive, "h-2": controller.Dead, "h-3": controller.Alive, "w1": controller.Alive} {
		if got[name].State != want {
			t.Errorf("%s is %q", name, got[name].State)
		}
	}
	if len(got) != 4 {
		t.Errorf("heard of %v", got)
	}
}

// A server that has just joined is not dead because nobody has heard of it yet,
// nor because one that had its name before is.
func TestWhoHasJustJoinedIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gossip.NewSimulated()
		w := newWitness(g, tunnel.NewHub(nil))
		g.Set("server:s2", gossip.Dead)
		time.Sleep(time.Hour)
		joined := time.Now()
		check := func(when string, want ...bool) {
			t.Helper()
			for i, name := range []string{"s2", "s3"} {
				if got := w.dead(name, joined); got != want[i] {
					t.Errorf("%s: %s is dead: %v", when, name, got)
				}
			}
		}
		check("at once", false, false)
		time.Sleep(time.Second)
		g.Set("server:s2", gossip.Alive)
		g.Set("server:s3", gossip.Alive)
		check("once they are heard of", false, false)
		g.Set("server:s2", gossip.Dead)
		check("one is missed", true, false)
		joined = time.Now().Add(time.Minute)
		time.Sleep(time.Minute + unheard + time.Second)
		g.Set("server:s3", gossip.Alive)
		if !w.dead("s2", joined) || !w.dead("s4", joined) || w.dead("s3", joined) {
			t.Error("who is not heard of for long is alive, or who is heard of is dead")
		}
	})
}
