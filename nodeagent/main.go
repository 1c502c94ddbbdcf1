//go:build linux

// Command nodeagent makes a machine a node of a cluster: nodeagent run joins,
// gossips, and keeps two children going: containerd, and the agent proper with
// its pods, service proxy and resolver.
//
// Invariants: a child that dies is started again, and dies with the
// supervisor; containers belong to neither and go on; nothing but the
// supervisor gossips, so that a crashed agent and a dead machine look
// different from outside; the supervisor holds the resolver's sockets, so that
// no question of a pod is lost with an agent.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
)

func main() {
	// Threads that enter a pod's namespaces are thrown away. The first thread
	// cannot be: it stays with this function, where the node's are kept.
	runtime.LockOSThread()
	ctx, stop := daemon.Signals(context.Background())
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error: "+err.Error())
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "nodeagent",
		Short:         "Makes a machine a node of a clusterd cluster",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(runCommand(), leaveCommand(), agentCommand(), containerdCommand(), hollowCommand(), versionCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "nodeagent "+daemon.Version()) },
	}
}
