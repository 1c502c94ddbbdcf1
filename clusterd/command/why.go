package command

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) why() *cobra.Command {
	return &cobra.Command{
		Use:   "why <kind> <name>",
		Short: "Say why an app, a pod or a service is as it is, and the way out",
		Example: `  clusterd why app/web
  clusterd why pod/web-x7k2pa-1`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.complete(),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := c.object(cmd, args)
			if err != nil {
				return err
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			var x api.Explanation
			if err := cl.Call(cmd.Context(), http.MethodGet, client.Path(q.kind.Info(), q.ns, q.name)+"/why", nil, nil, &x); err != nil {
				return err
			}
			printWhy(plain{c.out}, x)
			return nil
		},
	}
}

func printWhy(w io.Writer, x api.Explanation) {
	fmt.Fprintf(w, "%s is %s: %s\n", x.Ref, x.State, x.Summary)
	for _, because := range x.Causes {
		fmt.Fprintln(w)
		for _, line := range because.Story() {
			fmt.Fprintln(w, line)
		}
		if because.WayOut != "" {
			fmt.Fprintln(w, "Way out: "+because.WayOut)
		}
	}
	if lines := eventLines(x.Events); len(lines) > 0 && len(x.Causes) > 0 {
		fmt.Fprintln(w, "\nEvents")
		for _, line := range lines {
			fmt.Fprintln(w, "  "+line)
		}
	}
}
