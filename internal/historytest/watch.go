package historytest

import (
	"context"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Watch follows all objects of histories from their first generation on, and
// fails t when it is told of one and not of what came before. A watch that
// cannot go on where it was must say so.
func Watch(ctx context.Context, t testing.TB, cl *client.Client) {
	tokens := client.Of(cl, api.Tokens)
	last, from := map[string]api.Meta{}, int64(0)
	for ctx.Err() == nil {
		if from == 0 {
			items, rev, err := tokens.List(ctx, "", nil)
			if err != nil {
				continue
			}
			clear(last)
			for _, o := range items {
				last[o.Meta.Name] = o.Meta
			}
			from = rev
		}
		for ev, err := range tokens.Watch(ctx, "", nil, from) {
			if api.Is(err, api.Gone) {
				from = 0
			}
			if err != nil {
				break
			}
			if ev.Revision < from {
				t.Errorf("a watch from %d tells of %d", from, ev.Revision)
			}
			from = ev.Revision
			if ev.Type == api.EventBookmark || !ours(ev.Object.Meta.Name) {
				continue
			}
			is := ev.Object.Meta
			was, had := last[is.Name]
			switch {
			case ev.Type == api.EventDelete:
				if !had || was.UID != is.UID {
					t.Errorf("%s went, which was never told to be there", is.Name)
				}
				delete(last, is.Name)
				continue
			case had && was.UID == is.UID && is.Generation != was.Generation+1,
				had && was.UID != is.UID, !had && is.Generation != 1:
				t.Errorf("%s is at generation %d after %d (uid %s, %s)", is.Name, is.Generation, was.Generation, is.UID, was.UID)
			}
			last[is.Name] = is
		}
	}
}

// ours reports whether a token is of a history.
func ours(name string) bool { return strings.HasPrefix(name, "tr") || strings.HasPrefix(name, "keep-") }
