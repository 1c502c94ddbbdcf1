package command

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/dev"
)

// devTarget is the local cluster that a dev command speaks of.
type devTarget struct{ name, dir string }

func (c *cli) dev() *cobra.Command {
	var t devTarget
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Have a whole cluster on this machine",
		Long: `A real cluster on one Linux machine: every server and node is a network
namespace with its own processes, containers and state. It needs root, and uses
sudo to get it.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&t.name, "name", "demo", "name of the cluster; several live side by side")
	f.StringVar(&t.dir, "dir", "", "directory of its state, for up (default "+dev.Root+"/<name>)")

	var nodes, servers int
	up := c.devCommand(&t, "up", "Start a cluster, or what of it does not run", cobra.NoArgs, func(cmd *cobra.Command, d *dev.Cluster, _ []string) error {
		if err := d.Up(cmd.Context(), nodes, servers); err != nil {
			return err
		}
		fmt.Fprintf(c.err, "To use it: eval \"$(clusterd dev env%s)\"\n", t.flag())
		return nil
	})
	up.Flags().IntVar(&nodes, "nodes", 3, "how many nodes")
	up.Flags().IntVar(&servers, "servers", 1, "how many servers")
	cmd.AddCommand(up,
		c.devCommand(&t, "down", "Remove a cluster and every trace of it", cobra.NoArgs, func(_ *cobra.Command, d *dev.Cluster, _ []string) error {
			return d.Down()
		}),
		c.devCommand(&t, "status", "Tell how its servers and nodes do", cobra.NoArgs, func(cmd *cobra.Command, d *dev.Cluster, _ []string) error {
			states, err := d.Status(cmd.Context())
			if err != nil {
				return err
			}
			out := table{header: []string{"NAME", "ADDRESS", "PROCESS", "LINK", "HEALTH", "LOG"}}
			for _, s := range states {
				out.rows = append(out.rows, []string{s.Name, s.Addr.String(), s.Process, s.Link, s.Health, s.Log})
			}
			return out.print(c.out)
		}),
		c.devCommand(&t, "env", "Print the environment for clusterd and terraform; use it with eval", cobra.NoArgs, func(_ *cobra.Command, d *dev.Cluster, _ []string) error {
			env, err := d.Env()
			if err == nil {
				_, err = fmt.Fprint(c.out, env)
			}
			return err
		}),
		group("node", "Stop nodes as if their power was cut, and start them",
			c.devCommand(&t, "stop <n>", "Cut a node's power: its processes, containers and link are gone at once", cobra.ExactArgs(1), func(_ *cobra.Command, d *dev.Cluster, args []string) error {
				return d.StopNode(args[0])
			}),
			c.devCommand(&t, "start <n>", "Boot a node, and wait until it is ready", cobra.ExactArgs(1), func(cmd *cobra.Command, d *dev.Cluster, args []string) error {
				return d.StartNode(cmd.Context(), args[0])
			})),
		group("server", "Kill servers, and start them",
			c.devCommand(&t, "stop <n>", "Kill a server, as kill -9 does", cobra.ExactArgs(1), func(_ *cobra.Command, d *dev.Cluster, args []string) error {
				return d.StopServer(args[0])
			}),
			c.devCommand(&t, "start <n>", "Start a server, and wait until it answers", cobra.ExactArgs(1), func(cmd *cobra.Command, d *dev.Cluster, args []string) error {
				return d.StartServer(cmd.Context(), args[0])
			})),
		c.devCommand(&t, "link <n>|s<n> down|up", "Cut a node or a server off from the others, or connect it again", cobra.ExactArgs(2), func(_ *cobra.Command, d *dev.Cluster, args []string) error {
			if args[1] != "up" && args[1] != "down" {
				return fmt.Errorf("%q: want up or down", args[1])
			}
			return d.Link(args[0], args[1] == "up")
		}))
	return cmd
}

func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(commands...)
	return cmd
}

// flag is how to speak of the cluster in another command.
func (t *devTarget) flag() string {
	if t.name == "demo" {
		return ""
	}
	return " --name " + t.name
}

// devCommand is a command on a local cluster, run as root.
func (c *cli) devCommand(t *devTarget, use, short string, args cobra.PositionalArgs, run func(*cobra.Command, *dev.Cluster, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, words []string) error {
			if os.Geteuid() != 0 {
				return asRoot()
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			d, err := dev.Open(dev.Config{
				Name: t.name, Dir: t.dir, Exe: exe, Bin: filepath.Dir(exe),
				Say: func(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) },
			})
			if err != nil {
				return err
			}
			return run(cmd, d, words)
		},
	}
}

// asRoot runs this very command again, through sudo.
func asRoot() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return errors.New("a local cluster is made of network namespaces and containers, which needs root, and there is no sudo: run as root: clusterd " + strings.Join(os.Args[1:], " "))
	}
	return fmt.Errorf("run sudo: %w", syscall.Exec(sudo, append([]string{"sudo", "--", exe}, os.Args[1:]...), os.Environ()))
}
