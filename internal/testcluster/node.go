package testcluster

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
)

// Node is a machine of the cluster but for its containers: the real agent over
// the wire and real gossip, with the fake runtime, whose images do what their
// names say (see nodeagent/runtime/fake).
type Node struct {
	Hollow *hollow.Node // its runtime and network, to be meddled with
	Agent  *Process     // can be stopped alone: then the machine still gossips

	supervisor *Process
	name       string
	client     *client.Client
	each       []*client.Client // of one server alone
	keys       [][]byte
	log        hclog.Logger
}

// newNode joins name to the cluster at server. It does not run yet.
func newNode(t testing.TB, name string, servers []string, token, dir string, log hclog.Logger) (*Node, error) {
	parsed, err := pki.ParseJoinToken(token)
	if err != nil {
		return nil, err
	}
	res, err := pki.Join(t.Context(), servers[0], parsed, pki.JoinRequest{Name: name, Address: "127.0.0.1"})
	if err != nil {
		return nil, err
	}
	subnet, err := netip.ParsePrefix(res.Node.Subnet)
	if err != nil {
		return nil, fmt.Errorf("subnet of node %s: %w", name, err)
	}
	connect := func(servers ...string) (*client.Client, error) {
		var urls []string
		for _, s := range servers {
			urls = append(urls, "https://"+s)
		}
		c, err := client.New(client.Config{Addresses: urls, TLS: res.Identity.ClientTLS(), UserAgent: "nodeagent"})
		if err == nil {
			t.Cleanup(c.Close)
		}
		return c, err
	}
	c, err := connect(servers...)
	if err != nil {
		return nil, err
	}
	leader, err := connect(servers...)
	if err != nil {
		return nil, err
	}
	var each []*client.Client
	for _, s := range servers {
		one, err := connect(s)
		if err != nil {
			return nil, err
		}
		each = append(each, one)
	}
	n := &Node{name: name, client: c, each: each, keys: res.GossipKeys, log: log.Named(name)}
	n.Hollow = hollow.New(hollow.Config{
		Name: name, Client: c, Subnet: subnet, Logs: filepath.Join(dir, name, "logs"), Contents: filepath.Join(dir, name, "contents"),
		Leader: leader, Servers: servers, TLS: res.Identity.ClientTLS(), Log: n.log,
	})
	n.supervisor = &Process{name: name + "'s supervisor", t: t, start: n.startSupervisor}
	n.Agent = &Process{name: name + "'s agent", t: t, start: func(context.Context) (running, error) {
		return running{run: func(ctx context.Context) error {
			return daemon.Run(ctx, n.Hollow, daemon.Func(n.acknowledge))
		}}, nil
	}}
	return n, nil
}

func (n *Node) startSupervisor(ctx context.Context) (running, error) {
	g, err := gossip.Open(gossip.Config{
		Name: pki.ID{Role: pki.Node, Name: n.name}.String(), Bind: "127.0.0.1:0", Keys: n.keys, Log: n.log,
		Seeds: func() []string { return n.seeds(ctx) },
	})
	if err != nil {
		return running{}, err
	}
	return running{run: g.Run}, nil
}

func (n *Node) seeds(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	servers, _, err := client.Of(n.client, api.Servers).List(ctx, "", nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range servers {
		if s.Spec.Gossip != "" {
			out = append(out, s.Spec.Gossip)
		}
	}
	return out
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

// acknowledge is the node's service proxy: it has nothing to program, and
// tells how far it is, which a pod that stops anywhere waits for.
func (n *Node) acknowledge(ctx context.Context) error {
	endpoints, from, told := client.Of(n.client, api.EndpointSlices), int64(0), int64(0)
	for ctx.Err() == nil {
		if from == 0 {
			if _, rev, err := endpoints.List(ctx, "", nil); err == nil {
				from = rev
			}
		}
		for ev, err := range endpoints.Watch(ctx, "", nil, from) {
			if err != nil {
				from = 0
				break
			}
			if from = ev.Revision; ev.Type == api.EventBookmark && told > 0 {
				continue
			}
			path := client.Path(api.Nodes.Info(), "", n.name) + "/applied"
			told = from
			for _, one := range n.each { // any of them may be asked
				if one.Call(ctx, http.MethodPost, path, nil, api.AppliedReport{Revision: from}, nil) != nil {
					told = 0
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			told = 0
		}
	}
	return nil
}
