// Package image gets images onto the node: from a registry when a pod needs
// one, or by hand.
//
// Invariants: an image is fetched once however many pods wait for it, and a
// few are fetched at a time; an image that is here is not asked for elsewhere,
// so pods start without a registry.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// fetches is how many images are fetched at a time: with more, all take longer.
const fetches = 3

// Store is the images of the node.
type Store struct {
	rt     runtime.Runtime
	slots  chan struct{}
	loaded func() // called after an import

	mu    sync.Mutex
	calls map[string]*call
}

// call is a fetch on its way.
type call struct {
	done chan struct{}
	img  runtime.Image
	err  error
}

// New returns the images of rt. loaded, if not nil, is called when some were
// loaded by hand.
func New(rt runtime.Runtime, loaded func()) *Store {
	return &Store{rt: rt, slots: make(chan struct{}, fetches), loaded: loaded, calls: map[string]*call{}}
}

// Ensure returns the image, fetching it when it is not here.
func (s *Store) Ensure(ctx context.Context, reference string) (runtime.Image, error) {
	for {
		img, err := s.rt.Image(ctx, reference)
		if !errors.Is(err, runtime.ErrNotFound) {
			return img, err
		}
		c, mine := s.call(reference)
		if mine {
			c.img, c.err = s.fetch(ctx, reference)
			s.finish(reference, c)
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

func (s *Store) call(reference string) (c *call, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.calls[reference]; c != nil {
		return c, false
	}
	c = &call{done: make(chan struct{})}
	s.calls[reference] = c
	return c, true
}

func (s *Store) finish(reference string, c *call) {
	s.mu.Lock()
	delete(s.calls, reference)
	s.mu.Unlock()
	close(c.done)
}

func (s *Store) fetch(ctx context.Context, reference string) (runtime.Image, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return runtime.Image{}, ctx.Err()
	}
	return s.rt.Pull(ctx, reference)
}

// List returns what the node has.
func (s *Store) List(ctx context.Context) ([]runtime.Image, error) { return s.rt.Images(ctx) }

// Import keeps the images of an OCI layout tar and returns them.
func (s *Store) Import(ctx context.Context, tar io.Reader) ([]runtime.Image, error) {
	imgs, err := s.rt.Import(ctx, tar)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	if s.loaded != nil {
		s.loaded()
	}
	return imgs, nil
}
