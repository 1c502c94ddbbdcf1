package agent

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// follow lists the objects that match, then tells of every change, until ctx
// ends. A broken watch goes on where it ended; one that cannot lists anew.
func follow[O api.Any](ctx context.Context, c *client.Client, k *api.Kind[O], filter client.Filter, log hclog.Logger,
	all func([]O), change func(api.WatchEvent[O])) {
	listed, from := false, int64(0)
	again(ctx, log, "follow "+k.Plural, func(ctx context.Context) error {
		if !listed {
			items, rev, err := client.Of(c, k).List(ctx, "", filter)
			if err != nil {
				return err
			}
			all(items)
			listed, from = true, rev
		}
		for ev, err := range client.Of(c, k).Watch(ctx, "", filter, from) {
			if err != nil {
				listed = listed && !api.Is(err, api.Gone)
				return err
			}
			from = max(from, ev.Revision)
			change(ev)
		}
		return nil
	})
}

// again calls do until it succeeds or ctx ends. A node that was deleted is
// turned away for good, and only a person can end that.
func again(ctx context.Context, log hclog.Logger, what string, do func(context.Context) error) {
	client.Retry(ctx, do, func(err error, first bool) {
		level := hclog.Debug
		if first && api.Is(err, api.Unauthenticated) {
			level = hclog.Error
		}
		log.Log(level, "cannot "+what+"; trying again", "error", err)
	})
}
