package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Kind is a typed view of the cluster: the objects of one kind.
type Kind[S api.Spec[S], T any] struct {
	c *Client
	k api.Kind[S, T]
}

// Of returns the objects of kind k.
func Of[S api.Spec[S], T any](c *Client, k api.Kind[S, T]) Kind[S, T] { return Kind[S, T]{c, k} }

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

func (r Kind[S, T]) path(namespace, name string) string { return Path(r.k.Info(), namespace, name) }

// Get returns one object.
func (r Kind[S, T]) Get(ctx context.Context, namespace, name string) (*api.Object[S, T], error) {
	o := new(api.Object[S, T])
	if err := r.c.Call(ctx, http.MethodGet, r.path(namespace, name), nil, nil, o); err != nil {
		return nil, err
	}
	return o, nil
}

// Filter selects what a list or watch shows: "label" → "k=v", or an index of
// the kind, such as "node" → "w1".
type Filter = url.Values

// By returns a Filter of one index or label.
func By(key, value string) Filter { return Filter{key: {value}} }

// List returns the objects of a namespace, or of all when it is empty, in the
// order of their names, and the revision they were read at. It pages by itself.
func (r Kind[S, T]) List(ctx context.Context, namespace string, filter Filter) ([]api.Object[S, T], int64, error) {
	q := url.Values{}
	for k, v := range filter {
		q[k] = v
	}
	var items []api.Object[S, T]
	for {
		var page api.List[S, T]
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

func (r Kind[S, T]) put(ctx context.Context, o *api.Object[S, T], sub string, h http.Header) (*api.Object[S, T], error) {
	o.Kind = r.k.Name
	out := new(api.Object[S, T])
	req := Request{Method: http.MethodPut, Path: r.path(o.Meta.Namespace, o.Meta.Name) + sub, Header: h}
	if err := r.c.call(ctx, req, o, out); err != nil {
		return nil, err
	}
	return out, nil
}

// Create stores a new object; one of its name must not exist.
func (r Kind[S, T]) Create(ctx context.Context, o *api.Object[S, T]) (*api.Object[S, T], error) {
	return r.put(ctx, o, "", http.Header{"If-None-Match": {"*"}})
}

// Put creates o, or replaces spec and labels of the one of its name, whatever they are.
func (r Kind[S, T]) Put(ctx context.Context, o *api.Object[S, T]) (*api.Object[S, T], error) {
	return r.put(ctx, o, "", nil)
}

// Replace replaces spec and labels if the object still has the generation.
func (r Kind[S, T]) Replace(ctx context.Context, o *api.Object[S, T], generation int64) (*api.Object[S, T], error) {
	return r.put(ctx, o, "", http.Header{"If-Match": {strconv.FormatInt(generation, 10)}})
}

// PutStatus replaces the status of o, but for parts that have another writer.
// When o.Meta.UID is set, an object of the name with another UID is left alone (Precondition).
func (r Kind[S, T]) PutStatus(ctx context.Context, o *api.Object[S, T]) (*api.Object[S, T], error) {
	return r.put(ctx, o, "/status", nil)
}

// PutPart replaces one part of the status, such as "health" of a node.
func (r Kind[S, T]) PutPart(ctx context.Context, o *api.Object[S, T], part string) (*api.Object[S, T], error) {
	return r.put(ctx, o, "/"+part, nil)
}

// Delete asks for the deletion of an object: two-step kinds are only marked.
// An empty uid means whichever has the name.
func (r Kind[S, T]) Delete(ctx context.Context, namespace, name, uid string) error {
	q := url.Values{}
	if uid != "" {
		q.Set("uid", uid)
	}
	return r.c.Call(ctx, http.MethodDelete, r.path(namespace, name), q, nil, nil)
}

// Finalize removes an object of a two-step kind for good.
func (r Kind[S, T]) Finalize(ctx context.Context, namespace, name, uid string) error {
	return r.c.Call(ctx, http.MethodDelete, r.path(namespace, name), url.Values{"final": {"true"}, "uid": {uid}}, nil, nil)
}

// Watch yields every change after revision from, and bookmarks. It ends with
// an error when the stream breaks; Gone means list again.
func (r Kind[S, T]) Watch(ctx context.Context, namespace string, filter Filter, from int64) iter.Seq2[api.WatchEvent[S, T], error] {
	return func(yield func(api.WatchEvent[S, T], error) bool) {
		q := url.Values{"watch": {"true"}, "from": {strconv.FormatInt(from, 10)}}
		for k, v := range filter {
			q[k] = v
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := r.c.Do(ctx, Request{Method: http.MethodGet, Path: r.path(namespace, ""), Query: q})
		if err != nil {
			yield(api.WatchEvent[S, T]{}, err)
			return
		}
		defer resp.Body.Close()
		for d := json.NewDecoder(resp.Body); ; {
			var ev api.WatchEvent[S, T]
			err := d.Decode(&ev)
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
				yield(api.WatchEvent[S, T]{}, err)
				return
			}
			if !yield(ev, nil) {
				return
			}
		}
	}
}

// Op is one write of a batch. Exactly one field is set.
type Op struct {
	Create *json.RawMessage `json:"create,omitempty"` // a whole object
	Put    *json.RawMessage `json:"put,omitempty"`
	Status *json.RawMessage `json:"status,omitempty"` // a whole object whose status to replace
	Delete *DeleteOp        `json:"delete,omitempty"`
	Bind   *BindOp          `json:"bind,omitempty"`
}

// DeleteOp asks for a deletion.
type DeleteOp struct {
	Ref   api.Ref `json:"ref"`
	UID   string  `json:"uid,omitempty"`
	Final bool    `json:"final,omitempty"`
}

// BindOp gives a pod its node, once. The server refuses what does not fit.
type BindOp struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	Node      string `json:"node"`
}

// Demand is what must be so for a batch to happen: exactly what is set.
type Demand struct {
	Ref        api.Ref `json:"ref"`
	Absent     bool    `json:"absent,omitempty"`
	UID        string  `json:"uid,omitempty"`
	Generation int64   `json:"generation,omitempty"`
}

// MaxBatch is how many writes one batch may hold.
const MaxBatch = 500

// Batch applies all writes in one transaction, or none. The error's fields
// name the writes that stood in the way as writes[i].
func (c *Client) Batch(ctx context.Context, ops []Op) (revision int64, err error) {
	return c.BatchIf(ctx, nil, ops)
}

// BatchIf is Batch if all demands hold; else the error is of class Precondition.
func (c *Client) BatchIf(ctx context.Context, demands []Demand, ops []Op) (revision int64, err error) {
	if len(ops) > MaxBatch {
		return 0, fmt.Errorf("batch of %d writes: at most %d", len(ops), MaxBatch)
	}
	var out struct {
		Revision int64 `json:"revision"`
	}
	body := map[string]any{"writes": ops}
	if len(demands) > 0 {
		body["preconditions"] = demands
	}
	err = c.Call(ctx, http.MethodPost, "/v1/batch", nil, body, &out)
	return out.Revision, err
}

// Declared is an object with its spec as its author wrote it: nothing that
// this program does not know gets lost on the way back.
type Declared struct {
	Kind string          `json:"kind,omitempty"`
	Meta api.Meta        `json:"meta"`
	Spec json.RawMessage `json:"spec"`
}

// GetDeclared returns one object with its spec verbatim.
func (r Kind[S, T]) GetDeclared(ctx context.Context, namespace, name string) (*Declared, error) {
	o := new(Declared)
	if err := r.c.Call(ctx, http.MethodGet, r.path(namespace, name), nil, nil, o); err != nil {
		return nil, err
	}
	return o, nil
}

// ReplaceDeclared replaces spec and labels if the object still has the
// generation, with a spec that is passed on verbatim.
func (r Kind[S, T]) ReplaceDeclared(ctx context.Context, o *Declared, generation int64) (*api.Object[S, T], error) {
	o.Kind = r.k.Name
	out := new(api.Object[S, T])
	req := Request{Method: http.MethodPut, Path: r.path(o.Meta.Namespace, o.Meta.Name), Header: http.Header{"If-Match": {strconv.FormatInt(generation, 10)}}}
	if err := r.c.call(ctx, req, o, out); err != nil {
		return nil, err
	}
	return out, nil
}
