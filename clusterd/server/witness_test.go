package server

import (
	"testing"

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
