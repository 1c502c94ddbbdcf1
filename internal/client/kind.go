package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// Kind is a typed view of the cluster: the objects of one kind.
type Kind[O api.Any] struct {
	c *Client
	k *api.Kind[O]
}

// Of returns the objects of kind k.
func Of[O api.Any](c *Client, k *api.Kind[O]) *Kind[O] { return &Kind[O]{c, k} }

// Path returns the URL path of an object of the kind, or of all when name is empty.
func Path(i api.Info, namespace, name string) string {
	p := "/v1/"
	if i.Scope == api.Namespaced && namespace != "" {
		p += "namespaces/" + url.PathEscape(namespace) + "/"
	}
	p += i.Plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

func (r *Kind[O]) path(namespace, name string) string { return Path(r.k.Info(), namespace, name) }

// Get returns one object.
func (r *Kind[O]) Get(ctx context.Context, namespace, name string) (O, error) {
	o := r.k.Make()
	err := r.c.Call(ctx, http.MethodGet, r.path(namespace, name), nil, nil, o)
	return only(o, err)
}

// Filter selects what a list or watch shows: "label" → "k=v", or an index of
// the kind, such as "node" → "w1".
type Filter = url.Values

// By returns a Filter of one index or label.
func By(key, value string) Filter { return Filter{key: {value}} }

// List returns the objects of a namespace, or of all when it is empty, in the
// order of their names, and the revision they were read at. It pages by itself.
func (r *Kind[O]) List(ctx context.Context, namespace string, filter Filter) ([]O, int64, error) {
	q := url.Values{}
	for k, v := range filter {
		q[k] = v
	}
	var items []O
	for {
		var page api.List[O]
		if err := r.c.Call(ctx, http.MethodGet, r.path(namespace, ""), q, nil, &page); err != nil {
			return nil, 0, err
		}
		items = append(items, page.Items...)
		if page.Continue == "" {
			return items, page.Revision, nil
		}
		q.Set("continue", page.Continue)
	}
}

func (r *Kind[O]) put(ctx context.Context, o O, sub string, h http.Header) (O, error) {
	return r.send(ctx, o.GetMeta(), sub, h, nil, o.WithKind(r.k.Name))
}

// only is what was answered, or else nil with the error.
func only[O any](answer O, err error) (O, error) {
	if err != nil {
		var none O
		return none, err
	}
	return answer, nil
}

// send puts body at the object that meta names, or below it.
func (r *Kind[O]) send(ctx context.Context, meta *api.Meta, sub string, h http.Header, query url.Values, body any) (O, error) {
	out := r.k.Make()
	req := Request{Method: http.MethodPut, Path: r.path(meta.Namespace, meta.Name) + sub, Header: h, Query: query}
	err := r.c.call(ctx, req, body, out)
	return only(out, err)
}

// Create stores a new object; one of its name must not exist.
func (r *Kind[O]) Create(ctx context.Context, o O) (O, error) {
	return r.put(ctx, o, "", http.Header{"If-None-Match": {"*"}})
}

// Put creates o, or replaces spec and labels of the one of its name, whatever they are.
func (r *Kind[O]) Put(ctx context.Context, o O) (O, error) {
	return r.put(ctx, o, "", nil)
}

// Replace replaces spec and labels if the object still has the generation.
func (r *Kind[O]) Replace(ctx context.Context, o O, generation int64) (O, error) {
	return r.put(ctx, o, "", ifMatch(generation))
}

func ifMatch(generation int64) http.Header {
	return http.Header{"If-Match": {strconv.FormatInt(generation, 10)}}
}

// PutStatus replaces the status of o, but for parts that have another writer.
// When its UID is set, an object of the name with another UID is left alone (Precondition).
func (r *Kind[O]) PutStatus(ctx context.Context, o O) (O, error) {
	return r.put(ctx, o, "/status", nil)
}

// PutPart replaces one part of the status, such as "health" of a node. It sends
// nothing else: a server of an older version might not know all the rest.
func (r *Kind[O]) PutPart(ctx context.Context, o O, part string) (O, error) {
	var status map[string]json.RawMessage
	meta := o.GetMeta()
	b, err := json.Marshal(o.GetStatus())
	if err == nil {
		err = json.Unmarshal(b, &status)
	}
	if err != nil {
		return only(o, fmt.Errorf("encode the %s of %s: %w", part, r.k.Ref(meta.Namespace, meta.Name), err))
	}
	maps.DeleteFunc(status, func(key string, _ json.RawMessage) bool { return key != part })
	return r.send(ctx, meta, "/"+part, nil, nil, struct {
		Kind   string                     `json:"kind"`
		Meta   *api.Meta                  `json:"meta"`
		Status map[string]json.RawMessage `json:"status"`
	}{r.k.Name, meta, status})
}

// Delete asks for the deletion of an object: two-step kinds are only marked.
// An empty uid means whichever has the name.
func (r *Kind[O]) Delete(ctx context.Context, namespace, name, uid string) error {
	q := url.Values{}
	if uid != "" {
		q.Set("uid", uid)
	}
	return r.c.Call(ctx, http.MethodDelete, r.path(namespace, name), q, nil, nil)
}

// Finalize removes an object of a two-step kind for good.
func (r *Kind[O]) Finalize(ctx context.Context, namespace, name, uid string) error {
	return r.c.Call(ctx, http.MethodDelete, r.path(namespace, name), url.Values{"final": {"true"}, "uid": {uid}}, nil, nil)
}

// Watch yields every change after revision from, and bookmarks. It ends with
// an error when the stream breaks; Gone means list again. Lines of other types
// are for clients of a newer version.
func (r *Kind[O]) Watch(ctx context.Context, namespace string, filter Filter, from int64) iter.Seq2[api.WatchEvent[O], error] {
	return func(yield func(api.WatchEvent[O], error) bool) {
		q := url.Values{"watch": {"true"}, "from": {strconv.FormatInt(from, 10)}}
		for k, v := range filter {
			q[k] = v
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := r.c.Do(ctx, Request{Method: http.MethodGet, Path: r.path(namespace, ""), Query: q, Header: http.Header{"Accept": {AsTheyAre}}})
		if err != nil {
			yield(api.WatchEvent[O]{}, err)
			return
		}
		defer resp.Body.Close()
		read := lines[O](resp.Body)
		if b, ok := resp.Body.(*body); ok && resp.Header.Get("Content-Type") == AsTheyAre {
			read = given[O](b)
		}
		for {
			ev, err := read()
			switch {
			case err != nil && ctx.Err() != nil:
				err = ctx.Err()
			case errors.Is(err, io.EOF):
				err = api.Errorf(api.Unready, "watch of %s ended", r.k.Plural)
			case err != nil:
				err = api.Errorf(api.Unready, "watch of %s broke: %s", r.k.Plural, err)
			case ev.Type == api.EventError:
				err = ev.Error
			}
			if err != nil {
				yield(api.WatchEvent[O]{}, err)
				return
			}
			known := ev.Type == api.EventBookmark || !ev.Object.Absent() && (ev.Type == api.EventPut || ev.Type == api.EventDelete)
			if known && !yield(ev, nil) {
				return
			}
		}
	}
}

// lines reads the events of a watch.
func lines[O api.Any](from io.Reader) func() (api.WatchEvent[O], error) {
	next := wire.Stream(from)
	return func() (ev api.WatchEvent[O], err error) { return ev, next(&ev) }
}

// given are the events of a watch in this process.
func given[O api.Any](by *body) func() (api.WatchEvent[O], error) {
	var shown []Shown
	return func() (ev api.WatchEvent[O], err error) {
		for len(shown) == 0 {
			if shown, err = by.next(); err != nil {
				return ev, err
			}
		}
		next := shown[0]
		shown = shown[1:]
		o, _ := next.Object.(O)
		return api.WatchEvent[O]{Type: next.Type, Revision: next.Revision, Object: o, Error: next.Error}, nil
	}
}
