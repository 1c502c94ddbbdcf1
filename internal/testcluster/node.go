package testcluster

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
)

// Node is a machine of the cluster but for its containers: the real agent over
// the wire and real gossip, with the fake runtime, whose images do what their
// names say (see nodeagent/runtime/fake).
type Node struct {
	Hollow *hollow.Member // its runtime and network, to be meddled with
	Agent  *Process       // can be stopped alone: then the machine still gossips

	supervisor *Process
	name       string
	log        hclog.Logger
}

// newNode joins name to the cluster at server. It does not run yet.
func newNode(t testing.TB, name string, servers []string, token, dir string, log hclog.Logger) (*Node, error) {
	parsed, err := pki.ParseJoinToken(token)
	if err != nil {
		return nil, err
	}
	n := &Node{name: name, log: log.Named(name)}
	n.Hollow, err = hollow.Join(t.Context(), hollow.MemberConfig{
		Servers: servers, Token: parsed, Proxied: true,
		Node: hollow.Config{Name: name, Logs: filepath.Join(dir, name, "logs"), Contents: filepath.Join(dir, name, "contents"), Log: n.log},
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(n.Hollow.Close)
	n.supervisor = &Process{name: name + "'s supervisor", t: t, start: n.startSupervisor}
	n.Agent = &Process{name: name + "'s agent", t: t, start: func(context.Context) (running, error) {
		return running{run: n.Hollow.Run}, nil
	}}
	return n, nil
}

func (n *Node) startSupervisor(ctx context.Context) (running, error) {
	g, err := gossip.Open(gossip.Config{
		Name: pki.ID{Role: pki.Node, Name: n.name}.String(), Bind: "127.0.0.1:0", Keys: n.Hollow.GossipKeys, Log: n.log,
		Seeds: func() []string { return n.Hollow.Seeds(ctx) },
	})
	if err != nil {
		return running{}, err
	}
	return running{run: g.Run}, nil
}

// Start boots the node.
func (n *Node) Start() {
	n.supervisor.t.Helper()
	n.supervisor.Start()
	n.Agent.Start()
}

// Kill cuts the node's power: agent, gossip and containers are gone at once.
func (n *Node) Kill() {
	n.supervisor.t.Helper()
	n.supervisor.Kill()
	n.Agent.Kill()
	n.Hollow.Reboot()
}
