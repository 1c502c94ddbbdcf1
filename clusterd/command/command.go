// Package command is clusterd's command line: the server, local clusters, and
// everything a person asks of a cluster.
//
// Invariants: what a command prints to stdout is its answer, and nothing else
// goes there; an error says the way out and makes the exit code 1, but for exec,
// which passes on the code of what it ran; a kind needs no code here, since
// tables and names come from api.Kinds.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
)

// cli is one run of the program.
type cli struct {
	in       io.Reader
	out, err io.Writer
	to       target
}

// Main runs the command line and returns the exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := daemon.Signals(context.Background())
	defer stop()
	c := &cli{in: in, out: out, err: errOut}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 130 // as a shell reports SIGINT
	}
	fmt.Fprintln(plain{errOut}, "Error:", message(err))
	return 1
}

// exitCode ends the program with a code, and nothing more to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// message is err for a person: with a line for each field, and the way out
// where only the command line knows it.
func message(err error) string {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err.Error()
	}
	text := e.Message
	if e.Ref != nil {
		text = e.Ref.String() + ": " + text
	}
	if len(e.Fields) > 0 {
		for _, f := range e.Fields {
			text += "\n  " + f.Error()
		}
	}
	switch {
	case e.Code == api.Unauthenticated && !strings.Contains(text, "CLUSTERD_TOKEN"):
		text += "\nIs CLUSTERD_TOKEN right? For a local cluster: " + devEnvHint
	case e.Code == api.Unready && strings.HasPrefix(e.Message, "cannot reach"):
		text += "\nIs a server running? On its machine: systemctl status clusterd; for a local cluster: clusterd dev status"
	}
	return text
}

const devEnvHint = `eval "$(clusterd dev env)"`

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "clusterd",
		Short: "A container orchestrator for teams whose tool is Terraform",
		Long: `clusterd runs workloads on a cluster of machines, as Terraform describes them.

It is the control plane (clusterd server), a way to have a whole cluster on one
machine (clusterd dev), and the tool to look at a cluster and mend it.`,
		Version:       daemon.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetVersionTemplate("{{.Version}}\n")
	c.to.register(root)
	root.AddGroup(
		&cobra.Group{ID: "look", Title: "Look at a cluster:"},
		&cobra.Group{ID: "change", Title: "Change a cluster:"},
		&cobra.Group{ID: "run", Title: "Run a cluster:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"look":   {c.get(), c.describe(), c.why(), c.logs(), c.plan(), c.diff(), c.events(), c.top()},
		"change": {c.exec(), c.copy(), c.portForward(), c.delete(), c.image(), c.job(), c.node(), c.rebalance(), c.rollout(), c.scale(), c.restart(), c.keys(), c.role(), c.token()},
		"run":    {c.server(), c.snapshot(), c.recover(), c.dev()},
		"":       {c.version()},
	} {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
			sayUsage(cmd)
		}
	}
	return root
}

// sayUsage has wrong words answered with the right ones, and with an exit code
// that scripts see: cobra prints help, and succeeds.
func sayUsage(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, words []string) error {
			if err := args(cmd, words); err != nil {
				return fmt.Errorf("%w: want %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	var known []string
	for _, sub := range cmd.Commands() {
		sayUsage(sub)
		known = append(known, sub.Name())
	}
	if len(known) == 0 {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if len(words) == 0 {
			return cmd.Help()
		}
		return fmt.Errorf("unknown command %q for %q: want one of %s", words[0], cmd.CommandPath(), strings.Join(known, ", "))
	}
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program, and the cluster's if one can be asked",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(c.out, "clusterd", daemon.Version())
			if os.Getenv("CLUSTERD_ADDR") == "" && c.to.addr == "" {
				return nil
			}
			servers, err := list(cmd.Context(), &c.to, api.Servers)
			if err != nil { // what was asked for first is said
				fmt.Fprintln(plain{c.err}, "The servers' versions are not known:", message(err))
			}
			for _, s := range servers {
				fmt.Fprintf(c.out, "server %s %s\n", s.Meta.Name, s.Status.Version)
			}
			return nil
		},
	}
}
