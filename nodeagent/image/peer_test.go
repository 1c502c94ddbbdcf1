package image_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/image"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// TestFromAnotherNode: an image that was loaded into another node by hand comes
// from there, and no registry is asked, unless the pod wants it asked. What is
// handed over and is not that image is not taken.
func TestFromAnotherNode(t *testing.T) {
	other := image.New(image.Config{Runtime: fake.New()})
	imgs, err := other.Import(t.Context(), strings.NewReader("missing:2 forever"))
	if err != nil || len(imgs) != 1 {
		t.Fatal(imgs, err)
	}
	web := imgs[0]
	var archive strings.Builder
	if err := other.Export(t.Context(), web.Reference, web.Digest, func() io.Writer { return &archive }); err != nil {
		t.Fatal(err)
	}
	if err := other.Export(t.Context(), web.Reference, "sha256:0", nil); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("another digest is exported: %v", err)
	}

	rt, sent, answer := newCounting(), archive.String(), error(nil)
	s := image.New(image.Config{Runtime: rt, ByHand: func(_ context.Context, reference string) (*image.Archive, error) {
		if reference != web.Reference || answer != nil {
			return nil, answer
		}
		return &image.Archive{Reference: web.Reference, Digest: web.Digest, Size: int64(len(sent)), Body: io.NopCloser(strings.NewReader(sent))}, nil
	}})
	rt.SetDelays(0, 0)
	var done, total int64
	f := runtime.Fetch{Reference: web.Reference, Progress: func(d, all int64) { done, total = d, all }}

	sent = strings.Replace(archive.String(), "forever", "exit=0", 1)
	if img, err := s.Ensure(t.Context(), f, ""); !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "loaded by hand") {
		t.Errorf("another image passes for it: %+v, %v", img, err)
	}
	sent, answer = archive.String(), errors.New("none of w1, w2 can hand it over now")
	if _, err := s.Ensure(t.Context(), f, ""); !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "none of w1, w2") {
		t.Errorf("nobody hands it over: %v", err)
	}
	answer = nil
	if _, err := s.Ensure(t.Context(), f, image.Always); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("the registry is to be asked: %v", err)
	}
	asked := rt.pulls.Load()
	if img, err := s.Ensure(t.Context(), f, ""); err != nil || img != web || done != int64(len(sent)) || total != done {
		t.Errorf("got %+v after %d of %d, want %+v: %v", img, done, total, web, err)
	}
	if n := rt.pulls.Load(); n != asked {
		t.Errorf("the registry was asked %d more times", n-asked)
	}
	if img, err := s.Ensure(t.Context(), runtime.Fetch{Reference: "nginx:1"}, ""); err != nil || rt.pulls.Load() != asked+1 {
		t.Errorf("one that nobody loaded does not come from its registry: %+v, %v", img, err)
	}
}
