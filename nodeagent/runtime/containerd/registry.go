//go:build linux

package containerd

import (
	"context"
	"fmt"
	"sync"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterd/terraform-provider-clusterd/internal/registry"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Pull fetches an image from its registry and unpacks it. That nobody answers
// is known within seconds; how long the transfer takes is up to ctx.
func (r *Runtime) Pull(ctx context.Context, f runtime.Fetch) (runtime.Image, error) {
	ref, err := registry.Normalize(f.Reference)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	opts := []client.RemoteOpt{client.WithPullUnpack, client.WithPullSnapshotter(snapshotter), client.WithResolver(r.registries.Resolver(registry.Credentials(f.Credentials)))}
	if f.Progress != nil {
		w := &watched{store: r.client.ContentStore()}
		opts = append(opts, client.WithImageHandlerWrapper(w.wrap))
		defer w.tell(ctx, f.Progress)()
	}
	i, err := r.client.Pull(ctx, ref.String(), opts...)
	if ctx.Err() != nil {
		return runtime.Image{}, fmt.Errorf("pull %s: %w", ref, ctx.Err())
	}
	if err != nil {
		return runtime.Image{}, fmt.Errorf("pull %s: %w", ref, registryError(err))
	}
	return r.describe(ctx, i)
}

// Resolve asks the registry for an image's digest.
func (r *Runtime) Resolve(ctx context.Context, f runtime.Fetch) (string, error) {
	digest, err := r.registries.Digest(ctx, f.Reference, registry.Credentials(f.Credentials))
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", f.Reference, registryError(err))
	}
	return digest, nil
}

// registryError says what went wrong in the words of the contract.
func registryError(err error) error {
	t, kind := registry.Explain(err), runtime.ErrUnavailable
	if t.Refused {
		kind = runtime.ErrRefused
	}
	return fmt.Errorf("%w: %w", kind, t)
}

// watched are the parts of an image that is being fetched.
type watched struct {
	store content.Store

	mu    sync.Mutex
	parts map[string]ocispec.Descriptor // by the key of their download
}

// wrap notes every part that is asked for.
func (w *watched) wrap(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		w.mu.Lock()
		if w.parts == nil {
			w.parts = map[string]ocispec.Descriptor{}
		}
		w.parts[remotes.MakeRefKey(ctx, d)] = d
		w.mu.Unlock()
		return next.Handle(ctx, d)
	})
}

// tick is how often progress is told.
const tick = 500 * time.Millisecond

// tell tells of the progress until the returned function is called.
func (w *watched) tell(ctx context.Context, progress func(done, total int64)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for t := time.NewTicker(tick); ; {
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
				if done, total, err := w.count(ctx); err == nil && total > 0 {
					progress(done, total)
				}
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func (w *watched) count(ctx context.Context) (done, total int64, err error) {
	active, err := w.store.ListStatuses(ctx, "")
	if err != nil {
		return 0, 0, err
	}
	offset := map[string]int64{}
	for _, s := range active {
		offset[s.Ref] = s.Offset
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, d := range w.parts {
		total += d.Size
		if at, fetching := offset[key]; fetching {
			done += at
		} else if _, err := w.store.Info(ctx, d.Digest); err == nil {
			done += d.Size
		}
	}
	return done, total, nil
}
