package command

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) delete() *cobra.Command {
	wait, force := true, false
	timeout := 5 * time.Minute
	cmd := &cobra.Command{
		Use:   "delete <kind> <name>",
		Short: "Delete an object, and wait until it is gone",
		Example: `  clusterd delete app web
  clusterd delete pod/web-x7k2pa-1     # the app loop makes another
  clusterd delete namespace shop --wait=false`,
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
			path := client.Path(q.kind.Info(), q.ns, q.name)
			o := q.kind.New()
			if err := cl.Call(cmd.Context(), http.MethodGet, path, nil, nil, o); err != nil {
				return err
			}
			if n, ok := o.(*api.Node); ok && !force {
				if err := cmp.Or(alive(n), alone(cmd.Context(), cl, n)); err != nil {
					return err
				}
			}
			uid := o.GetMeta().UID
			params := url.Values{"uid": {uid}}
			if q.kind.Info().Name == api.Volumes.Name && force {
				params.Set("force", "true")
			}
			if err := cl.Call(cmd.Context(), http.MethodDelete, path, params, nil, nil); err != nil {
				return err
			}
			ref := api.Ref{Kind: q.kind.Info().Name, Namespace: q.ns, Name: q.name}
			if wait && q.kind.Info().TwoStep {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				if err := c.awaitGone(ctx, cl, q.kind, path, uid); err != nil {
					return fmt.Errorf("%s is marked, and is still there: %w", ref, err)
				}
			}
			fmt.Fprintf(c.out, "%s deleted\n", ref)
			return nil
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is gone")
	cmd.Flags().BoolVar(&force, "force", false, "delete a node that lives: what it runs stops, and it must join anew; or one that alone has the data of volumes; or a volume that is lost: what its node has of it stays there")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait")
	return cmd
}

// alive refuses to delete a node that somebody may still count on.
func alive(n *api.Node) error {
	switch v := n.Status.Health.Verdict; v {
	case api.VerdictReady, api.VerdictAgentDown, api.VerdictPartitioned:
		return fmt.Errorf("node %s is %s: what it runs would stop, and the machine could come back only with a new join token. "+
			"Take it out of service first (nodeagent leave, there) or say --force; to keep new pods away, clusterd node cordon %s", n.Meta.Name, v, n.Meta.Name)
	}
	return nil
}

// alone refuses to delete a node that alone has the data of volumes.
func alone(ctx context.Context, cl *client.Client, n *api.Node) error {
	volumes, _, err := client.Of(cl, api.Volumes).List(ctx, "", client.By("node", n.Meta.Name))
	if err != nil || len(volumes) == 0 {
		return err
	}
	names := make([]string, len(volumes))
	for i := range volumes {
		names[i] = volumes[i].Meta.Namespace + "/" + volumes[i].Meta.Name
	}
	return fmt.Errorf("node %s alone has the data of volume %s: deleting it makes them lost for good. "+
		"If the machine may come back, leave it; or say --force", n.Meta.Name, strings.Join(names, ", "))
}

// awaitGone waits until the object with the uid is gone, saying what it waits for.
func (c *cli) awaitGone(ctx context.Context, cl *client.Client, k api.AnyKind, path, uid string) error {
	said := ""
	for {
		o := k.New()
		err := cl.Call(ctx, http.MethodGet, path, nil, nil, o)
		switch {
		case api.Is(err, api.NotFound) || err == nil && o.GetMeta().UID != uid:
			return nil
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("no longer waiting: %w; last: %s", context.Cause(ctx), said)
		case err != nil && !api.Is(err, api.Unready):
			return err
		case err == nil:
			if now := remains(ctx, cl, o); now != said {
				said = now
				fmt.Fprintln(c.err, "waiting:", now)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no longer waiting: %w; last: %s", context.Cause(ctx), said)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// remains says what the deletion of o waits for.
func remains(ctx context.Context, c *client.Client, o api.Any) string {
	switch v := o.(type) {
	case *api.App:
		if pods, _, err := client.Of(c, api.Pods).List(ctx, v.Meta.Namespace, client.By("app", v.Meta.Name)); err == nil && len(pods) > 0 {
			return fmt.Sprintf("%d pods to end", len(pods))
		}
	case *api.Pod:
		if v.Status.Phase != "" {
			return "it is " + string(v.Status.Phase)
		}
	case *api.Volume:
		if text := cmp.Or(v.Status.Data.Message, v.Status.Message); text != "" {
			return text
		}
	case *api.Namespace:
		if v.Status.Message != "" {
			return v.Status.Message
		}
	}
	return "its last traces to go"
}
