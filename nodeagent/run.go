//go:build linux

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/agent"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/dns"
)

func runCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Be a node: join the cluster if need be, then run its pods",
		Long: `Be a node of a cluster. The first start joins, with a token from
"clusterd token create --role node"; later ones need only the data directory.`,
		Example: `  nodeagent run --server 10.0.0.1:7443 --token-file /etc/clusterd/join-token
  CLUSTERD_JOIN_TOKEN=CJ1.… nodeagent run --server 10.0.0.1:7443 --name w1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := s.Log.New("nodeagent", os.Stderr)
			if err != nil {
				return err
			}
			if err := s.complete(); err != nil {
				return err
			}
			if err := s.tools(); err != nil {
				return err
			}
			return s.supervise(cmd.Context(), log)
		},
	}
	s.register(cmd)
	return cmd
}

// supervise joins, and keeps gossip and the children going until ctx ends.
func (s *settings) supervise(ctx context.Context, log hclog.Logger) error {
	for _, dir := range []string{s.DataDir, s.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	m, err := s.join(ctx, log)
	if err != nil {
		return err
	}
	g, err := gossip.Open(gossip.Config{
		Name: pki.ID{Role: pki.Node, Name: s.Name}.String(),
		Bind: net.JoinHostPort(s.Address, strconv.Itoa(s.gossipPort)), Keys: m.GossipKeys,
		Seeds: s.seeds(ctx), Log: log,
	})
	if err != nil {
		return err
	}
	agentIn, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// Held here, so that what pods ask while the agent is started again waits for it.
	resolver, err := dns.Bind(resolverAddress)
	if err != nil {
		return err
	}
	defer resolver.Close()
	children := []*child{{name: "agent", args: []string{"agent"}, stdin: agentIn, files: resolver.Files(), log: log}}
	if s.Socket == "" {
		args, err := s.containerd().Prepare()
		if err != nil {
			return err
		}
		children = append(children, &child{name: "containerd", args: args, log: log})
	}
	log.Info("node is up", "name", s.Name, "address", s.Address, "subnet", m.Subnet, "version", daemon.Version())
	return s.together(ctx, g, children, log)
}

// followKeys has gossip use the keys that the agent fetched, until ctx ends:
// they come through the file.
func (s *settings) followKeys(ctx context.Context, g *gossip.Gossip, log hclog.Logger) {
	var last time.Time
	for t := time.NewTicker(time.Second); ; {
		if st, err := os.Stat(s.membershipFile()); err == nil && !st.ModTime().Equal(last) {
			m, err := s.loadMembership()
			if err == nil {
				err = g.Keys(m.GossipKeys)
			}
			if err != nil {
				log.Warn("cannot take over the keys to gossip with", "error", err)
			}
			last = st.ModTime()
		}
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// together runs the children, and gossip for as long as they live: what the
// others hear of this node must not end before its work does.
func (s *settings) together(ctx context.Context, g *gossip.Gossip, children []*child, log hclog.Logger) error {
	talk, hush := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { g.Run(talk) })
	wg.Go(func() { s.followKeys(talk, g, log) })
	ctx, stop := context.WithCancelCause(ctx)
	leave := make(chan os.Signal, 1)
	signal.Notify(leave, syscall.SIGUSR1) // nodeagent leave
	defer signal.Stop(leave)
	wg.Go(func() {
		select {
		case <-leave:
			stop(errLeave)
		case <-talk.Done():
		}
	})
	runners := make([]daemon.Runner, len(children))
	for i, c := range children {
		runners[i] = c
	}
	err := daemon.Run(ctx, runners...)
	asked := errors.Is(err, errLeave)
	if asked {
		err = nil
	}
	if asked || s.leave {
		log.Info("leaving the cluster")
		if err := g.Leave(4 * time.Second); err != nil {
			log.Warn("not everybody heard the goodbye", "error", err)
		}
		if err := errors.Join(s.awaitLeft(), s.noteLeft()); err != nil {
			log.Warn("the cluster has not said yet that this node has left", "error", err)
		}
	}
	stop(nil)
	hush()
	wg.Wait()
	return err
}

// leftTimeout is how long a node that leaves waits until the cluster says that it
// has: then it may be deleted.
const leftTimeout = 5 * time.Second

func (s *settings) awaitLeft() error {
	ctx, cancel := context.WithTimeout(context.Background(), leftTimeout)
	defer cancel()
	c, m, err := s.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		n, err := client.Of(c, api.Nodes).Get(ctx, "", m.Name)
		if api.Is(err, api.NotFound) || api.Is(err, api.Unauthenticated) || err == nil && n.Status.Health.Verdict == api.VerdictLeft {
			return nil
		}
		select {
		case <-ctx.Done():
			return cmp.Or(err, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// client returns a client of the servers of the moment, with the identity of the
// moment: the agent keeps both current.
func (s *settings) client() (*client.Client, membership, error) {
	id, err := pki.LoadIdentity(s.identityDir())
	if err != nil {
		return nil, membership{}, err
	}
	m, err := s.loadMembership()
	if err != nil {
		return nil, m, err
	}
	c, err := client.New(client.Config{Addresses: agent.URLs(m.Servers), TLS: id.ClientTLS(), UserAgent: daemon.UserAgent("nodeagent")})
	return c, m, err
}

// errLeave is the end that nodeagent leave asks for.
var errLeave = errors.New("leaving")

// seeds finds the gossip addresses of the servers.
func (s *settings) seeds(ctx context.Context) func() []string {
	return func() []string {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		c, _, err := s.client()
		if err != nil {
			return nil
		}
		defer c.Close()
		return agent.Seeds(ctx, c)
	}
}

// hasLeft stands in the lock's file, below the pid, once the cluster knows that
// the node has left.
const hasLeft = "left"

func (s *settings) noteLeft() error {
	return os.WriteFile(s.lockFile(), fmt.Appendf(nil, "%d\n%s\n", os.Getpid(), hasLeft), 0o600)
}

func (s *settings) lockFile() string { return filepath.Join(s.RunDir, "nodeagent.pid") }

// lock makes sure that this is the only supervisor of the node, and tells
// `nodeagent leave` its pid. The kernel lets go of it with the process.
func (s *settings) lock() (*os.File, error) {
	f, err := os.OpenFile(s.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another nodeagent runs with --run-dir %s: stop it, or choose another directory", s.RunDir)
	}
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// running returns the pid of the supervisor that holds the lock.
func (s *settings) running() (pid int, err error) {
	f, err := os.Open(s.lockFile())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		return 0, cmp.Or(err, errors.New("nobody holds "+s.lockFile()))
	}
	if _, err := fmt.Fscan(f, &pid); err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s names no process", s.lockFile())
	}
	return pid, nil
}

// endTimeout is how long a nodeagent may take to end that was asked to leave.
const endTimeout = time.Minute

// ends waits until no supervisor holds the lock.
func (s *settings) ends(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	f, err := os.Open(s.lockFile())
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func leaveCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Stop this machine's nodeagent and say goodbye: its pods are replaced elsewhere at once",
		Long: `Stop this machine's nodeagent and say goodbye: its pods are replaced elsewhere at once.

The command ends once the nodeagent has, and says whether the cluster knows.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pid, err := s.running()
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGUSR1)
			}
			if err != nil {
				return fmt.Errorf("no nodeagent runs with --run-dir %s: %w", s.RunDir, err)
			}
			if err := s.ends(cmd.Context()); err != nil {
				return fmt.Errorf("nodeagent was asked to leave, and still runs: %w", err)
			}
			said := "nodeagent has ended, and the cluster has not said yet that it left: clusterd get nodes shows when it has"
			if b, err := os.ReadFile(s.lockFile()); err == nil && slices.Contains(strings.Fields(string(b)), hasLeft) {
				said = "nodeagent has left the cluster"
			}
			fmt.Fprintln(cmd.OutOrStdout(), said)
			return nil
		},
	}
	cmd.Flags().StringVar(&s.RunDir, "run-dir", defaultRun, "run directory of the nodeagent")
	return cmd
}
