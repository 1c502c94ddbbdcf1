//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/agent"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/dns"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/proxy"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd"
	containerdd "github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/daemon"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/volume"
)

func containerdCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "containerd",
		Short:              "The container runtime (started by run)",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               func(cmd *cobra.Command, args []string) error { return containerdd.Main(context.Background(), args) },
	}
}

func agentCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "agent",
		Short:  "The agent proper (started by run, which says how on standard input)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s settings
			if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
				return fmt.Errorf("settings on standard input: %w; start this with: nodeagent run", err)
			}
			log, err := s.Log.New("agent", os.Stderr)
			if err != nil {
				return err
			}
			return s.agent(cmd.Context(), log)
		},
	}
}

// agent puts the parts of a real node together and runs them until ctx ends.
func (s *settings) agent(ctx context.Context, log hclog.Logger) error {
	m, err := s.loadMembership()
	if err != nil {
		return err
	}
	id, err := pki.LoadIdentity(s.identityDir())
	if err != nil {
		return err
	}
	all, err := openServers(m, id, s.saveMembership, log)
	if err != nil {
		return err
	}
	c := all.any
	defer all.close()
	status, err := agent.Machine(s.CPU, s.Memory)
	if err != nil {
		return err
	}
	status.Address = s.Address
	if status.BootID, err = s.bootID(status.BootID); err != nil {
		return err
	}
	rt, err := s.runtime()
	if err != nil {
		return err
	}
	defer rt.Close()
	peers := peers{path: filepath.Join(s.DataDir, "nodes.json"), log: log}
	nw, err := network.Open(network.Config{
		RunDir: filepath.Join(s.RunDir, "network"), DataDir: filepath.Join(s.DataDir, "network"),
		Node: s.Name, Subnet: m.Subnet, Services: m.Services, Nodes: peers.recall(), Log: log,
	})
	if err != nil {
		return err
	}
	defer nw.Close()
	storage, err := volume.Open(volume.Config{
		DataDir: s.DataDir, RunDir: filepath.Join(s.RunDir, "storage"), Log: log,
		Lookup: func(ctx context.Context, namespace, name string) (*api.Volume, error) {
			ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
			defer cancel()
			return client.Of(c, api.Volumes).Get(ctx, namespace, name)
		},
	})
	if err != nil {
		return err
	}
	reg := daemon.NewMetrics()
	numbers := newMetrics(reg)
	px, err := proxy.Open(proxy.Config{
		Pods: m.Pods, Subnet: m.Subnet, Services: m.Services, Applied: all.follow,
		Programmed: func(took time.Duration) { numbers.programmed.Observe(took.Seconds()) }, Log: log,
	})
	if err != nil {
		return err
	}
	defer px.Close()
	resolver, err := s.resolver(log)
	if err != nil {
		return err
	}
	secrets := filepath.Join(s.RunDir, "secrets")
	if err := inMemory(secrets); err != nil {
		return err
	}
	a := agent.New(agent.Config{
		Name: s.Name, Status: status, Client: c, Leader: all.lead, Runtime: rt, Network: nodeNetwork{nw, s.Address}, Storage: storage, Prober: pod.Dialer{},
		Store: agent.Dir(filepath.Join(s.DataDir, "pods")), Logs: filepath.Join(s.DataDir, "logs"),
		Contents: filepath.Join(s.DataDir, "contents"),
		Files: &pod.Files{
			Dir:    filepath.Join(s.DataDir, "files"),
			Memory: secrets,
			Hosts:  func(name, ip string) string { return hosts(name, ip) },
			Resolv: func(ns string) string { return dns.ResolvConf(ns, network.DefaultGateway) },
		},
		ImageNotes: filepath.Join(s.DataDir, "images.json"), ImageDisk: func() (int64, int64, error) { return disk(s.DataDir) },
		Nodes: func(all []*api.Node) { nw.SetNodes(all); peers.remember(all) }, Servers: m.Servers, ServersChanged: all.changed, Keys: all.ids, Metrics: daemon.MetricsHandler(reg), Connected: all.connected, TLS: id.ClientTLS(), Log: log,
		Lease: agent.Lease{Path: filepath.Join(s.RunDir, "lease")},
	})
	numbers.pods, numbers.lease = a.Pods, a.Lease
	feed := &proxy.Feed{Client: c, Path: filepath.Join(s.DataDir, "services.json"), Sinks: []proxy.Sink{px, resolver}, Log: log.Named("services")}
	return daemon.Run(ctx,
		daemon.Named("network", nw),
		daemon.Named("proxy", px),
		daemon.Named("resolver", resolver),
		daemon.Named("services", feed),
		daemon.Named("pods", daemon.Func(func(ctx context.Context) error {
			if err := answering(ctx, rt, log); err != nil {
				return err
			}
			return a.Run(ctx)
		})),
		daemon.Func(func(ctx context.Context) error { return all.followKeys(ctx, a.StatusChanged) }),
		daemon.Func(func(ctx context.Context) error {
			return id.Keep(ctx, all.renew, func(err error) { log.Warn("certificate not renewed", "error", err) })
		}),
	)
}

