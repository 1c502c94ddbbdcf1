package api

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// Volumes are storage that outlives pods.
var Volumes = &Kind[*Volume]{
	Name: "Volume", Plural: "volumes", Aliases: []string{"volume", "vol"}, Scope: Namespaced, TwoStep: true, Parts: []string{"data"},
	Doc: "Storage that outlives pods: a filesystem of a fixed size on the disk of one node.",
	Indexes: map[string]func(*Volume) string{
		"node": func(v *Volume) string { return v.Status.Node },
	},
	Columns: []Column[*Volume]{
		{Name: "SIZE", Of: func(v *Volume) string { return dash(string(cmp.Or(v.Status.Data.Size, v.Spec.Size))) }},
		{Name: "PHASE", Of: func(v *Volume) string { return volumePhaseColumn(v) }},
		{Name: "NODE", Of: func(v *Volume) string { return dash(v.Status.Node) }},
		{Name: "USED BY", Of: func(v *Volume) string { return dash(strings.Join(v.Status.UsedBy, ",")) }},
		{Name: "AGE", Of: func(v *Volume) string { return Age(v.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(v *Volume) string { return cmp.Or(v.Status.Message, v.Status.Data.Message) }},
	},
}

// Volume is storage that outlives pods.
type Volume = Object[VolumeSpec, VolumeStatus]

// VolumeSpec is what a team wants to keep.
type VolumeSpec struct {
	Size               Memory `json:"size" doc:"Size of the filesystem, such as 10Gi. It can grow while it is in use, and never shrinks."`
	Node               string `json:"node,omitempty" doc:"Node whose disk keeps the data; by default that of the first pod that mounts the volume. It never changes after that."`
	DeletionProtection *bool  `json:"deletion_protection,omitempty" doc:"Refuse to delete the volume." default:"true"`
}

// minVolume is the least a filesystem with a journal is good for.
const minVolume = 16 << 20

// Validate reports every violation.
func (s VolumeSpec) Validate() error {
	var errs Errors
	if n, err := ParseMemory(string(s.Size)); s.Size == "" {
		errs.Addf("size", "required")
	} else if err != nil {
		errs.Add("size", err)
	} else if n < minVolume {
		errs.Addf("size", "must be at least 16Mi")
	}
	if s.Node != "" {
		errs.Add("node", CheckName(s.Node))
	}
	return errs.Err()
}

// WithDefaults fills in every unset field.
func (s VolumeSpec) WithDefaults() VolumeSpec {
	s.DeletionProtection = or(s.DeletionProtection, true)
	return s
}

// VolumePhase is where a volume is in its life.
type VolumePhase string

const (
	VolumePending VolumePhase = "pending" // no pod has mounted it yet: there is no data
	VolumeBound   VolumePhase = "bound"   // its data is on Node, for good
	VolumeLost    VolumePhase = "lost"    // … and Node is dead or gone
)

// VolumeStatus is written by the volume loop, but for Node, which the bind of
// the first pod that mounts it sets in its own transaction, and Data.
type VolumeStatus struct {
	Phase   VolumePhase `json:"phase,omitempty" enum:"pending,bound,lost"`
	Node    string      `json:"node,omitempty" doc:"Node whose disk has the data. Set once."`
	UsedBy  []string    `json:"used_by,omitempty" doc:"Pods that mount it now."`
	Message string      `json:"message,omitempty" doc:"What it waits for, or why it is lost."`
	Data    VolumeData  `json:"data,omitzero" doc:"Written by the node's agent alone."`
}

// VolumeData is a volume as its node has it.
type VolumeData struct {
	Size    Memory `json:"size,omitempty" doc:"Size of the filesystem, once there is one."`
	Removed bool   `json:"removed,omitempty" doc:"A deleted volume's data is gone."`
	Message string `json:"message,omitempty" doc:"What goes wrong on the node."`
}

func volumePhaseColumn(v *Volume) string {
	if v.Meta.Deleting() {
		return "deleting"
	}
	return string(cmp.Or(v.Status.Phase, VolumePending))
}

// VolumeUse is how a pod mounts a volume.
type VolumeUse struct {
	Name     string
	ReadOnly bool // in all its containers
}

// Uses lists the volumes a pod mounts, by name.
func (t PodTemplate) Uses() []VolumeUse {
	var out []VolumeUse
	t.EachMount(func(_, _ string, m Mount) {
		if m.Volume == "" {
			return
		}
		i := slices.IndexFunc(out, func(u VolumeUse) bool { return u.Name == m.Volume })
		if i < 0 {
			out = append(out, VolumeUse{m.Volume, true})
			i = len(out) - 1
		}
		out[i].ReadOnly = out[i].ReadOnly && Deref(m.ReadOnly)
	})
	slices.SortFunc(out, func(a, b VolumeUse) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// AllMounts yields the mounts of each container, init ones too, in order, with
// the field path of the container.
func (t PodTemplate) AllMounts() iter.Seq2[string, map[string]Mount] {
	return func(yield func(string, map[string]Mount) bool) {
		if !yield("", t.Mounts) {
			return
		}
		for _, name := range sortedKeys(t.Init) {
			if !yield("init."+keyPath(name), t.Init[name].Mounts) {
				return
			}
		}
		for _, name := range sortedKeys(t.Sidecars) {
			if !yield("sidecars."+keyPath(name), t.Sidecars[name].Mounts) {
				return
			}
		}
	}
}

// EachMount visits the mounts of all containers, init ones too, in order: the
// field path of the container, the path in the container, and the mount.
func (t PodTemplate) EachMount(visit func(field, target string, m Mount)) {
	for field, mounts := range t.AllMounts() {
		for _, target := range sortedKeys(mounts) {
			visit(field, target, mounts[target])
		}
	}
}

// validateScratch sees to it that scratch space that containers share by its
// path has one size.
func (t PodTemplate) validateScratch() error {
	var errs Errors
	size := map[string]Memory{}
	t.EachMount(func(field, target string, m Mount) {
		if m.Scratch == "" {
			return
		}
		if first, ok := size[target]; ok && first.Bytes() != m.Scratch.Bytes() {
			errs.Addf(join(field, join("mounts", keyPath(target)))+".scratch", "is %s in another container of the pod, which shares it: say the same", first)
		}
		size[target] = cmp.Or(size[target], m.Scratch)
	})
	return errs.Err()
}

// Source names what is mounted at a path, the same for all containers of a pod.
func (m Mount) Source(target string) string {
	switch {
	case m.Volume != "":
		return "volume:" + m.Volume
	case m.Host != "":
		return "host:" + m.Host
	}
	return "scratch:" + target
}

// Writes names a volume that the pod may write to, or "".
func (t PodTemplate) Writes() string {
	for _, u := range t.Uses() {
		if !u.ReadOnly {
			return u.Name
		}
	}
	return ""
}
