package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) node() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Take nodes out of scheduling, and back"}
	cmd.AddCommand(
		c.cordon("cordon", "Place no new pods on a node; those that run stay", true),
		c.cordon("uncordon", "Place pods on a node again", false))
	return cmd
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
			nodes := client.Of(cl, api.Nodes)
			for {
				n, err := nodes.Get(cmd.Context(), "", args[0])
				if err != nil {
					return err
				}
				if n.Spec.Cordoned != cordoned {
					n.Spec.Cordoned = cordoned
					_, err = nodes.Replace(cmd.Context(), n, n.Meta.Generation)
				}
				switch {
				case api.Is(err, api.Precondition): // somebody else changed it
					continue
				case err != nil:
					return err
				}
				fmt.Fprintf(c.out, "%s %sed\n", n.Ref(), verb)
				return nil
			}
		},
	}
}
