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
	return w.run(ctx)
}

// run shows what is, and then what changes.
func (w *watcher) run(ctx context.Context) error {
	if err := w.list(ctx); err != nil {
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
	show  func(...change) error       // prints what is news: first all that is, together
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
	var news []change
	see := func(ev change) error {
		ref, isNews, err := w.see(ev)
		if isNews {
			news = append(news, ev)
		}
		delete(gone, ref)
		return err
	}
	for _, raw := range items {
		if err := see(change{Type: api.EventPut, Object: raw}); err != nil {
			return err
		}
	}
	for _, raw := range gone {
		if err := see(change{Type: api.EventDelete, Object: raw}); err != nil {
			return err
		}
	}
	w.from = rev
	return w.show(news...)
}

// see takes note of a change. It is no news if it is of another object than asked
// for, or changes nothing.
func (w *watcher) see(ev change) (ref api.Ref, news bool, err error) {
	o := w.q.kind.New()
	if err := json.Unmarshal(ev.Object, o); err != nil {
		return ref, false, fmt.Errorf("decode %s: %w", w.q.kind.Info().Name, err)
	}
	ref = o.Ref()
	switch {
	case w.q.name != "" && ref.Name != w.q.name, ev.Type == api.EventPut && bytes.Equal(w.known[ref], ev.Object):
		return ref, false, nil
	case ev.Type == api.EventDelete:
		delete(w.known, ref)
	default:
		w.known[ref] = ev.Object
	}
	return ref, true, nil
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
			_, news, err := w.see(ev)
			if err == nil && news {
				err = w.show(ev)
			}
			if err != nil {
				return err
			}
		}
		w.from = max(w.from, ev.Revision)
	}
}

// shower returns what prints changes: rows of a table, or a JSON object a line.
func (c *cli) shower(q query) func(...change) error {
	if q.output == "json" {
		enc := json.NewEncoder(c.out)
		return func(news ...change) error {
			for _, ev := range news {
				if err := enc.Encode(change{Type: ev.Type, Object: ev.Object}); err != nil {
					return err
				}
			}
			return nil
		}
	}
	var widths []int
	return func(news ...change) error {
		if len(news) == 0 {
			return nil
		}
		var objects []json.RawMessage
		for _, ev := range news {
			objects = append(objects, ev.Object)
		}
		t, err := tableOf(q, objects)
		if err != nil {
			return err
		}
		for i, ev := range news {
			if last := len(t.rows[i]) - 1; ev.Type == api.EventDelete {
				t.rows[i][last] += " (deleted)"
			}
		}
		if widths != nil {
			t.header = nil
		}
		widths = t.widths(widths)
		return t.printWidths(plain{c.out}, widths)
	}
}
