package apiserver

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

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
	// Whatever is explained, the causes are pods' and show what they wrote.
	for _, k := range []*kind{r.kind, s.kinds["pods"]} {
		if err := allow(r.by, ask{verb: api.VerbRead, kind: k, namespace: r.PathValue("namespace"), name: r.PathValue("name")}); err != nil {
			return err
		}
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
	var broken error
	around := api.Around{
		Node: func(name string) *api.Node {
			n, err := typedOf[*api.Node](snap, s.kinds["nodes"].key("", name))
			broken = cmp.Or(broken, err)
			return n
		},
		Volume: func(namespace, name string) *api.Volume {
			v, err := typedOf[*api.Volume](snap, s.kinds["volumes"].key(namespace, name))
			broken = cmp.Or(broken, err)
			return v
		},
	}
	var x api.Explanation
	var pods []*api.Pod
	var err error
	switch v := o.(type) {
	case *api.App:
		pods, err = s.podsOf(snap, "app", v.Meta.Namespace, v.Meta.Name)
		x = api.ExplainApp(v, pods, around)
	case *api.Job:
		pods, err = s.podsOf(snap, "job", v.Meta.Namespace, v.Meta.Name)
		x = api.ExplainJob(v, pods, around)
	case *api.Service:
		pods, err = s.podsOf(snap, "app", v.Meta.Namespace, v.Spec.App)
		x = api.ExplainService(v, pods, around)
	case *api.Pod:
		x = api.ExplainPod(v, around)
	default:
		err = fmt.Errorf("nothing explains a %s", o.Ref().Kind)
	}
	return x, cmp.Or(err, broken)
}

// typedOf returns the object at key, nil if there is none.
func typedOf[O api.Any](snap *snapshot, key string) (none O, err error) {
	o := snap.get(key)
	if o == nil {
		return none, nil
	}
	typed, err := o.typed()
	if err != nil {
		return none, err
	}
	return typed.(O), nil
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
