package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) node() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Take nodes out of service, and back; label and taint them"}
	cmd.AddCommand(
		c.cordon("cordon", "Place no new pods on a node; those that run stay", true),
		c.cordon("uncordon", "Place pods on a node again", false),
		c.drain(),
		c.undrain(),
		c.marks("label", "Give a node labels, or with a dash take them", "zone=a disk-", nil, func(n *api.Node) *map[string]string { return &n.Meta.Labels }),
		c.marks("taint", "Keep pods off a node that do not tolerate a taint, or with a dash no longer", "dedicated=shop:no_schedule gpu-", checkTaint,
			func(n *api.Node) *map[string]string { return &n.Spec.Taints }),
		c.confirmOff())
	return cmd
}

// revise changes a node as it is now, again and again until nobody else changes
// it meanwhile. change reports whether there is something to change.
func revise(ctx context.Context, cl *client.Client, name string, change func(*api.Node) bool) (*api.Node, error) {
	nodes := client.Of(cl, api.Nodes)
	for {
		n, err := nodes.Get(ctx, "", name)
		if err != nil || !change(n) {
			return n, err
		}
		if n, err = nodes.Replace(ctx, n, n.Meta.Generation); !api.Is(err, api.Precondition) {
			return n, err
		}
	}
}

func (c *cli) cordon(verb, short string, cordoned bool) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " <node>",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			n, err := revise(cmd.Context(), cl, args[0], func(n *api.Node) bool {
				differs := n.Spec.Cordoned != cordoned
				n.Spec.Cordoned = cordoned
				return differs
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s %sed\n", n.Ref(), verb)
			return nil
		},
	}
}

func (c *cli) drain() *cobra.Command {
	var deadline time.Duration
	var noWait bool
	cmd := &cobra.Command{
		Use:   "drain <node>",
		Short: "Move all pods of a node elsewhere, and place no new ones there",
		Long: `Move all pods of a node elsewhere, and place no new ones there.

Each pod goes once its replacement is ready, and no app falls below its
min_available. What cannot be replaced is stopped at the deadline all the same.
A pod of a stateful app stops first, as there is never a second one; if its data
is on the node, it waits until that is back.
The command prints what the drain waits for until no pod is left; interrupted, it
leaves the drain going. clusterd node undrain takes it back.`,
		Example: `  clusterd node drain w2
  clusterd node drain w2 --deadline 1h --no-wait`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			ctx := cmd.Context()
			n, err := revise(ctx, cl, args[0], func(n *api.Node) bool {
				want := api.Drain{}
				if deadline > 0 {
					want.Deadline = api.Duration(deadline.String())
				}
				if n.Spec.Drain != nil && (deadline == 0 || *n.Spec.Drain == want) {
					return false
				}
				n.Spec.Drain = &want
				return true
			})
			if err != nil {
				return err
			}
			if noWait {
				fmt.Fprintf(c.out, "%s is draining\n", n.Ref())
				return nil
			}
			return c.followDrain(ctx, cl, n)
		},
	}
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "how long pods that cannot be replaced are waited for; 10m when unset")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is drained")
	return cmd
}

// tellVolumes says which volumes have their data on a node, to who may know.
func (c *cli) tellVolumes(ctx context.Context, cl *client.Client, node string) {
	all, _, err := client.Of(cl, api.Volumes).List(ctx, "", nil)
	if err != nil {
		return
	}
	var there []string
	for _, v := range all {
		if v.Status.Node == node {
			there = append(there, v.Meta.Namespace+"/"+v.Meta.Name)
		}
	}
	if len(there) > 0 {
		fmt.Fprintf(c.out, "What mounts volumes whose data is there waits until the node is back, by clusterd node undrain %s: %s\n", node, strings.Join(there, ", "))
	}
}

