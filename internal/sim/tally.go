//go:build linux

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// light is as much of a pod as is counted.
type light struct {
	Meta   struct{ UID string }
	Spec   struct{ Node string }
	Status struct{ Ready bool }
}

// tally counts pods as a watch shows them.
type tally struct {
	pods   int // how many to wait for
	counts func(*light) bool
	from   int64 // revision

	uids map[string]bool // that counted
}

// follow watches until as many pods count. A watch that breaks, as on a machine
// that is too busy to answer a ping, goes on where it ended.
func (t *tally) follow(ctx context.Context, c *client.Client) error {
	for len(t.uids) < t.pods {
		q := url.Values{"watch": {"true"}, "from": {fmt.Sprint(t.from)}}
		resp, err := c.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(api.Pods.Info(), "", ""), Query: q})
		if err != nil {
			return err
		}
		err = t.read(resp.Body)
		resp.Body.Close()
		if _, refused := errors.AsType[*api.Error](err); refused || ctx.Err() != nil {
			return fmt.Errorf("watch of pods, of which %d of %d counted: %w", len(t.uids), t.pods, cmp.Or(ctx.Err(), err))
		}
	}
	return nil
}

// read counts until all do. A watch that fell behind is to begin again, with
// everything there is.
func (t *tally) read(body io.Reader) error {
	for d := json.NewDecoder(body); ; {
		var ev struct {
			Type     api.EventType
			Revision int64
			Error    *api.Error
			Object   light
		}
		if err := d.Decode(&ev); err != nil {
			return err
		}
		switch {
		case ev.Error != nil && ev.Error.Code == api.Gone:
			t.from = 0
			return nil
		case ev.Error != nil:
			return ev.Error
		case ev.Type == api.EventBookmark:
			t.from = ev.Revision
			continue
		}
		if t.counts(&ev.Object) {
			t.uids[ev.Object.Meta.UID] = true
		}
		if len(t.uids) == t.pods {
			return nil
		}
	}
}
