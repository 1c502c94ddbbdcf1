package apiserver

import (
	"encoding/json"
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// deletion is what is to go, and on which conditions.
type deletion struct {
	uid        string
	generation int64
	final      bool // also of a two-step kind
	force      bool // of a volume whose node is dead
}

// serveDelete answers DELETE of an object.
func (s *Server) serveDelete(w http.ResponseWriter, r *request) error {
	if _, err := r.key(); err != nil {
		return err
	}
	pre, err := r.precondition()
	if err != nil {
		return err
	}
	d := deletion{uid: r.URL.Query().Get("uid"), generation: pre.generation, final: r.flag("final"), force: r.flag("force")}
	return s.write(w, r, func(t *txn) (*object, int, error) {
		o, err := t.delete(r.kind, r.ref(), d)
		return o, http.StatusOK, err
	})
}

// delete removes the object, or marks one of a two-step kind. It returns the
// object as it is then, or as it last was.
func (t *txn) delete(k *kind, ref api.Ref, d deletion) (*object, error) {
	old := t.read(k.key(ref.Namespace, ref.Name))
	verb := api.VerbDelete
	if d.final && k.info.TwoStep {
		verb = api.VerbFinalize
	}
	if err := allow(t.by, ask{verb: verb, kind: k, namespace: ref.Namespace, name: ref.Name, object: old}); err != nil {
		return nil, err
	}
	if old == nil {
		return nil, t.s.missing(t.snap, ref)
	}
	atOnce := d.final
	if k.info.Name == api.Volumes.Name && !d.final && (d.force || !old.meta.Deleting()) {
		var err error
		if atOnce, err = t.checkVolumeGoes(old, d.force); err != nil {
			return nil, err
		}
	}
	switch {
	case d.uid != "" && d.uid != old.meta.UID:
		return nil, conflict(api.Precondition, ref, "is another object of that name: its uid is %s", old.meta.UID)
	case d.generation != 0 && d.generation != old.meta.Generation:
		return nil, conflict(api.Precondition, ref, "changed since it was read: it is at generation %d, not %d; %s", old.meta.Generation, d.generation, lastWrite(old))
	case k.info.Name == api.Namespaces.Name && ref.Name == api.DefaultNamespace:
		return nil, conflict(api.Conflict, ref, "the default namespace cannot be deleted; delete what is in it")
	case !d.final && !old.meta.Deleting() && k.info.Name != api.Volumes.Name && protected(old):
		e := conflict(api.Conflict, ref, "is protected from deletion")
		e.Fields = api.Errors{{Path: "spec.deletion_protection", Message: "set it to false first, and delete then"}}
		return nil, e
	case k.info.TwoStep && !atOnce:
		if old.meta.Deleting() {
			return old, nil
		}
		o := old.with()
		o.meta.DeletedAt = &t.now
		t.put(o)
		return o, nil
	case k.info.TwoStep && d.final && !old.meta.Deleting() && k.info.Name != api.Pods.Name:
		// A pod of which nothing is left on any node needs no first step.
		return nil, conflict(api.Conflict, ref, "is not being deleted: delete it without final first")
	}
	if err := t.release(k, old); err != nil {
		return nil, err
	}
	t.remove(old.key)
	return old, nil
}

// protected reports whether an object's author wants it kept.
func protected(o *object) bool {
	var spec struct {
		DeletionProtection bool `json:"deletion_protection"`
	}
	return len(o.effective) > 0 && json.Unmarshal(o.effective, &spec) == nil && spec.DeletionProtection
}

// release gives back what the object holds beside itself.
func (t *txn) release(k *kind, old *object) error {
	typed, err := old.shared()
	if err != nil {
		return err
	}
	switch v := typed.(type) {
	case *api.Service:
		t.releaseService(v)
	case *api.Node:
		t.releaseNode(v)
	case *api.Volume:
		t.releaseVolume(v)
	case *api.Server:
		if err := t.checkServerGoes(old); err != nil {
			return err
		}
		if err := t.noteRemoval(v.Meta.Name); err != nil {
			return err
		}
	case *api.Content:
		t.unclaim(sealedPrefix + sealedName(v.Meta.Namespace, v.Meta.Name))
	case *api.Namespace:
		t.unclaim(guardPrefix + "quota/" + v.Meta.Name)
		if err := t.emptyNamespace(old); err != nil {
			return err
		}
	}
	if k.info.Name != api.EventRings.Name {
		if key := t.s.ringKey(old.ref()); t.peek(key) != nil {
			t.read(key)
			t.remove(key)
		}
	}
	return nil
}

// emptyNamespace demands that nothing lives in a namespace before it goes. No
// object can be created meanwhile: that reads the namespace, too.
func (t *txn) emptyNamespace(ns *object) error {
	for _, k := range t.s.kinds {
		if !k.namespaced() {
			continue
		}
		var left *object
		t.snap.each(k.prefix(ns.meta.Name), "", func(o *object) bool {
			if staged, ok := t.staged[o.key]; ok && staged == nil {
				return true
			}
			if k.info.Name != api.EventRings.Name {
				left = o
				return false
			}
			if len(t.writes) < maxRingsAtOnce {
				t.read(o.key)
				t.remove(o.key)
				return true
			}
			left = o
			return false
		})
		if left != nil {
			return conflict(api.Conflict, ns.ref(), "is not empty: %s is still there", left.ref())
		}
	}
	return nil
}

// maxRingsAtOnce bounds the transaction that removes a namespace; a namespace
// with more rings of events has them deleted one by one before.
const maxRingsAtOnce = 800
