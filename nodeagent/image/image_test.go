package image_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/image"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// counting counts fetches, and how many there are at a time.
type counting struct {
	*fake.Runtime
	pulls, now, most atomic.Int32
}

func (c *counting) Pull(ctx context.Context, ref string) (runtime.Image, error) {
	c.pulls.Add(1)
	if n := c.now.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	defer c.now.Add(-1)
	return c.Runtime.Pull(ctx, ref)
}

func newCounting() *counting {
	c := &counting{Runtime: fake.New()}
	c.SetDelays(10*time.Second, 0)
	return c
}

func TestFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newCounting()
		s := image.New(rt, nil)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if img, err := s.Ensure(t.Context(), "nginx:1"); err != nil || img.Reference != "docker.io/library/nginx:1" {
					t.Errorf("%+v, %v", img, err)
				}
			})
		}
		wg.Wait()
		if n := rt.pulls.Load(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
	})
}

func TestFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newCounting()
		s := image.New(rt, nil)
		var wg sync.WaitGroup
		for _, ref := range strings.Fields("a:1 b:1 c:1 d:1 e:1 f:1 g:1 h:1") {
			wg.Go(func() {
				if _, err := s.Ensure(t.Context(), ref); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := rt.most.Load(); n != 3 {
			t.Errorf("%d at a time", n)
		}
	})
}

// Whoever fetches may be told to stop; those who wait for it are not.
func TestOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := image.New(newCounting(), nil)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Ensure(ctx, "nginx:1"); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that was told to stop: %v", err)
			}
		})
		time.Sleep(time.Second)
		wg.Go(func() {
			if _, err := s.Ensure(t.Context(), "nginx:1"); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
	})
}

func TestUnavailableIsSaid(t *testing.T) {
	s := image.New(fake.New(), nil)
	if _, err := s.Ensure(t.Context(), "missing:1"); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestImportTells(t *testing.T) {
	told := 0
	s := image.New(fake.New(), func() { told++ })
	imgs, err := s.Import(t.Context(), strings.NewReader("web:2 forever"))
	if err != nil || len(imgs) != 1 || told != 1 {
		t.Errorf("%v, %v, told %d times", imgs, err, told)
	}
	if img, err := s.Ensure(t.Context(), "web:2"); err != nil || img.Digest == "" {
		t.Errorf("%+v, %v", img, err)
	}
}
