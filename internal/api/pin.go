package api

import (
	"maps"
	"slices"
	"strings"
)

// An image is declared by a name that may mean something else tomorrow. What it
// meant when it was declared is its digest: effective has name@digest, and so
// have the pods. A rollout that is put back, and a node that joins later, get
// the same image again.

// DigestsOf finds the digests of a template's images, by the reference that is
// declared; those that were declared with one are left out. Both templates are
// of one object: what was declared, and what it means.
func DigestsOf(declared, effective PodTemplate) map[string]string {
	out := map[string]string{}
	said := declared.All()
	for name, c := range effective.All() {
		ref := said[name].Image
		if ref == "" { // of an init container: the main one's
			ref = declared.Image
		}
		if digest, ok := strings.CutPrefix(c.Image, ref+"@"); ok {
			out[ref] = digest
		}
	}
	return out
}

// Floating are the references of a template that have no digest, in order. What
// is fetched anew before each start has none to keep.
func (t PodTemplate) Floating() (refs []string) {
	if t.Pull == PullAlways {
		return nil
	}
	for _, c := range t.All() {
		if r, err := ParseImage(c.Image); err == nil && r.Digest == "" {
			refs = append(refs, c.Image)
		}
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}

// ImagePath is where a template names an image.
type ImagePath struct{ Path, Reference string }

// ImagePaths are the images that a declared template names, the main one first.
func (t PodTemplate) ImagePaths() []ImagePath {
	paths := []ImagePath{{"image", t.Image}}
	for _, name := range sortedKeys(t.Init) {
		if ref := t.Init[name].Image; ref != "" {
			paths = append(paths, ImagePath{"init." + keyPath(name) + ".image", ref})
		}
	}
	for _, name := range sortedKeys(t.Sidecars) {
		paths = append(paths, ImagePath{"sidecars." + keyPath(name) + ".image", t.Sidecars[name].Image})
	}
	return paths
}

// Pinned returns the template with digests at the references that have one in images.
func (t PodTemplate) Pinned(images map[string]string) PodTemplate {
	pin := func(ref string) string {
		if digest := images[ref]; digest != "" && len(ref)+1+len(digest) <= maxImage {
			return ref + "@" + digest
		}
		return ref
	}
	t.Image = pin(t.Image)
	t.Init, t.Sidecars = maps.Clone(t.Init), maps.Clone(t.Sidecars)
	for name, c := range t.Init {
		c.Image = pin(c.Image)
		t.Init[name] = c
	}
	for name, c := range t.Sidecars {
		c.Image = pin(c.Image)
		t.Sidecars[name] = c
	}
	return t
}

// Pinned returns the spec with digests at its images' references.
func (s AppSpec) Pinned(images map[string]string) AppSpec {
	s.setTemplate(s.Template().Pinned(images))
	return s
}

// Pinned returns the spec with digests at its images' references.
func (s JobSpec) Pinned(images map[string]string) JobSpec {
	s.PodTemplate = s.PodTemplate.Pinned(images)
	return s
}

// ShortImage is an image's reference as a table shows it: with the beginning of its digest.
func ShortImage(ref string) string {
	name, digest, ok := strings.Cut(ref, "@")
	if !ok {
		return ref
	}
	return name + "@" + short(digest)
}

// digestColumn is the beginning of the digest of an effective image.
func digestColumn(image string) string {
	_, digest, _ := strings.Cut(image, "@")
	return dash(short(digest))
}
