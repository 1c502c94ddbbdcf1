// Package image gets images onto the node: from a registry when a pod needs
// one, by hand, or from a node that has it by hand; and takes them away when the disk fills up.
//
// Invariants: an image is fetched once however many pods wait for it, and a
// few are fetched at a time; an image that is here is not asked for elsewhere
// unless the pod wants that, so pods start without a registry; one that was
// fetched with credentials is for those who have shown the registry some that
// are good for it; one that was loaded by hand could not be fetched again, and
// stays.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// fetches is how many images are fetched at a time: with more, all take longer.
const fetches = 3

// Policies say when a registry is asked.
const (
	IfAbsent = "if_absent"
	Always   = "always"
	Never    = "never"
)

// Config of a Store. Only Runtime is required.
type Config struct {
	Runtime runtime.Runtime
	Path    string       // file in which is kept for whom images are; "" forgets it with the process
	Loaded  func()       // called when images were loaded by hand
	Log     hclog.Logger // by default nobody's

	Disk  func() (used, size int64, err error) // of where images are, in bytes; nil: it never fills up
	InUse func() []string                      // references that pods of the node need

	// ByHand asks for an image that was loaded into other nodes by hand; nil, also
	// as its answer: there is none.
	ByHand func(ctx context.Context, reference string) (*Archive, error)
}

// Store is the images of the node. Use New.
type Store struct {
	cfg   Config
	rt    runtime.Runtime
	slots chan struct{}

	mu    sync.Mutex
	calls map[string]*call
	notes notes
}

// call is a fetch on its way.
type call struct {
	done     chan struct{}
	img      runtime.Image
	err      error
	progress []func(done, total int64)
}

// New returns the images of a runtime.
func New(cfg Config) *Store {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	s := &Store{cfg: cfg, rt: cfg.Runtime, slots: make(chan struct{}, fetches), calls: map[string]*call{}}
	s.notes = loadNotes(cfg.Path, cfg.Log)
	return s
}

// Ensure returns the image, fetching it when it is not here or the policy says so.
func (s *Store) Ensure(ctx context.Context, f runtime.Fetch, policy string) (runtime.Image, error) {
	for {
		img, err := s.rt.Image(ctx, f.Reference)
		switch {
		case errors.Is(err, runtime.ErrNotFound) && policy == Never:
			return img, fmt.Errorf("image %s: %w: it is not on the node, and pull = never", f.Reference, runtime.ErrUnavailable)
		case errors.Is(err, runtime.ErrNotFound):
		case err != nil:
			return img, err
		default:
			current, err := s.mayUse(ctx, img, f, policy)
			if err != nil {
				return runtime.Image{}, err
			}
			if current {
				s.used(img.Reference)
				return img, nil
			}
		}
		c, mine := s.call(f)
		if mine {
			c.img, c.err = s.fetch(ctx, f, policy, c)
			s.finish(f, c)
			return c.img, c.err
		}
		select {
		case <-ctx.Done():
			return runtime.Image{}, ctx.Err()
		case <-c.done:
		}
		// Whoever fetched may have given up for reasons of its own.
		if !errors.Is(c.err, context.Canceled) {
			return c.img, c.err
		}
	}
}

// Have returns the image if it is here and may be used without asking a
// registry; else ErrNotFound.
func (s *Store) Have(ctx context.Context, f runtime.Fetch, policy string) (runtime.Image, error) {
	img, err := s.rt.Image(ctx, f.Reference)
	if err != nil {
		return img, err
	}
	if policy == Always || !s.allows(img, f.Credentials) {
		return img, fmt.Errorf("image %s: %w without its registry's word", f.Reference, runtime.ErrNotFound)
	}
	s.used(img.Reference)
	return img, nil
}

func (s *Store) allows(img runtime.Image, c runtime.Credentials) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes.allows(img.Reference, keyOf(c))
}

