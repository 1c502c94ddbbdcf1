package apiserver

import (
	"fmt"
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// explained are the kinds that can be asked why.
var explained = []string{api.Apps.Name, api.Pods.Name, api.Services.Name}

// serveWhy answers GET of an object's explanation, made from one state of the
// cluster: the object, its pods, and what happened to it.
func (s *Server) serveWhy(w http.ResponseWriter, r *request) error {
	key, err := r.key()
	if err != nil {
		return err
	}
	snap, err := s.snapshot(r)
	if err != nil {
		return err
	}
	if err := allow(r.by.Identity, verbRead, s.kinds["pods"], "", nil); err != nil {
		return err // whatever is explained, the causes are pods' and show what they wrote
	}
	o := snap.get(key)
	if o == nil {
		return s.missing(snap, r.ref())
	}
	typed, err := o.typed()
	if err != nil {
		return err
	}
	x, err := s.explain(snap, typed)
	if err != nil {
		return fmt.Errorf("explain %s: %w", o.ref(), err)
	}
	ring := api.EventsOf(o.ref())
	if e := snap.get(s.kinds["events"].key(ring.Namespace, ring.Name)); e != nil {
		events, err := e.typed()
		if err != nil {
			return err
		}
		x.Events = events.(*api.Events).Spec.Entries
	}
	answer(w, http.StatusOK, snap.revision, marshal(x))
	return nil
}

func (s *Server) explain(snap *snapshot, o api.Any) (api.Explanation, error) {
	switch v := o.(type) {
	case *api.App:
		pods, err := s.podsOf(snap, "app", v.Meta.Namespace, v.Meta.Name)
		return api.ExplainApp(v, pods), err
	case *api.Service:
		pods, err := s.podsOf(snap, "app", v.Meta.Namespace, v.Spec.App)
		return api.ExplainService(v, pods), err
	case *api.Pod:
		return api.ExplainPod(v), nil
	}
	return api.Explanation{}, fmt.Errorf("nothing explains a %s", o.Ref().Kind)
}

// podsOf returns the pods whose index is name, in a namespace.
func (s *Server) podsOf(snap *snapshot, index, namespace, name string) (pods []*api.Pod, err error) {
	snap.eachWhere(s.kinds["pods"], index, name, func(o *object) bool {
		if o.meta.Namespace != namespace {
			return true
		}
		var typed api.Any
		if typed, err = o.typed(); err != nil {
			return false
		}
		pods = append(pods, typed.(*api.Pod))
		return true
	})
	return pods, err
}
