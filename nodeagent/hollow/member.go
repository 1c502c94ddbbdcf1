package hollow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/agent"
)

// MemberConfig is how a node that is not a machine joins a cluster.
type MemberConfig struct {
	Servers []string // host:port; the first is asked to be let in
	Token   pki.JoinToken
	Labels  map[string]string
	// Proxied has the node follow endpoints as a machine's service proxy does,
	// and tell the servers how far it is: pods that stop anywhere wait for that.
	Proxied bool
	Node    Config // but for what the join tells
}

// Member is a node that is not a machine and has joined a cluster, with a
// certificate of its own: what a machine's nodeagent is, but for gossip, which
// is a matter of processes.
type Member struct {
	*Node
	GossipKeys [][]byte

	name    string
	proxied bool
	log     hclog.Logger
	id      *pki.Identity
	client  *client.Client
	leader  *client.Client

	mu      sync.Mutex
	reports map[string]*client.Client // by server
}

// Join makes a node a member of the cluster. It runs nothing yet.
func Join(ctx context.Context, cfg MemberConfig) (*Member, error) {
	n := cfg.Node
	res, err := pki.Join(ctx, cfg.Servers[0], cfg.Token, pki.JoinRequest{Name: n.Name, Address: "127.0.0.1", Labels: cfg.Labels, Program: daemon.UserAgent("nodeagent")})
	if err != nil {
		return nil, err
	}
	if n.Subnet, err = netip.ParsePrefix(res.Node.Subnet); err != nil {
		return nil, fmt.Errorf("subnet of node %s: %w", n.Name, err)
	}
	if n.Log == nil {
		n.Log = hclog.NewNullLogger()
	}
	m := &Member{GossipKeys: res.GossipKeys, name: n.Name, proxied: cfg.Proxied, log: n.Log, id: res.Identity}
	urls := agent.URLs(cfg.Servers)
	if m.client, err = client.New(client.Config{Addresses: urls, TLS: m.id.ClientTLS(), UserAgent: daemon.UserAgent("nodeagent")}); err != nil {
		return nil, err
	}
	// Who looks for the leader would draw the other requests there, too.
	if m.leader, err = m.client.At(urls); err != nil {
		return nil, err
	}
	if err := m.reportTo(cfg.Servers); err != nil {
		return nil, err
	}
	n.Client, n.Leader, n.Servers, n.TLS, n.ServersChanged = m.client, m.leader, cfg.Servers, m.id.ClientTLS(), m.serversChanged
	m.Node = New(n)
	return m, nil
}

// reportTo makes a client of each server: any of them may be asked how far the
// proxies are.
func (m *Member) reportTo(servers []string) error {
	reports := map[string]*client.Client{}
	for _, addr := range servers {
		c, err := m.client.At(agent.URLs([]string{addr}))
		if err != nil {
			return err
		}
		reports[addr] = c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = reports
	return nil
}

func (m *Member) serversChanged(all []*api.Server) {
	addrs := agent.Addresses(all)
	if err := errors.Join(m.client.Use(agent.URLs(addrs)), m.leader.Use(agent.URLs(addrs)), m.reportTo(addrs)); err != nil {
		m.log.Warn("cannot take over who the servers are", "servers", addrs, "error", err)
	}
}

// Close drops the node's connections, once it does not run.
func (m *Member) Close() { m.client.Close() }

// Run is the node's agent, and what else a machine does, until ctx ends. Its
// containers go on.
func (m *Member) Run(ctx context.Context) error {
	parts := []daemon.Runner{m.Node, daemon.Func(m.renew)}
	if m.proxied {
		parts = append(parts, daemon.Func(m.acknowledge))
	}
	return daemon.Run(ctx, parts...)
}

// renew keeps the node's certificate current.
func (m *Member) renew(ctx context.Context) error {
	return m.id.Keep(ctx, func(ctx context.Context) (err error) {
		m.mu.Lock()
		servers := slices.Sorted(maps.Keys(m.reports))
		m.mu.Unlock()
		for _, addr := range servers {
			if _, err = pki.Renew(ctx, addr, daemon.UserAgent("nodeagent"), m.id); err == nil {
				return nil
			}
		}
		return err
	}, func(err error) { m.log.Warn("certificate not renewed", "error", err) })
}

// Seeds returns the gossip addresses of the servers.
func (m *Member) Seeds(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return agent.Seeds(ctx, m.client)
}

// acknowledge is the node's service proxy: it has nothing to program, and
// tells how far it is, which a pod that stops anywhere waits for.
func (m *Member) acknowledge(ctx context.Context) error {
	endpoints, from, told := client.Of(m.client, api.EndpointSlices), int64(0), int64(0)
	for ctx.Err() == nil {
		wait := 100 * time.Millisecond
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
			if told = from; !m.applied(ctx, from) {
				wait = time.Second // the first bookmark of the next watch is told again
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			told = 0
		}
	}
	return nil
}

// applied tells every server how far the proxy is; false says that one of them
// has not heard.
func (m *Member) applied(ctx context.Context, revision int64) (heard bool) {
	m.mu.Lock()
	reports := slices.Collect(maps.Values(m.reports))
	m.mu.Unlock()
	heard = true
	path := client.Path(api.Nodes.Info(), "", m.name) + "/applied"
	for _, c := range reports {
		if c.Call(ctx, http.MethodPost, path, nil, api.AppliedReport{Revision: revision}, nil) != nil {
			heard = false
		}
	}
	return heard
}