// mayUse reports whether an image that is here is the one to use: the registry
// is asked when the policy wants that, and when the image is not for everybody
// and these credentials have not been shown to be good for it.
func (s *Store) mayUse(ctx context.Context, img runtime.Image, f runtime.Fetch, policy string) (current bool, err error) {
	if policy != Always && s.allows(img, f.Credentials) {
		return true, nil
	}
	digest, err := s.rt.Resolve(ctx, runtime.Fetch{Reference: f.Reference, Credentials: f.Credentials})
	if err != nil {
		return false, err
	}
	if digest == img.Digest {
		s.note(img.Reference, func(n *note) { n.allow(keyOf(f.Credentials)) })
	}
	// Another digest is another image: of a tag that moved, who may have the new
	// one is found out by fetching it.
	return digest == img.Digest, nil
}

// keyOf names credentials without telling them.
func keyOf(c runtime.Credentials) string {
	if c == (runtime.Credentials{}) {
		return anybody
	}
	sum := sha256.Sum256([]byte(c.Username + "\x00" + c.Password))
	return hex.EncodeToString(sum[:])
}

func callKey(f runtime.Fetch) string { return f.Reference + " " + keyOf(f.Credentials) }

func (s *Store) call(f runtime.Fetch) (c *call, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c = s.calls[callKey(f)]
	if mine = c == nil; mine {
		c = &call{done: make(chan struct{})}
		s.calls[callKey(f)] = c
	}
	if f.Progress != nil {
		c.progress = append(c.progress, f.Progress)
	}
	return c, mine
}

func (s *Store) finish(f runtime.Fetch, c *call) {
	s.mu.Lock()
	delete(s.calls, callKey(f))
	s.mu.Unlock()
	close(c.done)
}

func (s *Store) fetch(ctx context.Context, f runtime.Fetch, policy string, c *call) (runtime.Image, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return runtime.Image{}, ctx.Err()
	}
	f.Progress = func(done, total int64) {
		s.mu.Lock()
		all := slices.Clone(c.progress)
		s.mu.Unlock()
		for _, tell := range all {
			tell(done, total)
		}
	}
	var refused error
	if policy != Always {
		img, err := s.receive(ctx, f)
		if err == nil || ctx.Err() != nil {
			return img, err
		}
		if !errors.Is(err, runtime.ErrNotFound) {
			refused = err
		}
	}
	img, err := s.rt.Pull(ctx, f)
	if err != nil && refused != nil {
		err = fmt.Errorf("%w; it was loaded by hand, but %w", err, refused)
	}
	if err == nil {
		s.note(img.Reference, func(n *note) {
			if n.Digest != img.Digest {
				*n = note{Digest: img.Digest}
			}
			n.allow(keyOf(f.Credentials))
		})
	}
	return img, err
}

// List returns what the node has.
func (s *Store) List(ctx context.Context) ([]runtime.Image, error) { return s.rt.Images(ctx) }

// Import keeps the images of an OCI layout tar and returns them.
func (s *Store) Import(ctx context.Context, tar io.Reader) ([]runtime.Image, error) {
	imgs, err := s.rt.Import(ctx, tar)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	for _, i := range imgs {
		s.loaded(i)
	}
	if s.cfg.Loaded != nil {
		s.cfg.Loaded()
	}
	return imgs, nil
}

// ErrInUse says that a pod of the node needs an image.
var ErrInUse = errors.New("in use")

// Remove takes an image off the node, unless a pod needs it.
func (s *Store) Remove(ctx context.Context, reference string) error {
	img, err := s.rt.Image(ctx, reference)
	if err != nil {
		return err
	}
	if s.inUse(ctx)[img.Digest] {
		return fmt.Errorf("image %s: %w by a pod of the node", reference, ErrInUse)
	}
	if err := s.rt.RemoveImage(ctx, img.Reference); err != nil {
		return err
	}
	s.forget(img.Reference)
	return nil
}

// inUse returns the digests that pods of the node need.
func (s *Store) inUse(ctx context.Context) map[string]bool {
	used := map[string]bool{}
	if s.cfg.InUse == nil {
		return used
	}
	for _, ref := range s.cfg.InUse() {
		if img, err := s.rt.Image(ctx, ref); err == nil {
			used[img.Digest] = true
		}
	}
	return used
}
