//go:build linux

package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterd/terraform-provider-clusterd/internal/registry"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// maxIndex bounds the index.json of an archive, in bytes.
const maxIndex = 4 << 20

// Export writes an image as a tar in OCI layout.
func (r *Runtime) Export(ctx context.Context, name string, w io.Writer) error {
	i, err := r.image(ctx, name)
	if err != nil {
		return err
	}
	err = r.client.Export(ctx, w, archive.WithImage(r.client.ImageService(), i.Name()),
		archive.WithSkipMissing(r.client.ContentStore()), archive.WithSkipDockerManifest())
	if err != nil {
		return fmt.Errorf("export image %s: %w", name, err)
	}
	return nil
}

// Receive keeps one image of a tar in OCI layout. What it consists of lies under
// the digest of its bytes, so nothing else can pass for it.
func (r *Runtime) Receive(ctx context.Context, name, digest string, t io.Reader) (runtime.Image, error) {
	ref, err := registry.Normalize(name)
	if err != nil {
		return runtime.Image{}, err
	}
	forget, err := r.nameByDigest(ctx)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("receive image %s: %w", name, err)
	}
	defer forget()
	just, in := io.Pipe()
	go func() { in.CloseWithError(justOne(in, t, ref.String(), digest)) }()
	defer just.Close()
	got, err := r.client.Import(ctx, just)
	if err == nil && len(got) != 1 {
		err = fmt.Errorf("%w: it is not in the archive", runtime.ErrUnavailable)
	}
	if err != nil {
		return runtime.Image{}, fmt.Errorf("receive image %s: %w", name, err)
	}
	i := client.NewImageWithPlatform(r.client, got[0], platforms.Default())
	if err := i.Unpack(ctx, snapshotter); err != nil {
		return runtime.Image{}, errors.Join(fmt.Errorf("receive image %s: %w", name, err), r.RemoveImage(context.WithoutCancel(ctx), name))
	}
	return r.describe(ctx, i)
}

// justOne copies an archive whose index afterwards has just the one image, under
// that name.
func justOne(to io.Writer, from io.Reader, name, digest string) error {
	out, found := tar.NewWriter(to), false
	for in := tar.NewReader(from); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		body := io.Reader(in)
		switch path.Clean(h.Name) {
		case "manifest.json": // Docker's index
			continue
		case ocispec.ImageIndexFile:
			b, err := reindex(in, name, digest)
			if err != nil {
				return err
			}
			found, body, h.Size = true, bytes.NewReader(b), int64(len(b))
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, body); err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
	}
	if !found {
		return fmt.Errorf("%w: the archive has no index", runtime.ErrUnavailable)
	}
	return out.Close()
}

// reindex takes the one image out of an index.
func reindex(from io.Reader, name, digest string) ([]byte, error) {
	var index ocispec.Index
	b, err := io.ReadAll(io.LimitReader(from, maxIndex))
	if err == nil {
		err = json.Unmarshal(b, &index)
	}
	if err != nil {
		return nil, fmt.Errorf("read the archive's index: %w", err)
	}
	for _, m := range index.Manifests {
		if m.Digest.String() == digest {
			m.Annotations = map[string]string{images.AnnotationImageName: name}
			index.Manifests = []ocispec.Descriptor{m}
			return json.Marshal(index)
		}
	}
	return nil, fmt.Errorf("%w: the archive has none of digest %s", runtime.ErrUnavailable, digest)
}
