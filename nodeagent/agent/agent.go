// Package agent is a node's part of the cluster: it tells what the node has,
// runs the pods the cluster gives it, and answers the servers' questions about
// them over connections it opened.
//
// Invariants:
//   - Nothing here needs the control plane to keep running what runs: pods,
//     services and endpoints are remembered on disk.
//   - Ending the agent ends no container.
//   - The agent writes its own node's status and that of its own pods, and
//     nothing else.
//
// What servers ask, as HTTP over the tunnel:
//
//	GET  /v1/pods/{uid}/logs?container=main&follow=true&tail=10&since=5m&previous=true&timestamps=true
//	POST /v1/pods/{uid}/exec?container=main&command=ls&command=-l&tty=true&stdin=true   Upgrade: clusterd-exec
//	POST /v1/pods/{uid}/connect?port=80   Upgrade: clusterd-exec
//	GET  /v1/images
//	GET  /v1/images/archive?reference=nginx:1&digest=sha256:…   an OCI layout tar
//	PUT  /v1/images         an OCI layout tar
//	DELETE /v1/images?reference=nginx:1
//
// A connection to a port is frames too: what would be stdin goes in, and what
// would be stdout comes back. An exec session is frames (internal/tunnel): stdin, close stdin and resize
// one way; stdout, stderr and at last exit the other.
package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/content"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/image"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// holdFor is how long a starting agent waits for word from the API before it
// starts, on its own, pods that do not run.
const holdFor = 10 * time.Second

// Config of an Agent: the parts that differ between a machine and a test.
type Config struct {
	Name    string         // of the node
	Status  api.NodeStatus // what the node tells of itself
	Client  *client.Client
	Leader  *client.Client // looks for the leader, which alone gives leases; nil: Client does
	Runtime runtime.Runtime
	Network pod.Network
	Storage Storage
	Prober  pod.Prober
	Store   pod.Store
	Logs    string     // directory of container logs; "" keeps none
	Files   *pod.Files // nil: containers get none
	// Contents is the directory for what pods use of configs and secrets; "" keeps
	// it in memory.
	Contents string
	Lease    Lease
	// Dial connects to an address (host:port) of a pod; nil: as the node does.
	Dial func(ctx context.Context, address string) (io.ReadWriteCloser, error)

	ImageNotes string                               // file of what is known of images; "" forgets it
	ImageDisk  func() (used, size int64, err error) // of where images are, in bytes; nil: never full

	// Idle has the agent leave the node's pods alone: the rest of a cluster is then
	// measured without them.
	Idle bool
	// Nodes hears of all nodes whenever one changes; nil: not wanted.
	Nodes func([]*api.Node)
	// Servers are the API servers (host:port) to open tunnels to; with TLS nil, none.
	Servers []string
	// ServersChanged hears of all servers whenever one changes; nil: not wanted.
	ServersChanged func([]*api.Server)
	// Keys are those of the node's that members share, for its status; nil: none
	// are told of.
	Keys func() api.KeyIDs
	// Metrics answers with numbers about the node; nil: there are none.
	Metrics http.Handler
	// Connected hears of each server (host:port) that a tunnel was opened to; nil:
	// not wanted.
	Connected func(server string)
	TLS       *tls.Config
	Log       hclog.Logger
}

// Agent is a node's agent. Use New.
type Agent struct {
	cfg      Config
	log      hclog.Logger
	workers  *pod.Workers
	images   *image.Store
	lease    *keeper
	statuses *statuses
	mux      http.Handler
	meter    meter
	changed  chan struct{} // what the node says of itself
}

// New returns an Agent. Nothing happens until Run.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	cfg.Leader = cmp.Or(cfg.Leader, cfg.Client)
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (io.ReadWriteCloser, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
		}
	}
	a := &Agent{cfg: cfg, log: cfg.Log, statuses: newStatuses(cfg.Client), changed: make(chan struct{}, 1)}
	a.images = image.New(image.Config{
		Runtime: cfg.Runtime, Path: cfg.ImageNotes, Disk: cfg.ImageDisk, Log: cfg.Log.Named("image"),
		Loaded: func() { a.workers.Retry() }, InUse: func() []string { return a.workers.Images() },
		ByHand: control{cfg.Client}.byHand,
	})
	a.lease = newKeeper(cfg.Lease, a.renewLease, func() { a.workers.Look() }, cfg.Log.Named("lease"))
	a.workers = pod.New(pod.Config{
		Lease: a.lease.Left, NeedLease: a.lease.Need, LeaseFile: cfg.Lease.Path,
		Runtime: cfg.Runtime, Network: cfg.Network, Storage: cfg.Storage, Images: a.images, API: reporting{control{cfg.Client}, a.statuses}, Prober: cfg.Prober,
		Store: cfg.Store, Logs: cfg.Logs, Files: cfg.Files, HoldFor: holdFor,
		Contents: content.New(cfg.Contents, control{cfg.Client}.version), Log: cfg.Log.Named("pod"),
	})
	a.mux = a.routes()
	return a
}

// Handler answers the servers' questions.
func (a *Agent) Handler() http.Handler { return a.mux }

// Pods returns what is known of the node's pods, by UID.
func (a *Agent) Pods() map[string]pod.View { return a.workers.Views() }

// Lease returns how long the node may still run stateful pods; ok is false where
// no pod needs that.
func (a *Agent) Lease() (left time.Duration, ok bool) {
	_, left = a.lease.Left()
	return left, left > 0 || a.lease.isNeeded()
}

