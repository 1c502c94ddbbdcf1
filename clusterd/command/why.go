package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) why() *cobra.Command {
	return &cobra.Command{
		Use:   "why <kind> <name>",
		Short: "Say why an app, a job, a pod or a service is as it is, and the way out",
		Example: `  clusterd why app/web
  clusterd why job/report
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
			x, err := explanation(cmd.Context(), cl, api.Ref{Kind: q.kind.Info().Name, Namespace: q.ns, Name: q.name})
			if err != nil {
				return err
			}
			printWhy(plain{c.out}, x)
			return nil
		},
	}
}

// explanation asks why an object is as it is.
func explanation(ctx context.Context, c *client.Client, about api.Ref) (x api.Explanation, err error) {
	k, err := api.Lookup(about.Kind)
	if err != nil {
		return x, err
	}
	if !api.Explained(about.Kind) {
		kind := strings.ToLower(about.Kind)
		return x, fmt.Errorf("of a %s nothing has to be explained: clusterd describe %s %s tells all there is; why is for apps, jobs, pods and services", kind, kind, about.Name)
	}
	err = c.Call(ctx, http.MethodGet, client.Path(k.Info(), about.Namespace, about.Name)+"/why", nil, nil, &x)
	return x, err
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
