package server

import (
	"context"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/controller"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// witness is what gossip and the tunnels say of the nodes, as the node loop
// wants to hear it.
type witness struct {
	gossip  gossip.Source
	hub     *tunnel.Hub
	changed chan struct{}
	began   time.Time
}

func newWitness(g gossip.Source, hub *tunnel.Hub) *witness {
	return &witness{gossip: g, hub: hub, changed: make(chan struct{}, 1), began: time.Now()}
}

// Gossip returns what the members think of each node. A node that is a member
// itself needs nobody to speak for it.
func (w *witness) Gossip() map[string]controller.Heard {
	out := map[string]controller.Heard{}
	members := w.gossip.Members()
	for _, m := range members {
		for _, node := range m.Crew() {
			out[node] = heard(m)
		}
	}
	for _, m := range members {
		if node, ok := strings.CutPrefix(m.Name, string(pki.Node)+":"); ok {
			out[node] = heard(m)
		}
	}
	return out
}

func heard(m gossip.Member) controller.Heard {
	return controller.Heard{State: controller.Hearsay(m.State), Since: m.Since}
}

// unheard is how long a server may be there without having been heard of: it
// takes a moment until a new one is.
const unheard = 30 * time.Second

// dead reports whether the other members miss a server that has joined at a
// time. What was heard before that is of another who had the name.
func (w *witness) dead(server string, joined time.Time) bool {
	for _, m := range w.gossip.Members() {
		switch {
		case m.Name != (pki.ID{Role: pki.Server, Name: server}).String():
		case m.State == gossip.Alive:
			return false
		case m.Since.After(joined):
			return true
		}
	}
	return time.Since(w.began) > unheard && time.Since(joined) > unheard
}

// Streams returns the nodes whose agents are connected here.
func (w *witness) Streams() map[string]time.Time { return w.hub.Connected() }

// Changes carries a signal after either changed. It has one reader.
func (w *witness) Changes() <-chan struct{} { return w.changed }

// Run merges the signals of both until ctx is done.
func (w *witness) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.gossip.Changes():
		case <-w.hub.Changes():
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}