// lookupTimeout is how long a pod's start waits for word about its volumes: what
// is on the node will do without.
const lookupTimeout = 5 * time.Second

// disk returns how full the file system of a directory is, in bytes.
func disk(dir string) (used, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	size = int64(st.Blocks) * st.Bsize
	return size - int64(st.Bavail)*st.Bsize, size, nil
}

func (s *settings) runtime() (runtime.Runtime, error) {
	address := s.Socket
	if address == "" {
		address = s.containerd().Address()
	}
	return containerd.Open(containerd.Config{
		Address: address, DataDir: filepath.Join(s.DataDir, "runtime"), RunDir: filepath.Join(s.RunDir, "runtime"),
		Cgroup: s.Cgroup, Shim: s.Shim,
	})
}

// bootID tells this boot of the node from others. The kernel's will do for a
// machine, but nodes that share one boot by themselves: what then changes is
// the run directory, which no boot finds as it was.
func (s *settings) bootID(kernel string) (string, error) {
	path := filepath.Join(s.RunDir, "boot-id")
	b, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(b)); err == nil && strings.HasPrefix(id, kernel+".") {
		return id, nil
	}
	id := kernel + "." + strings.ToLower(rand.Text()[:8])
	return id, os.WriteFile(path, []byte(id+"\n"), 0o600)
}

// answering waits until the runtime, which starts beside the agent, takes
// requests: a node that says it is there can take pods and images.
func answering(ctx context.Context, rt runtime.Runtime, log hclog.Logger) error {
	for warnAt := time.Now().Add(5 * time.Second); ; {
		_, err := rt.List(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(warnAt) {
			log.Warn("the container runtime does not answer", "error", err)
			warnAt = time.Now().Add(time.Minute)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// resolverAddress is where a node's pods ask for names.
var resolverAddress = netip.AddrPortFrom(network.DefaultGateway, 53)

// resolver answers the pods at the sockets that the supervisor holds; others'
// names it asks the machine's resolvers for.
func (s *settings) resolver(log hclog.Logger) (*dns.Server, error) {
	up, err := dns.Upstreams("/etc/resolv.conf")
	if err != nil {
		log.Warn("names outside the cluster will not resolve", "error", err)
	}
	up = slices.DeleteFunc(up, func(a netip.AddrPort) bool { return a.Addr() == network.DefaultGateway })
	sockets := dns.Inherited(3)
	defer sockets.Close()
	return dns.Listen(dns.Config{Address: resolverAddress, Sockets: sockets, Upstreams: up, Log: log})
}

func hosts(name, ip string) string {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return "127.0.0.1\tlocalhost\n"
	}
	return dns.Hosts(name, a)
}

// nodeNetwork is the node's network as pods see it.
type nodeNetwork struct {
	*network.Network
	address string // of the node
}

func (n nodeNetwork) Setup(ctx context.Context, uid, hostname string, hostNetwork bool) (pod.Sandbox, error) {
	sb, err := n.Network.Setup(ctx, uid, hostname, hostNetwork)
	if err != nil {
		return pod.Sandbox{}, err
	}
	ip := n.address
	if sb.IP.IsValid() {
		ip = sb.IP.String()
	}
	return pod.Sandbox{
		Sandbox: runtime.Sandbox{Net: sb.Net, IPC: sb.IPC, UTS: sb.UTS, Hostname: sb.Hostname},
		IP:      ip, Fresh: sb.Fresh,
	}, nil
}

func (n nodeNetwork) List(context.Context) ([]string, error) {
	var uids []string
	for uid := range n.Pods() {
		uids = append(uids, uid)
	}
	return uids, nil
}
