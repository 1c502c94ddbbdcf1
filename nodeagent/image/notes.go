package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// note is what is known of one image on the node.
type note struct {
	Digest string    `json:"digest,omitempty"`
	Loaded bool      `json:"loaded,omitempty"` // by hand: it could not be fetched again
	For    []string  `json:"for,omitempty"`    // keys of the credentials it is for; none: everybody
	Used   time.Time `json:"used,omitzero"`
}

// anybody is the key of no credentials.
const anybody = "anybody"

// allow notes that the registry gives the image to who has the key.
func (n *note) allow(key string) {
	n.Used = time.Now()
	switch {
	case n.Loaded:
	case key == anybody:
		n.For = []string{anybody}
	case !slices.Contains(n.For, key) && !slices.Contains(n.For, anybody):
		n.For = append(n.For, key)
	}
}

// notes are by reference.
type notes map[string]note

// allows reports whether who has the key may use the image. One that nothing is
// known of came here otherwise than through this node's pods, and is open.
func (n notes) allows(reference, key string) bool {
	m := n[reference]
	return len(m.For) == 0 || slices.Contains(m.For, anybody) || slices.Contains(m.For, key)
}

func loadNotes(path string, log hclog.Logger) notes {
	n := notes{}
	if path == "" {
		return n
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("what is known of images is lost: those that were fetched with credentials are open to all pods of this node", "error", err)
		return notes{}
	}
	return n
}

// note changes what is known of an image, and keeps it.
func (s *Store) note(reference string, change func(*note)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.notes[reference]
	change(&n)
	s.notes[reference] = n
	s.save()
}

// loaded notes an image that came by hand. What had its name before has one of
// its digest, and is collected like any other once no pod needs it.
func (s *Store) loaded(img runtime.Image) {
	now := time.Now()
	s.mu.Lock()
	was := s.notes[img.Reference]
	s.mu.Unlock()
	if ref, err := api.ParseImage(img.Reference); err == nil && was.Digest != "" && was.Digest != img.Digest {
		ref.Tag, ref.Digest = "", was.Digest
		s.note(ref.String(), func(n *note) { *n = note{Digest: was.Digest, For: was.For, Used: now} })
	}
	s.note(img.Reference, func(n *note) { *n = note{Digest: img.Digest, Loaded: true, Used: now} })
}

// usedEvery is how exactly it is known when an image was last used.
const usedEvery = time.Minute

func (s *Store) used(reference string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.notes[reference]
	if time.Since(n.Used) < usedEvery {
		return
	}
	n.Used = time.Now()
	s.notes[reference] = n
	s.save()
}

func (s *Store) forget(reference string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.notes, reference)
	s.save()
}

// save writes the notes. The lock is held.
func (s *Store) save() {
	if s.cfg.Path == "" {
		return
	}
	b, err := json.Marshal(s.notes)
	if err == nil {
		err = pki.WriteFile(s.cfg.Path, b)
	}
	if err != nil {
		s.cfg.Log.Error("what is known of images is not kept", "error", err)
	}
}
