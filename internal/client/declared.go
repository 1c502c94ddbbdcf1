package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Declared is an object with its spec as its author wrote it: nothing that
// this program does not know gets lost on the way back.
type Declared struct {
	Kind string          `json:"kind,omitempty"`
	Meta api.Meta        `json:"meta"`
	Spec json.RawMessage `json:"spec"`
}

// GetDeclared returns one object with its spec verbatim.
func (r *Kind[O]) GetDeclared(ctx context.Context, namespace, name string) (*Declared, error) {
	o := new(Declared)
	if err := r.c.Call(ctx, http.MethodGet, r.path(namespace, name), nil, nil, o); err != nil {
		return nil, err
	}
	return o, nil
}

// ReplaceDeclared replaces spec and labels if the object still has the
// generation, with a spec that is passed on verbatim.
func (r *Kind[O]) ReplaceDeclared(ctx context.Context, o *Declared, generation int64) (O, error) {
	return r.replace(ctx, o, generation, nil)
}

// PutBack is ReplaceDeclared with what an earlier rollout of an app declared, by
// its number: its images are those that ran, whatever their tags mean by now.
func (r *Kind[O]) PutBack(ctx context.Context, o *Declared, generation, rollout int64) (O, error) {
	return r.replace(ctx, o, generation, url.Values{"rollout": {strconv.FormatInt(rollout, 10)}})
}

// FindImages is ReplaceDeclared that has the digests of the images found anew,
// also where tags are the same. What is what it was keeps its generation.
func (r *Kind[O]) FindImages(ctx context.Context, o *Declared, generation int64) (O, error) {
	return r.replace(ctx, o, generation, url.Values{"images": {"anew"}})
}

func (r *Kind[O]) replace(ctx context.Context, o *Declared, generation int64, query url.Values) (O, error) {
	o.Kind = r.k.Name
	return r.send(ctx, &o.Meta, "", ifMatch(generation), query, o)
}
