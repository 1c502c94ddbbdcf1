package controller

import (
	"fmt"
	"maps"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Mounts of a stateful app that say a size are of a volume per ordinal: data-0,
// data-1, …, which is made when its first pod is, grows with the app, belongs to
// nobody and stays when the app goes.

// claimed returns the template with the volumes of an ordinal, and their sizes
// by name.
func claimed(t api.PodTemplate, ordinal int) (api.PodTemplate, map[string]api.Memory) {
	t, sizes := api.Clone(t), map[string]api.Memory{}
	for _, mounts := range t.AllMounts() {
		for at, m := range mounts {
			if m.Size == "" {
				continue
			}
			size := m.Size
			m.Volume, m.Size = api.Label(m.Volume, fmt.Sprintf("-%d", ordinal)), ""
			if mounts[at] = m; size.Bytes() > sizes[m.Volume].Bytes() {
				sizes[m.Volume] = size
			}
		}
	}
	return t, sizes
}

// claim plans the volumes of an ordinal that are not there, or too small.
func (r *rollout) claim(sizes map[string]api.Memory) {
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		size, have := sizes[name], r.see.volumes[name]
		switch {
		case slices.ContainsFunc(r.claims, func(v *api.Volume) bool { return v.Meta.Name == name }):
		case (have == nil || have.Spec.Size.Bytes() < size.Bytes()) && r.denied(api.Volumes.Ref(r.app.Meta.Namespace, name)):
		case have == nil:
			r.claims = append(r.claims, &api.Volume{
				Meta: api.Meta{Name: name, Namespace: r.app.Meta.Namespace, Labels: r.app.Meta.Labels},
				Spec: api.VolumeSpec{Size: size},
			})
		case have.Spec.Size.Bytes() < size.Bytes() && !have.Meta.Deleting():
			grown := *have
			grown.Spec.Size = size
			r.claims = append(r.claims, &grown)
		}
	}
}

// homeless reports whether an ordinal has no volume, and gets none.
func (r *rollout) homeless(template api.PodTemplate, ordinal int) bool {
	_, sizes := claimed(template, ordinal)
	for name := range sizes {
		if r.see.volumes[name] == nil && r.denied(api.Volumes.Ref(r.app.Meta.Namespace, name)) {
			return true
		}
	}
	return false
}

// grow passes a larger size on to the volumes of ordinals that have a pod.
func (r *rollout) grow() {
	for n := range r.want {
		if r.ordinals[n] != nil {
			_, sizes := claimed(r.is.template, n)
			maps.DeleteFunc(sizes, func(name string, _ api.Memory) bool { return r.see.volumes[name] == nil })
			r.claim(sizes)
		}
	}
}