// Run works until ctx ends. Containers go on.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if !a.cfg.Idle {
		wg.Go(func() { a.followPods(ctx) })
	}
	wg.Go(func() { a.lease.run(ctx) })
	wg.Go(func() { a.statuses.run(ctx) })
	if a.cfg.Nodes != nil {
		wg.Go(func() { a.followNodes(ctx) })
	} else {
		wg.Go(func() { a.register(ctx) })
	}
	wg.Go(func() { a.registerChanges(ctx) })
	wg.Go(func() { a.followVolumes(ctx) })
	if a.cfg.TLS != nil {
		wg.Go(func() { a.tunnels(ctx) })
	}
	if a.cfg.Logs != "" {
		wg.Go(func() { a.sweepLogs(ctx) })
	}
	wg.Go(func() { a.images.Run(ctx) })
	return a.workers.Run(ctx)
}

func (a *Agent) followPods(ctx context.Context) {
	follow(ctx, a.cfg.Client, api.Pods, client.By("node", a.cfg.Name), a.log,
		func(all []*api.Pod) { a.workers.Sync(all) },
		func(ev api.WatchEvent[*api.Pod]) {
			switch ev.Type {
			case api.EventPut:
				a.workers.Put(*ev.Object)
			case api.EventDelete:
				a.workers.Delete(ev.Object.Meta.UID)
			}
		})
}

// followNodes passes on who the nodes are, and sees to it that what the
// cluster has of this one is so.
func (a *Agent) followNodes(ctx context.Context) {
	nodes := map[string]*api.Node{}
	tell := func() {
		all := make([]*api.Node, 0, len(nodes))
		for _, n := range nodes {
			all = append(all, n)
		}
		a.cfg.Nodes(all)
		if own, ok := nodes[a.cfg.Name]; ok && !a.says(own.Status) {
			a.register(ctx)
		}
	}
	follow(ctx, a.cfg.Client, api.Nodes, nil, a.log,
		func(all []*api.Node) {
			clear(nodes)
			for _, n := range all {
				nodes[n.Meta.Name] = n
			}
			tell()
		},
		func(ev api.WatchEvent[*api.Node]) {
			switch ev.Type {
			case api.EventPut:
				nodes[ev.Object.Meta.Name] = ev.Object
			case api.EventDelete:
				delete(nodes, ev.Object.Meta.Name)
			default:
				return
			}
			tell()
		})
}

// says reports whether a node's status is what this agent says of it.
func (a *Agent) says(st api.NodeStatus) bool {
	is := a.status()
	st.Health, st.Off, st.Drain = is.Health, is.Off, is.Drain
	return st == is
}

// status is what this agent says of its node now.
func (a *Agent) status() api.NodeStatus {
	st := a.cfg.Status
	if a.cfg.Keys != nil {
		st.Keys = a.cfg.Keys()
	}
	return st
}

// StatusChanged has the cluster told of the node anew.
func (a *Agent) StatusChanged() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// register tells what the node has, until the cluster knows.
func (a *Agent) register(ctx context.Context) {
	again(ctx, a.log, "tell what the node has", func(ctx context.Context) error {
		n := &api.Node{Meta: api.Meta{Name: a.cfg.Name}, Status: a.status()}
		_, err := client.Of(a.cfg.Client, api.Nodes).PutStatus(ctx, n)
		return err
	})
}

// Addresses are where servers answer, each once and in order.
func Addresses(all []*api.Server) (addrs []string) {
	for _, s := range all {
		addrs = append(addrs, s.Spec.Address)
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// URLs are how a client names the servers at addrs (host:port).
func URLs(addrs []string) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = "https://" + a
	}
	return out
}

// Seeds asks for the gossip addresses of the servers; no answer is none.
func Seeds(ctx context.Context, c *client.Client) (gossips []string) {
	all, _, err := client.Of(c, api.Servers).List(ctx, "", nil)
	if err != nil {
		return nil
	}
	for _, s := range all {
		if s.Spec.Gossip != "" {
			gossips = append(gossips, s.Spec.Gossip)
		}
	}
	return gossips
}

// registerChanges tells what the node has whenever that changes.
func (a *Agent) registerChanges(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.changed:
			a.register(ctx)
		}
	}
}

// tunnels keeps a connection to every server of the cluster.
func (a *Agent) tunnels(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	up := map[string]context.CancelFunc{}
	want := func(addrs map[string]bool) {
		for addr := range addrs {
			if up[addr] == nil {
				dctx, cancel := context.WithCancel(ctx)
				up[addr] = cancel
				d := &tunnel.Dialer{Addr: addr, TLS: a.cfg.TLS, Handler: a.mux, Log: a.log.Named("tunnel")}
				if a.cfg.Connected != nil {
					d.Connected = func() { a.cfg.Connected(addr) }
				}
				wg.Go(func() { d.Run(dctx) })
			}
		}
		for addr, cancel := range up {
			if !addrs[addr] {
				cancel()
				delete(up, addr)
			}
		}
	}
	first := map[string]bool{}
	for _, s := range a.cfg.Servers {
		first[s] = true
	}
	want(first)
	servers := map[string]*api.Server{} // by name
	tell := func() {
		addrs := map[string]bool{}
		for _, s := range servers {
			addrs[s.Spec.Address] = true
		}
		if len(addrs) == 0 { // a list without any is not to be believed
			return
		}
		want(addrs)
		if a.cfg.ServersChanged != nil {
			a.cfg.ServersChanged(slices.Collect(maps.Values(servers)))
		}
	}
	follow(ctx, a.cfg.Client, api.Servers, nil, a.log,
		func(all []*api.Server) {
			clear(servers)
			for _, s := range all {
				servers[s.Meta.Name] = s
			}
			tell()
		},
		func(ev api.WatchEvent[*api.Server]) {
			switch ev.Type {
			case api.EventPut:
				servers[ev.Object.Meta.Name] = ev.Object
			case api.EventDelete:
				delete(servers, ev.Object.Meta.Name)
			default:
				return
			}
			tell()
		})
}
