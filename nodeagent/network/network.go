// Package network gives every pod of the node a network namespace with an
// address, and keeps the routes that let pods reach each other, the services
// and the world.
//
// A pod's interface is a routed veth: the pod has a /32 and a default route to
// the resolver's address, the node has a /32 route back. There is no bridge:
// with one, same-node replies of a service bypass the address translation.
// There is no pause process either: the namespaces are pinned files.
//
// Invariants: Setup and Teardown are idempotent and survive the death of the
// agent at any point; a pod keeps its address from its first Setup to its
// Teardown, also across a reboot; an address is never in use twice, and a
// freed one is the last to be handed out again; whatever somebody else deletes
// is put back. Everything happens in the network namespace of the thread that
// called Open.
package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// DefaultGateway is the address every pod has as its gateway and its resolver.
var DefaultGateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// Config says which node this is.
type Config struct {
	RunDir   string       // holds the pinned namespaces; may vanish with a reboot
	DataDir  string       // holds the addresses in use; survives a reboot
	Node     string       // name of this node: its own entry of SetNodes is skipped
	Subnet   netip.Prefix // addresses of this node's pods
	Services netip.Prefix // virtual IPs
	Gateway  netip.Addr   // the pods' gateway, on every node the same; by default DefaultGateway
	Nodes    []*api.Node  // as an earlier agent last knew them: routes that work are not taken away
	Log      hclog.Logger
}

// Sandbox is what the containers of a pod share: paths of pinned namespaces
// and an address. With the node's network, Net is the node's own namespace and
// IP is not valid.
type Sandbox struct {
	Net, IPC, UTS string
	Hostname      string
	IP            netip.Addr
	Fresh         bool // the namespaces were made by this Setup: nothing that ran before is in them
}

// Network is the pod network of one node.
type Network struct {
	cfg     Config
	log     hclog.Logger
	ns      netns.NsHandle
	nl      *netlink.Handle
	forward *os.File // net.ipv4.ip_forward of ns, whichever thread writes it

	mu     sync.Mutex
	leases *leases
	routes map[netip.Prefix]netip.Addr // other nodes: subnet → address; nil until SetNodes
	warned map[netip.Prefix]bool       // routes already complained about

	wake chan struct{}
}

// Open takes over the pod network of the node: what an earlier agent left is
// adopted, and the node's own addresses and routes are put in place.
func Open(cfg Config) (*Network, error) {
	if !cfg.Gateway.IsValid() {
		cfg.Gateway = DefaultGateway
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if !cfg.Subnet.IsValid() || !cfg.Subnet.Addr().Is4() {
		return nil, fmt.Errorf("subnet %s is not an IPv4 network", cfg.Subnet)
	}
	leases, err := openLeases(filepath.Join(cfg.DataDir, "addresses.json"), cfg.Subnet)
	if err != nil {
		return nil, err
	}
	n := &Network{
		cfg: cfg, log: cfg.Log.Named("network"), leases: leases,
		warned: map[netip.Prefix]bool{}, wake: make(chan struct{}, 1),
	}
	if n.ns, err = netns.Get(); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		n.ns.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	if n.forward, err = os.OpenFile("/proc/sys/net/ipv4/ip_forward", os.O_RDWR, 0); err != nil {
		n.Close()
		return nil, err
	}
	if cfg.Nodes != nil {
		n.SetNodes(cfg.Nodes)
	}
	if err := n.forget(); err != nil {
		n.Close()
		return nil, err
	}
	if err := n.Assert(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close lets go of the network; pods and routes stay.
func (n *Network) Close() error {
	if n.forward != nil {
		n.forward.Close()
	}
	n.nl.Close()
	return n.ns.Close()
}

// forget removes pinned namespaces that no pod owns: a Setup or Teardown that
// an agent did not finish.
func (n *Network) forget() error {
	uids, err := pinned(n.sandboxes())
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if _, ok := n.leases.Pods[uid]; ok {
			continue
		}
		if err := unpin(n.dir(uid)); err != nil {
			return err
		}
		n.log.Info("removed a sandbox without a pod", "uid", uid)
	}
	return nil
}

func (n *Network) sandboxes() string     { return filepath.Join(n.cfg.RunDir, "sandboxes") }
func (n *Network) dir(uid string) string { return filepath.Join(n.sandboxes(), uid) }

// Setup returns the sandbox of a pod, and makes or repairs it first where
// needed. A pod that was set up before keeps its address. With hostNetwork it
// gets none: it has the node's network.
func (n *Network) Setup(ctx context.Context, uid, hostname string, hostNetwork bool) (Sandbox, error) {
	if uid == "" || uid != filepath.Base(uid) {
		return Sandbox{}, fmt.Errorf("sandbox: %q is not a pod UID", uid)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Sandbox{}, err
	}
	l, err := n.leases.take(uid, hostname, hostNetwork)
	if err != nil {
		return Sandbox{}, fmt.Errorf("address of pod %s: %w", uid, err)
	}
	fresh := !isPinned(n.dir(uid))
	own := netns.None()
	if l.hostNetwork() {
		own = n.ns
	}
	if err := pin(n.dir(uid), l.Hostname, own); err != nil {
		return Sandbox{}, fmt.Errorf("sandbox of pod %s: %w", uid, err)
	}
	if !l.hostNetwork() {
		if err := n.wire(uid, l.IP); err != nil {
			return Sandbox{}, fmt.Errorf("network of pod %s: %w", uid, err)
		}
	}
	sb := n.sandbox(uid, l)
	sb.Fresh = fresh
	return sb, nil
}

func (n *Network) sandbox(uid string, l lease) Sandbox {
	d := n.dir(uid)
	return Sandbox{Net: filepath.Join(d, "net"), IPC: filepath.Join(d, "ipc"), UTS: filepath.Join(d, "uts"), Hostname: l.Hostname, IP: l.IP}
}

// Teardown removes the sandbox of a pod and frees its address. The pod's
// processes must be gone. An unknown pod is not an error.
func (n *Network) Teardown(_ context.Context, uid string) error {
	if uid == "" || uid != filepath.Base(uid) {
		return fmt.Errorf("sandbox: %q is not a pod UID", uid)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l, known := n.leases.Pods[uid]
	if known && !l.hostNetwork() {
		if err := n.unroute(l.IP); err != nil {
			return fmt.Errorf("network of pod %s: %w", uid, err)
		}
	}
	if err := unpin(n.dir(uid)); err != nil {
		return fmt.Errorf("sandbox of pod %s: %w", uid, err)
	}
	if err := n.leases.free(uid); err != nil {
		return fmt.Errorf("address of pod %s: %w", uid, err)
	}
	return nil
}

// Pods returns the address of every pod between its Setup and its Teardown, by
// UID; after a restart, those of the agent before. Not valid is that of a pod
// with the node's network.
func (n *Network) Pods() map[string]netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	pods := make(map[string]netip.Addr, len(n.leases.Pods))
	for uid, l := range n.leases.Pods {
		pods[uid] = l.IP
	}
	return pods
}

// SetNodes says which nodes there are: their pods get a route. Run puts it in place.
func (n *Network) SetNodes(nodes []*api.Node) {
	routes, problems := planNodes(n.cfg.Node, n.cfg.Subnet, nodes)
	for _, p := range problems {
		n.log.Warn("no route to a node's pods", "node", p.node, "problem", p.text)
	}
	n.mu.Lock()
	n.routes = routes
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}
