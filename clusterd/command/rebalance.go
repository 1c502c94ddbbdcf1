package command

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) rebalance() *cobra.Command {
	var planOnly bool
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Spread apps over the nodes again, and move pods off the fullest",
		Long: `Spread apps over the nodes again, and move pods off the fullest, to where the
scheduler places them now: after a node has come back, or others have joined.

Each pod goes once its replacement is ready, as many at a time as its app's
max_parallel says, and no app falls below its min_available. Pods with volumes or
ordinals, of apps that roll out, and on nodes that take no pods stay. With
--namespace only pods of that one move.`,
		Example: `  clusterd rebalance --plan
  clusterd rebalance -n shop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			ask := url.Values{"namespace": {c.to.namespace}}
			if planOnly {
				ask.Set("dry_run", "true")
			}
			var p api.Rebalance
			if err := cl.Call(cmd.Context(), http.MethodPost, "/v1/rebalance", ask, nil, &p); err != nil {
				return err
			}
			out := plain{c.out}
			for _, m := range p.Moves {
				fmt.Fprintln(out, m)
			}
			if len(p.Moves) == 0 {
				fmt.Fprintf(out, "Nothing to move: the fullest node has %d %% reserved, and %s.\n", p.Before, p.Message)
				return nil
			}
			fmt.Fprintf(out, "%d to move: the fullest node goes from %d %% to %d %%; %s.\n", len(p.Moves), p.Before, p.After, p.Message)
			if planOnly {
				return nil
			}
			return c.followMoves(cmd.Context(), cl, p.Moves)
		},
	}
	cmd.Flags().BoolVar(&planOnly, "plan", false, "only say what would move")
	return cmd
}

// followMoves says which pods have left their nodes until none is left, or the
// time of those that are is up.
func (c *cli) followMoves(ctx context.Context, cl *client.Client, moves []api.PodMove) error {
	late, cancel := context.WithTimeout(ctx, api.MoveLapses)
	defer cancel()
	left := map[string]api.PodMove{} // by UID
	for _, m := range moves {
		left[m.UID] = m
	}
	pods := client.Of(cl, api.Pods)
	for len(left) > 0 {
		all, _, err := pods.List(late, "", nil)
		switch {
		case ctx.Err() != nil:
			fmt.Fprintln(plain{c.err}, "The moves go on.")
			return ctx.Err()
		case late.Err() != nil:
			return fmt.Errorf("%d of %d pods stay: their replacements were not ready within %s; clusterd why pod/<name> says more", len(left), len(moves), api.MoveLapses)
		case err != nil && !api.Is(err, api.Unready):
			return err
		case err == nil:
			there := map[string]bool{}
			for _, pod := range all {
				there[pod.Meta.UID] = !pod.Meta.Deleting() && !pod.Status.Phase.Ended()
			}
			for _, m := range moves {
				if _, waits := left[m.UID]; waits && !there[m.UID] {
					delete(left, m.UID)
					fmt.Fprintf(plain{c.err}, "%s/%s has left %s (%d of %d)\n", m.Namespace, m.Pod, m.From, len(moves)-len(left), len(moves))
				}
			}
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-late.Done():
		case <-time.After(time.Second):
		}
	}
	fmt.Fprintf(c.out, "%d moved\n", len(moves))
	return nil
}
