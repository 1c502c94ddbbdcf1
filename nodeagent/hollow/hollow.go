// Package hollow is nodes that are not machines: the real agent and the real
// pod workers over a runtime and a network that are data. Thousands live in
// one process, in a test's virtual time if need be.
//
// Invariants: what differs from a machine is the runtime, the network and who
// answers health checks, nothing else; a Node outlives its agent, as a machine
// does: Run again is the agent's restart.
package hollow

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/agent"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/lease"
)

// Config of a Node. Name and Client are required.
type Config struct {
	Name    string
	Client  *client.Client
	Leader  *client.Client // nil: Client
	Runtime *fake.Runtime  // a new one when nil
	Subnet  netip.Prefix   // of pod addresses; by default 10.244.0.0/24
	Has     api.Resources  // by default 8 cores, 16Gi and 250 pods
	Address string         // of the node; by default 127.0.0.1
	Logs    string         // directory of container logs; "" keeps none
	Lease   string         // file of the run lease; "" keeps it in memory alone
	// Contents is the directory for what pods use of configs and secrets; ""
	// keeps it in memory.
	Contents string
	Servers  []string    // API servers (host:port) to open tunnels to, with TLS
	TLS      *tls.Config // nil: no tunnels
	Idle     bool        // take pods, and run none of them
	// ServersChanged hears of all servers whenever one changes; nil: not wanted.
	ServersChanged func([]*api.Server)
	Log            hclog.Logger
}

// Node is a node that is not a machine. Use New.
type Node struct {
	Runtime *fake.Runtime
	Network *Network
	Storage *Storage
	Store   *agent.Memory // the node's disk

	cfg   Config
	clock lease.Clock
}

// New returns a Node that has run nothing yet.
func New(cfg Config) *Node {
	if cfg.Runtime == nil {
		cfg.Runtime = fake.New()
	}
	if !cfg.Subnet.IsValid() {
		cfg.Subnet = netip.MustParsePrefix("10.244.0.0/24")
	}
	cfg.Has = cmp.Or(cfg.Has, api.Resources{CPU: "8", Memory: "16Gi", Pods: 250})
	cfg.Address = cmp.Or(cfg.Address, "127.0.0.1")
	// Time since boot is the caller's, which may be a test's.
	booted := time.Now()
	clock := func() time.Duration { return time.Since(booted) }
	cfg.Runtime.SetClock(clock)
	network := &Network{subnet: cfg.Subnet, node: netip.MustParseAddr(cfg.Address)}
	return &Node{clock: clock, Runtime: cfg.Runtime, Network: network, Storage: &Storage{lookup: lookup(cfg.Client)}, Store: &agent.Memory{}, cfg: cfg}
}

// Run is the node's agent, until ctx ends. Its containers go on.
func (n *Node) Run(ctx context.Context) error { return n.Agent().Run(ctx) }

// Agent returns a new agent for the node; one runs at a time.
func (n *Node) Agent() *agent.Agent {
	return agent.New(agent.Config{
		Name: n.cfg.Name, Client: n.cfg.Client, Leader: n.cfg.Leader, Runtime: n.Runtime, Network: n.Network, Storage: n.Storage, Prober: prober{n.Runtime},
		Dial: n.dial, Lease: agent.Lease{Path: n.cfg.Lease, Clock: n.clock},
		Store: n.Store, Logs: n.cfg.Logs, Contents: n.cfg.Contents, Idle: n.cfg.Idle, Servers: n.cfg.Servers, ServersChanged: n.cfg.ServersChanged, TLS: n.cfg.TLS, Log: n.cfg.Log,
		Status: api.NodeStatus{
			Address: n.cfg.Address, Capacity: n.cfg.Has, Allocatable: n.cfg.Has,
			Version: daemon.Version(), OS: "linux", Arch: "amd64", BootID: "hollow",
		},
	})
}

// Reboot ends everything that runs on the node, as a power cut does. Its agent
// must not run meanwhile.
func (n *Node) Reboot() {
	n.Runtime.Reboot()
	n.Network.reboot()
}

// prober asks the fake containers.
type prober struct{ rt *fake.Runtime }

func (p prober) Probe(ctx context.Context, t pod.Target) error {
	if err := p.rt.Probe(ctx, t.Container); err != nil {
		return fmt.Errorf("%s: connection refused", t)
	}
	return nil
}

// dial connects to a pod: whatever its port, it says everything back.
func (n *Node) dial(_ context.Context, address string) (io.ReadWriteCloser, error) {
	ip, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if !n.Network.has(ip) {
		return nil, fmt.Errorf("dial %s: no route to host", address)
	}
	r, w := io.Pipe()
	return echo{r, w}, nil
}

// echo is a connection that says everything back.
type echo struct {
	*io.PipeReader
	*io.PipeWriter
}

func (e echo) Close() error      { return errors.Join(e.PipeReader.Close(), e.PipeWriter.Close()) }
func (e echo) CloseWrite() error { return e.PipeWriter.Close() }

// Network hands out addresses and nothing else.
type Network struct {
	subnet netip.Prefix
	node   netip.Addr // what pods with the node's network have

	mu     sync.Mutex
	last   netip.Addr
	leases map[string]netip.Addr // by pod UID
	up     map[string]bool       // that have a sandbox
	down   error
}

// Break makes every Setup fail with err; nil mends it.
func (n *Network) Break(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = err
}

// Setup gives a pod its address.
func (n *Network) Setup(_ context.Context, uid, hostname string, hostNetwork bool) (pod.Sandbox, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down != nil {
		return pod.Sandbox{}, n.down
	}
	if n.leases == nil {
		n.leases, n.up = map[string]netip.Addr{}, map[string]bool{}
	}
	ip, ok := n.leases[uid]
	switch {
	case ok:
	case hostNetwork:
		ip = n.node
		n.leases[uid] = ip
	default:
		if ip, ok = n.free(); !ok {
			return pod.Sandbox{}, fmt.Errorf("all addresses of %s are in use", n.subnet)
		}
		n.leases[uid], n.last = ip, ip
	}
	fresh := !n.up[uid]
	n.up[uid] = true
	return pod.Sandbox{Sandbox: runtime.Sandbox{Hostname: hostname}, IP: ip.String(), Fresh: fresh}, nil
}

func (n *Network) free() (netip.Addr, bool) {
	used := slices.Collect(maps.Values(n.leases))
	first := n.subnet.Masked().Addr().Next()
	ip := first
	if n.last.IsValid() {
		ip = n.last.Next()
	}
	for range len(used) + 2 {
		if !n.subnet.Contains(ip) {
			ip = first
		}
		if !slices.Contains(used, ip) {
			return ip, true
		}
		ip = ip.Next()
	}
	return ip, false
}

// Teardown takes the address back.
func (n *Network) Teardown(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.leases, uid)
	delete(n.up, uid)
	return nil
}

// List returns the UIDs that have a sandbox or an address.
func (n *Network) List(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.leases)), nil
}

// has reports whether a pod has the address.
func (n *Network) has(ip string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(slices.Collect(maps.Values(n.leases)), func(a netip.Addr) bool { return a.String() == ip })
}

func (n *Network) reboot() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.up)
}
