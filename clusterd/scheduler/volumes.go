package scheduler

import (
	"fmt"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// volume is what the picture knows of one.
type volume struct {
	node     string // that has its data, or is meant to; "" is any
	deleting bool
	writer   string // pod that mounts it for writing, or was just placed to
	assumed  string // node that the first pod was just placed on
}

func (v *volume) home() string {
	if v.node != "" {
		return v.node
	}
	return v.assumed
}

// setVolume adds or updates a volume; nil is one that is gone.
func (p *picture) setVolume(key string, o *api.Volume) needs {
	if o == nil {
		delete(p.volumes, key)
		return 0
	}
	v := p.volumes[key]
	if v == nil {
		v = &volume{}
		p.volumes[key] = v
		for _, at := range p.placed {
			p.mount(at, +1)
		}
	}
	v.deleting = o.Meta.Deleting()
	if v.node = o.Status.Node; v.node == "" {
		v.node = o.Effective.Node
	}
	return needNode
}

// mount notes that a pod took its volumes, or gave them back.
func (p *picture) mount(at placement, sign int32) {
	for _, u := range at.uses {
		v := p.volumes[u.Name]
		if v == nil {
			continue
		}
		name := "that was just placed"
		if at.pod != nil {
			name = at.pod.Meta.Name
		}
		switch {
		case sign > 0:
			v.assumed = p.names[at.node]
			if !u.ReadOnly {
				v.writer = name
			}
		default:
			v.assumed = ""
			if v.writer == name {
				v.writer = ""
			}
		}
	}
}

// usesOf lists the volumes of a pod by namespace and name.
func usesOf(namespace string, t *api.PodTemplate) []api.VolumeUse {
	uses := t.Uses()
	for i := range uses {
		uses[i].Name = namespace + "/" + uses[i].Name
	}
	return uses
}

// barred says which volume keeps a pod from every node, or "".
func (p *picture) barred(r *request) string {
	if p.volumes == nil {
		return "" // a plan that was given none
	}
	for _, u := range r.uses {
		name := u.Name[len(r.namespace)+1:]
		switch v := p.volumes[u.Name]; {
		case v == nil:
			return fmt.Sprintf("volume %s does not exist", name)
		case v.deleting:
			return fmt.Sprintf("volume %s is being deleted", name)
		case !u.ReadOnly && v.writer != "":
			return fmt.Sprintf("volume %s is used by pod %s, and one pod at a time may write to it", name, v.writer)
		}
	}
	return ""
}

// afar returns the first volume of a pod whose data is not on node i, and the
// node that has it.
func (a *ask) afar(i int) (name, node string) {
	for _, u := range a.uses {
		if v := a.volumes[u.Name]; v != nil && v.home() != "" && v.home() != a.names[i] {
			return u.Name[len(a.namespace)+1:], v.home()
		}
	}
	return "", ""
}

// atVolumes keeps a pod where its data is.
var atVolumes = filter{
	need: needNode,
	fits: func(a *ask, i int) bool { name, _ := a.afar(i); return name == "" },
	say: func(a *ask, refused []int) string {
		return tally(refused, func(i int) string {
			name, node := a.afar(i)
			return "volume " + name + api.HomeOfVolume + node
		}, func(n int, why string) string {
			return fmt.Sprintf("%s and not on %d %s", why, n, plural(n, "other", "others"))
		})
	},
}
