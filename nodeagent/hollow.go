//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	from "github.com/clusterd/terraform-provider-clusterd/internal/settings"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
)

// crew is how many nodes that are no machines are started.
type crew struct {
	settings
	nodes   int
	zones   int
	pods    int
	proxied bool
	idle    bool
}

func hollowCommand() *cobra.Command {
	var c crew
	cmd := &cobra.Command{
		Use:   "hollow",
		Short: "Be many nodes that run nothing: for scale tests, and for trying out a cluster",
		Long: `Be many nodes in one process: the real agent, each with its own certificate,
connections and pods, over containers that are only pretended. An image runs
forever, but for those whose names say otherwise. In gossip one member speaks for
all of them. They are called <name>-1, <name>-2, … and end with the process.`,
		Example: `  nodeagent hollow --nodes 1000 --server 10.0.0.1:7443 --token-file join-token`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := c.Log.New("hollow", os.Stderr)
			if err != nil {
				return err
			}
			each := c.Log
			if each.Level == "info" { // it would be that much of each node
				each.Level = "warn"
			}
			nodes, err := each.New("hollow", os.Stderr)
			if err != nil {
				return err
			}
			if c.server == "" {
				return errors.New("say which cluster to join with --server host:port")
			}
			if c.nodes < 1 || c.nodes > gossip.MaxCrew {
				return fmt.Errorf("--nodes %d: want 1 to %d", c.nodes, gossip.MaxCrew)
			}
			return c.run(cmd.Context(), log, nodes)
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.nodes, "nodes", 10, "how many nodes to be")
	f.StringVar(&c.Name, "name", "hollow", "what their names begin with")
	f.StringVar(&c.server, "server", "", "host:port of a server, to join its cluster")
	f.StringVar(&c.token, "token", "", "join token; better in a file or in CLUSTERD_JOIN_TOKEN, where no process list shows it")
	f.StringVar(&c.tokenFile, "token-file", "", "file with the join token, for as many nodes")
	f.StringVar(&c.Address, "address", "127.0.0.1", "address of this process, for gossip")
	f.IntVar(&c.gossipPort, "gossip-port", 0, "port of the gossip, UDP and TCP; 0 takes a free one")
	f.IntVar(&c.zones, "zones", 3, "how many values of the label zone they are spread over")
	f.StringVar(&c.CPU, "allocatable-cpu", "8", "what pods may reserve on each")
	f.StringVar(&c.Memory, "allocatable-memory", "16Gi", "what pods may reserve on each")
	f.IntVar(&c.pods, "allocatable-pods", 250, "how many pods fit each")
	f.BoolVar(&c.proxied, "proxy", true, "follow all endpoints on each, as a machine's service proxy does")
	f.BoolVar(&c.idle, "idle", false, "take pods, and run none of them: what remains is the control plane's work")
	c.Log.Register(f)
	from.Attach(cmd, "token")
	return cmd
}

// joinAtOnce bounds how many nodes ask to be let in at a time.
func joinAtOnce() int { return 4 * runtime.NumCPU() }

// run joins all nodes, and is them until ctx ends. One that has joined runs
// while the others still ask. What nodes say by themselves goes to each.
func (c *crew) run(ctx context.Context, log, each hclog.Logger) error {
	token, err := c.joinToken()
	if err != nil {
		return err
	}
	began := time.Now()
	first, err := c.join(ctx, token, 1, each)
	if err != nil {
		return err
	}
	member, meta := gossip.Crew(c.Name, c.nodes)
	g, err := gossip.Open(gossip.Config{
		Name: member, Meta: meta, Bind: net.JoinHostPort(c.Address, strconv.Itoa(c.gossipPort)), Keys: first.GossipKeys,
		Seeds: func() []string { return first.Seeds(ctx) }, Log: log,
	})
	if err != nil {
		return err
	}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return daemon.Run(ctx, g) })
	all.Go(func() error { return first.Run(ctx) })
	joins, jctx := errgroup.WithContext(ctx)
	joins.SetLimit(joinAtOnce())
	for i := 2; i <= c.nodes; i++ {
		joins.Go(func() error {
			m, err := c.join(jctx, token, i, each)
			if err == nil {
				all.Go(func() error { return m.Run(ctx) })
			}
			return err
		})
	}
	if err := joins.Wait(); err != nil {
		all.Go(func() error { return err })
	} else {
		log.Info("all nodes have joined", "nodes", c.nodes, "took", time.Since(began).Round(time.Millisecond))
	}
	return all.Wait()
}

// join lets one node in. Names that lived a moment ago are free soon.
func (c *crew) join(ctx context.Context, token pki.JoinToken, i int, log hclog.Logger) (m *hollow.Member, err error) {
	name := gossip.CrewNode(c.Name, i)
	conf := hollow.MemberConfig{
		Servers: []string{c.server}, Token: token, Proxied: c.proxied, Labels: map[string]string{"zone": fmt.Sprint("z", i%max(c.zones, 1))},
		Node: hollow.Config{Name: name, Has: api.Resources{CPU: api.CPU(c.CPU), Memory: api.Memory(c.Memory), Pods: c.pods}, Idle: c.idle, Log: log.Named(name)},
	}
	err = insist(ctx, log.With("node", name), func(ctx context.Context) error { m, err = hollow.Join(ctx, conf); return err })
	return m, err
}
