package image

import (
	"context"
	"fmt"
	"io"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Archive is an image on its way from a node that has it.
type Archive struct {
	Reference string // in full
	Digest    string
	Size      int64 // bytes, about
	Body      io.ReadCloser
}

// receive gets an image from a node into which it was loaded by hand. It then is
// as if it had been loaded here too. runtime.ErrNotFound: there is no such node.
func (s *Store) receive(ctx context.Context, f runtime.Fetch) (runtime.Image, error) {
	var from *Archive
	var err error
	if s.cfg.ByHand != nil {
		from, err = s.cfg.ByHand(ctx, f.Reference)
	}
	if err == nil && from == nil {
		err = fmt.Errorf("image %s by hand: %w", f.Reference, runtime.ErrNotFound)
	}
	if err != nil {
		return runtime.Image{}, err
	}
	defer from.Body.Close()
	img, err := s.rt.Receive(ctx, from.Reference, from.Digest, &counted{from.Body, from.Size, 0, f.Progress})
	if err != nil {
		return runtime.Image{}, err
	}
	s.loaded(img)
	s.cfg.Log.Info("image received from another node", "image", img.Reference, "digest", img.Digest)
	return img, nil
}

// counted tells how far it has been read.
type counted struct {
	io.Reader
	total, done int64
	tell        func(done, total int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.done += int64(n)
	c.tell(min(c.done, c.total), c.total)
	return n, err
}

// Export writes an image for another node, if it is the one of that digest.
func (s *Store) Export(ctx context.Context, reference, digest string, begin func() io.Writer) error {
	img, err := s.rt.Image(ctx, reference)
	if err != nil {
		return err
	}
	if img.Digest != digest {
		return fmt.Errorf("image %s of digest %s: %w: here it is %s", reference, digest, runtime.ErrNotFound, img.Digest)
	}
	return s.rt.Export(ctx, img.Reference, begin())
}