// followDrain prints how a drain goes until it is over.
func (c *cli) followDrain(ctx context.Context, cl *client.Client, n *api.Node) error {
	said := map[string]bool{}
	last := ""
	tell := func(line string) {
		if line != last {
			fmt.Fprintln(plain{c.err}, line)
			last = line
		}
	}
	for {
		for ev, err := range client.Of(cl, api.Nodes).Watch(ctx, "", nil, 0) {
			switch {
			case err != nil && ctx.Err() == nil && !api.Is(err, api.Unready):
				return err
			case err != nil || ev.Object == nil || ev.Object.Meta.Name != n.Meta.Name:
				continue
			case ev.Type == api.EventDelete || ev.Object.Meta.UID != n.Meta.UID:
				return fmt.Errorf("%s was deleted while it drained", n.Ref())
			case ev.Object.Spec.Drain == nil && ev.Object.Meta.Generation > n.Meta.Generation:
				return fmt.Errorf("%s: the drain was taken back by %s", n.Ref(), ev.Object.Meta.WrittenBy)
			case ev.Object.Status.Drain == nil:
				continue
			}
			st := ev.Object.Status.Drain
			if st.Phase == api.DrainDone {
				fmt.Fprintf(c.out, "%s is drained\n", n.Ref())
				c.tellVolumes(ctx, cl, n.Meta.Name)
				return nil
			}
			tell(st.Summary())
			for _, w := range st.Waits {
				if !said[w] {
					said[w] = true
					tell("  " + w)
				}
			}
		}
		select {
		case <-ctx.Done():
			tell(fmt.Sprintf("The drain goes on: clusterd describe node %s shows how far it is, clusterd node undrain %s takes it back.", n.Meta.Name, n.Meta.Name))
			return ctx.Err()
		case <-time.After(time.Second): // the server was restarted
		}
	}
}

func (c *cli) undrain() *cobra.Command {
	return &cobra.Command{
		Use:   "undrain <node>",
		Short: "Take a drain back: place pods on the node again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			n, err := revise(cmd.Context(), cl, args[0], func(n *api.Node) bool {
				differs := n.Spec.Drain != nil
				n.Spec.Drain = nil
				return differs
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s takes pods again\n", n.Ref())
			return nil
		},
	}
}

// marks is a command that changes a map of a node.
func (c *cli) marks(verb, short, example string, check func(key, value string) error, of func(*api.Node) *map[string]string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " <node> key=value key- …",
		Short:   short,
		Example: "  clusterd node " + verb + " w2 " + example,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := readMarks(args[1:])
			if err != nil {
				return err
			}
			for key, value := range set {
				if check != nil && value != nil {
					if err := check(key, *value); err != nil {
						return err
					}
				}
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			n, err := revise(cmd.Context(), cl, args[0], func(n *api.Node) bool { return mark(of(n), set) })
			if err != nil {
				return err
			}
			now := pairs(*of(n))
			if now == "" {
				now = "has none now"
			}
			fmt.Fprintf(c.out, "%s %s\n", n.Ref(), now)
			return nil
		},
	}
}

// checkTaint wants it said what a taint does.
func checkTaint(key, value string) error {
	if strings.Contains(value, ":") {
		return nil
	}
	return fmt.Errorf("%s=%s does not say what it does: want %[1]s=%[2]s:%[3]s, which places no pods that do not tolerate it, or %[1]s=%[2]s:%[4]s, which also moves away those that run",
		key, value, api.NoSchedule, api.NoExecute)
}

// readMarks reads key=value, and key- as a key without a value.
func readMarks(words []string) (map[string]*string, error) {
	set := map[string]*string{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		switch {
		case ok && key != "":
			set[key] = &value
		case !ok && len(w) > 1 && strings.HasSuffix(w, "-"):
			set[strings.TrimSuffix(w, "-")] = nil
		default:
			return nil, fmt.Errorf("%q: want key=value, or key- to take it away", w)
		}
	}
	return set, nil
}

// mark changes a map; it reports whether anything differs.
func mark(m *map[string]string, set map[string]*string) (differs bool) {
	for key, value := range set {
		have, there := (*m)[key]
		switch {
		case value == nil && there:
			delete(*m, key)
			differs = true
		case value != nil && (!there || have != *value):
			if *m == nil {
				*m = map[string]string{}
			}
			(*m)[key] = *value
			differs = true
		}
	}
	return differs
}
