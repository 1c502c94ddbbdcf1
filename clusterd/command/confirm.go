package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) confirmOff() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm-off <node>",
		Short: "Say that a node which is not heard of runs nothing any more",
		Long: `Say that a machine is off: switched off, unplugged, or reinstalled. Its stateful
pods then run elsewhere at once, those of on_isolation = keep too.

Two pods of one ordinal write to the same data if you are wrong. What is said
holds for this outage; a node that comes back is taken for what it is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			nodes := client.Of(cl, api.Nodes)
			n, err := nodes.Get(cmd.Context(), "", args[0])
			if err != nil {
				return err
			}
			if h := n.Status.Health; !h.Gone() {
				return fmt.Errorf("%s is %s, so it is not off: wait for the verdict dead, which comes within seconds", n.Ref(), h.Verdict)
			}
			n.Status.Off = api.NodeOff{Since: n.Status.Health.Since}
			if _, err := nodes.PutPart(cmd.Context(), n, "off"); err != nil {
				return err
			}
			_ = cl.Record(cmd.Context(), n.Ref(), api.Event{Reason: "confirmed_off", Message: "an operator confirmed that the machine is off", By: "operator"})
			fmt.Fprintf(c.out, "%s confirmed off: its pods may run elsewhere now\n", n.Ref())
			return nil
		},
	}
}
