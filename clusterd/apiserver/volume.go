package apiserver

import (
	"encoding/json"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// volumeGuard is the key that everyone reads and writes who begins to use a
// volume, and reads who deletes it: two writers that each find it free cannot
// both commit.
func volumeGuard(namespace, name string) string {
	return guardPrefix + "volume/" + namespace + "/" + name
}

func (t *txn) volume(o *object) (*api.Volume, error) {
	typed, err := o.typed()
	if err != nil {
		return nil, err
	}
	return typed.(*api.Volume), nil
}

// checkVolume keeps a volume what its data is: it does not shrink or move.
func (t *txn) checkVolume(old *object, v *api.Volume) error {
	if old == nil {
		return nil
	}
	was, err := t.volume(old)
	if err != nil {
		return err
	}
	var errs api.Errors
	if v.Spec.Size.Bytes() < was.Effective.Size.Bytes() {
		errs.Addf("spec.size", "is %s and cannot shrink to %s: make another volume of that size, and copy the data", was.Effective.Size, v.Spec.Size)
	}
	if node := was.Status.Node; node != "" && v.Spec.Node != "" && v.Spec.Node != node {
		errs.Addf("spec.node", "the data is on node %s for good: make another volume on %s, and copy the data", node, v.Spec.Node)
	}
	if errs != nil {
		return invalid(v.Ref(), errs)
	}
	return nil
}

// claimVolumes lets a pod that is being bound use its volumes: each is on the
// pod's node, or comes to be there now, and no other pod writes to what it is
// to write to. Who uses a volume is read from the pods that live.
func (t *txn) claimVolumes(o *object, pod *api.Pod) error {
	k := t.s.kinds["volumes"]
	for _, use := range pod.Spec.Uses() {
		vo := t.read(k.key(pod.Meta.Namespace, use.Name))
		if vo == nil {
			return conflict(api.Conflict, o.ref(), "volume %s does not exist", use.Name)
		}
		v, err := t.volume(vo)
		if err != nil {
			return err
		}
		home := v.Status.Node
		if home == "" {
			home = v.Effective.Node
		}
		if v.Meta.Deleting() {
			return conflict(api.Conflict, o.ref(), "volume %s is being deleted", use.Name)
		}
		if home != "" && home != pod.Spec.Node {
			return conflict(api.Conflict, o.ref(), "volume %s is on node %s", use.Name, home)
		}
		guard := volumeGuard(pod.Meta.Namespace, use.Name)
		t.read(guard)
		if other := t.user(pod.Meta.Namespace, use.Name, pod.Spec.Node, o.key, true); !use.ReadOnly && other != "" {
			return conflict(api.Conflict, o.ref(), "volume %s is used by pod %s, and one pod at a time may write to it", use.Name, other)
		}
		t.set(guard, []byte(`{}`))
		if v.Status.Node != "" {
			continue
		}
		v.Status.Node, v.Status.Phase = pod.Spec.Node, api.VolumeBound
		next := vo.with()
		next.status = marshal(v.Status)
		t.put(next)
	}
	return nil
}

// user returns a pod that lives on node and mounts the volume; with writing,
// one that may write to it. The pod at key except does not count.
func (t *txn) user(namespace, volume, node, except string, writing bool) (name string) {
	uses := func(p *object) bool {
		if p == nil || p.key == except || p.meta.Namespace != namespace {
			return false
		}
		for _, u := range p.uses {
			if u.Name == volume && !(writing && u.ReadOnly) {
				name = p.meta.Name
				return true
			}
		}
		return false
	}
	t.snap.eachWhere(t.s.kinds["pods"], "node", node, func(p *object) bool {
		if _, staged := t.staged[p.key]; staged {
			return true
		}
		return !uses(p)
	})
	for _, p := range t.staged {
		if p != nil && p.kind == t.s.kinds["pods"] && nodeOf(p) == node {
			c := *p
			if c.derive() == nil && uses(&c) {
				break
			}
		}
	}
	return name
}

// checkVolumeGoes refuses to delete a volume that somebody counts on. With
// force, one whose node is dead goes at once.
func (t *txn) checkVolumeGoes(old *object, force bool) (atOnce bool, err error) {
	v, err := t.volume(old)
	if err != nil {
		return false, err
	}
	if api.Deref(v.Effective.DeletionProtection) {
		return false, conflict(api.Conflict, old.ref(), "is protected from deletion: set deletion_protection = false first, if its data may go")
	}
	t.read(volumeGuard(v.Meta.Namespace, v.Meta.Name))
	if node := v.Status.Node; node != "" {
		if pod := t.user(v.Meta.Namespace, v.Meta.Name, node, "", false); pod != "" {
			return false, conflict(api.Conflict, old.ref(), "is used by pod %s: stop what runs it first", pod)
		}
	}
	if force && v.Status.Phase != api.VolumeLost {
		return false, conflict(api.Conflict, old.ref(), "its node removes the data: delete it without force, which is for volumes that are lost")
	}
	return force, nil
}

// volumeNode returns the node that has a volume's data.
func volumeNode(o *object) string {
	var st struct{ Node string }
	if o == nil || len(o.status) == 0 || json.Unmarshal(o.status, &st) != nil {
		return ""
	}
	return st.Node
}

func (t *txn) releaseVolume(v *api.Volume) { t.unclaim(volumeGuard(v.Meta.Namespace, v.Meta.Name)) }
