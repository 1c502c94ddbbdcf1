package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// change is one line of a watch, with its object as the server sent it.
type change struct {
	Type     api.EventType   `json:"type"`
	Revision int64           `json:"revision,omitempty"`
	Object   json.RawMessage `json:"object,omitempty"`
	Error    *api.Error      `json:"error,omitempty"`
}

// watch prints what is and then every change, until ctx ends. When the stream
// breaks it goes on where it was; when that is too long ago, it lists again and
// prints what has changed meanwhile.
func (c *cli) watch(ctx context.Context, cl *client.Client, q query) error {
	w := watcher{q: q, c: cl, known: map[api.Ref]json.RawMessage{}, show: c.shower(q)}
	return w.run(ctx, func() error { return nil })
}

// run shows what is, calls listed, and then shows what changes.
func (w *watcher) run(ctx context.Context, listed func() error) error {
	if err := w.list(ctx); err != nil {
		return err
	}
	if err := listed(); err != nil {
		return err
	}
	for {
		err := w.follow(ctx)
		if api.Is(err, api.Gone) {
			err = w.list(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !api.Is(err, api.Unready) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// watcher follows the objects of a query.
type watcher struct {
	q     query
	c     *client.Client
	known map[api.Ref]json.RawMessage // as last shown
	from  int64                       // revision up to which everything was shown
	show  func(change) error
}

// list shows how what is differs from what is known.
func (w *watcher) list(ctx context.Context) error {
	all := w.q
	all.name = "" // an object that is not there yet can be waited for
	items, rev, err := all.list(ctx, w.c)
	if err != nil {
		return err
	}
	gone := maps.Clone(w.known)
	for _, raw := range items {
		ref, err := w.see(change{Type: api.EventPut, Object: raw})
		if err != nil {
			return err
		}
		delete(gone, ref)
	}
	for _, raw := range gone {
		if _, err := w.see(change{Type: api.EventDelete, Object: raw}); err != nil {
			return err
		}
	}
	w.from = rev
	return nil
}

// see shows a change, unless it is of another object than asked for, or none.
func (w *watcher) see(ev change) (api.Ref, error) {
	o := w.q.kind.New()
	if err := json.Unmarshal(ev.Object, o); err != nil {
		return api.Ref{}, fmt.Errorf("decode %s: %w", w.q.kind.Info().Name, err)
	}
	ref := o.Ref()
	switch {
	case w.q.name != "" && ref.Name != w.q.name, ev.Type == api.EventPut && bytes.Equal(w.known[ref], ev.Object):
		return ref, nil
	case ev.Type == api.EventDelete:
		delete(w.known, ref)
	default:
		w.known[ref] = ev.Object
	}
	return ref, w.show(ev)
}

// follow shows every change since the last.
func (w *watcher) follow(ctx context.Context) error {
	params := url.Values{"watch": {"true"}, "from": {strconv.FormatInt(w.from, 10)}}
	for k, v := range w.q.filter {
		params[k] = v
	}
	resp, err := w.c.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(w.q.kind.Info(), w.q.ns, ""), Query: params})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var ev change
		if err := d.Decode(&ev); err != nil {
			return api.Errorf(api.Unready, "the watch broke: %s", err)
		}
		switch ev.Type {
		case api.EventError:
			return ev.Error
		case api.EventPut, api.EventDelete:
			if _, err := w.see(ev); err != nil {
				return err
			}
		}
		w.from = max(w.from, ev.Revision)
	}
}

// shower returns what prints changes: rows of a table, or a JSON object a line.
func (c *cli) shower(q query) func(change) error {
	if q.output == "json" {
		enc := json.NewEncoder(c.out)
		return func(ev change) error {
			return enc.Encode(change{Type: ev.Type, Object: ev.Object})
		}
	}
	var widths []int
	return func(ev change) error {
		t, err := tableOf(q, []json.RawMessage{ev.Object})
		if err != nil {
			return err
		}
		if ev.Type == api.EventDelete {
			last := len(t.rows[0]) - 1
			t.rows[0][last] += " (deleted)"
		}
		if widths != nil {
			t.header = nil
		}
		widths = t.widths(widths)
		return t.printWidths(plain{c.out}, widths)
	}
}
