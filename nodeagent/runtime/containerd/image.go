//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/clusterd/terraform-provider-clusterd/internal/registry"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// image finds an image by name, or by any name of its repository and the digest.
func (r *Runtime) image(ctx context.Context, name string) (client.Image, error) {
	ref, err := registry.Normalize(name)
	if err != nil {
		return nil, err
	}
	i, err := r.client.GetImage(ctx, ref.String())
	if err == nil {
		return i, nil
	}
	if !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	if digested, ok := ref.(reference.Digested); ok {
		same, err := r.client.ListImages(ctx, "target.digest=="+digested.Digest().String())
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		for _, i := range same {
			if have, err := registry.Normalize(i.Name()); err == nil && have.Name() == ref.Name() {
				return i, nil
			}
		}
	}
	return nil, fmt.Errorf("image %s: %w", name, runtime.ErrNotFound)
}

// describe reads an image's facts. They follow from the digest and are kept.
func (r *Runtime) describe(ctx context.Context, i client.Image) (runtime.Image, error) {
	digest := i.Target().Digest.String()
	if known, ok := r.images.Load(digest); ok {
		d := known.(runtime.Image)
		d.Reference = i.Name()
		return d, nil
	}
	spec, err := i.Spec(ctx)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("image %s: %w", i.Name(), err)
	}
	size, err := i.Size(ctx)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("image %s: %w", i.Name(), err)
	}
	d := runtime.Image{Reference: i.Name(), Digest: digest, Size: size, StopSignal: spec.Config.StopSignal}
	r.images.Store(digest, d)
	return d, nil
}

// Images returns what the node has. One that cannot be read, such as for
// another platform, is of no use here and left out.
func (r *Runtime) Images(ctx context.Context) ([]runtime.Image, error) {
	all, err := r.client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []runtime.Image
	for _, i := range all {
		d, err := r.describe(ctx, i)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}

// Image returns one image.
func (r *Runtime) Image(ctx context.Context, name string) (runtime.Image, error) {
	i, err := r.image(ctx, name)
	if err != nil {
		return runtime.Image{}, err
	}
	return r.describe(ctx, i)
}

// RemoveImage forgets an image; the next collection takes what nobody else uses.
func (r *Runtime) RemoveImage(ctx context.Context, name string) error {
	i, err := r.image(ctx, name)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = r.client.ImageService().Delete(ctx, i.Name(), images.SynchronousDelete())
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// Import reads an OCI layout tar, keeps the images it names and unpacks them.
func (r *Runtime) Import(ctx context.Context, tar io.Reader) ([]runtime.Image, error) {
	forget, err := r.nameByDigest(ctx)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	defer forget()
	got, err := r.client.Import(ctx, tar, client.WithImageRefTranslator(fullName))
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	if len(got) == 0 {
		return nil, errors.New("import images: the archive names none: give each manifest of its index.json the annotation io.containerd.image.name")
	}
	var out []runtime.Image
	for _, record := range got {
		if record, err = r.rename(ctx, record); err != nil {
			return nil, fmt.Errorf("import image %s: %w", record.Name, err)
		}
		i := client.NewImageWithPlatform(r.client, record, platforms.Default())
		if err := i.Unpack(ctx, snapshotter); err != nil {
			return nil, fmt.Errorf("import image %s: %w", record.Name, err)
		}
		d, err := r.describe(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("import %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}

// nameByDigest gives each image a second name, of its digest: what is imported
// may take its first, and pods that were made with it may have to start again.
// forget takes back what was not needed.
func (r *Runtime) nameByDigest(ctx context.Context) (forget func(), err error) {
	store := r.client.ImageService()
	all, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	made := map[string]images.Image{}
	for _, i := range all {
		ref, err := registry.Normalize(i.Name)
		if err != nil {
			continue // of somebody else's
		}
		second, err := reference.WithDigest(reference.TrimNamed(ref), i.Target.Digest)
		if err != nil {
			return nil, err
		}
		switch _, err := store.Create(ctx, images.Image{Name: second.String(), Target: i.Target, Labels: i.Labels}); {
		case err == nil:
			made[second.String()] = i
		case !errdefs.IsAlreadyExists(err):
			return nil, err
		}
	}
	return func() {
		ctx := context.WithoutCancel(ctx)
		for name, i := range made {
			if now, err := store.Get(ctx, i.Name); err == nil && now.Target.Digest == i.Target.Digest {
				_ = store.Delete(ctx, name) // one that is left over is a name, no more
			}
		}
	}, nil
}

// fullName takes the name in an archive for an image's if it is more than a tag.
func fullName(name string) string {
	if !strings.ContainsAny(name, "/:") {
		return ""
	}
	return name
}

// rename gives an imported image the name that it is looked for by.
func (r *Runtime) rename(ctx context.Context, i images.Image) (images.Image, error) {
	ref, err := registry.Normalize(i.Name)
	if err != nil || ref.String() == i.Name {
		return i, err
	}
	old := i.Name
	i.Name = ref.String()
	store := r.client.ImageService()
	renamed, err := store.Create(ctx, i)
	if errdefs.IsAlreadyExists(err) {
		renamed, err = store.Update(ctx, i, "target")
	}
	if err != nil {
		return i, err
	}
	return renamed, store.Delete(ctx, old)
}
