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

func (c *counting) Pull(ctx context.Context, f runtime.Fetch) (runtime.Image, error) {
	c.pulls.Add(1)
	if n := c.now.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	defer c.now.Add(-1)
	return c.Runtime.Pull(ctx, f)
}

func newCounting() *counting {
	c := &counting{Runtime: fake.New()}
	c.SetDelays(10*time.Second, 0)
	return c
}

func TestFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newCounting()
		s := image.New(image.Config{Runtime: rt})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if img, err := s.Ensure(t.Context(), runtime.Fetch{Reference: "nginx:1"}, ""); err != nil || img.Reference != "docker.io/library/nginx:1" {
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
		s := image.New(image.Config{Runtime: rt})
		var wg sync.WaitGroup
		for _, ref := range strings.Fields("a:1 b:1 c:1 d:1 e:1 f:1 g:1 h:1") {
			wg.Go(func() {
				if _, err := s.Ensure(t.Context(), runtime.Fetch{Reference: ref}, ""); err != nil {
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
		s := image.New(image.Config{Runtime: newCounting()})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Ensure(ctx, runtime.Fetch{Reference: "nginx:1"}, ""); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that was told to stop: %v", err)
			}
		})
		time.Sleep(time.Second)
		wg.Go(func() {
			if _, err := s.Ensure(t.Context(), runtime.Fetch{Reference: "nginx:1"}, ""); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
	})
}

func TestUnavailableIsSaid(t *testing.T) {
	s := image.New(image.Config{Runtime: fake.New()})
	if _, err := s.Ensure(t.Context(), runtime.Fetch{Reference: "missing:1"}, ""); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestImportTells(t *testing.T) {
	told := 0
	s := image.New(image.Config{Runtime: fake.New(), Loaded: func() { told++ }})
	imgs, err := s.Import(t.Context(), strings.NewReader("web:2 forever"))
	if err != nil || len(imgs) != 1 || told != 1 {
		t.Errorf("%v, %v, told %d times", imgs, err, told)
	}
	if img, err := s.Ensure(t.Context(), runtime.Fetch{Reference: "web:2"}, ""); err != nil || img.Digest == "" {
		t.Errorf("%+v, %v", img, err)
	}
}

// TestPrivateStaysPrivate: that an image is on the node gives it to nobody who
// may not have it, and who has shown good credentials needs no registry again.
func TestPrivateStaysPrivate(t *testing.T) {
	good := runtime.Fetch{Reference: "private:1", Credentials: runtime.Credentials{Username: "shop", Password: "sesame"}}
	other := runtime.Fetch{Reference: "private:1", Credentials: runtime.Credentials{Username: "bazaar", Password: "sesame"}}
	nobody := runtime.Fetch{Reference: "private:1"}
	wrong := runtime.Fetch{Reference: "private:1", Credentials: runtime.Credentials{Username: "shop", Password: "guess"}}
	rt, path := fake.New(), t.TempDir()+"/images.json"
	s := image.New(image.Config{Runtime: rt, Path: path})
	ensure := func(f runtime.Fetch, want error) {
		t.Helper()
		if _, err := s.Ensure(t.Context(), f, ""); !errors.Is(err, want) {
			t.Errorf("%s gets %v, want %v", f.Credentials.Username, err, want)
		}
	}
	ensure(nobody, runtime.ErrRefused)
	ensure(good, nil)
	ensure(nobody, runtime.ErrRefused)
	ensure(wrong, runtime.ErrRefused)
	if _, err := s.Have(t.Context(), other, ""); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("unproved credentials: %v", err)
	}
	ensure(other, nil)
	rt.SetRegistry(func(string) (fake.Image, bool) { return fake.Image{}, false }) // cut off
	ensure(good, nil)
	ensure(nobody, runtime.ErrUnavailable)
	s = image.New(image.Config{Runtime: rt, Path: path}) // after a restart
	ensure(good, nil)
	ensure(other, nil)
	ensure(nobody, runtime.ErrUnavailable)
}

func TestPolicies(t *testing.T) {
	rt := newCounting()
	rt.SetDelays(0, 0)
	s := image.New(image.Config{Runtime: rt})
	f := runtime.Fetch{Reference: "nginx:1"}
	if _, err := s.Ensure(t.Context(), f, image.Never); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("never: %v", err)
	}
	old, err := s.Ensure(t.Context(), f, image.IfAbsent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), f, image.Never); err != nil {
		t.Errorf("never, and it is here: %v", err)
	}
	rt.SetRegistry(func(string) (fake.Image, bool) { return fake.Image{Script: []string{"print=new", "forever"}}, true }) // the tag moves
	if img, err := s.Ensure(t.Context(), f, image.IfAbsent); err != nil || img.Digest != old.Digest {
		t.Errorf("if_absent: %+v, %v", img, err)
	}
	if img, err := s.Ensure(t.Context(), f, image.Always); err != nil || img.Digest == old.Digest {
		t.Errorf("always: %+v, %v", img, err)
	}
	if n := rt.pulls.Load(); n != 2 {
		t.Errorf("fetched %d times", n)
	}
	if _, err := s.Ensure(t.Context(), f, image.Always); err != nil || rt.pulls.Load() != 2 {
		t.Errorf("always, unchanged: %v after %d fetches", err, rt.pulls.Load())
	}
}

// TestCollect: a full disk loses what nobody needs, longest unused first, and
// nothing else.
func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New()
		used, needed := int64(50<<20), []string{"needed:1"}
		s := image.New(image.Config{Runtime: rt, InUse: func() []string { return needed },
			Disk: func() (int64, int64, error) { return used, 100 << 20, nil }})
		for _, ref := range []string{"needed:1", "old:1", "older:1", "recent:1"} {
			if _, err := s.Ensure(t.Context(), runtime.Fetch{Reference: ref}, ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Import(t.Context(), strings.NewReader("loaded:1 forever")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for _, ref := range []string{"old:1", "recent:1"} {
			if _, err := s.Ensure(t.Context(), runtime.Fetch{Reference: ref}, ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		}
		left := func() string {
			t.Helper()
			if err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			all, err := s.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, i := range all {
				name, _, _ := strings.Cut(strings.TrimPrefix(i.Reference, "docker.io/library/"), ":")
				names = append(names, name)
			}
			return strings.Join(names, " ")
		}
		if got := left(); got != "loaded needed old older recent" {
			t.Errorf("with room: %s", got)
		}
		used = 86 << 20 // each image is 1 MiB; 11 are too much
		if got := left(); got != "loaded needed" {
			t.Errorf("nearly full: %s", got)
		}
		if err := s.Remove(t.Context(), "needed:1"); !errors.Is(err, image.ErrInUse) {
			t.Errorf("remove what is needed: %v", err)
		}
		if err := s.Remove(t.Context(), "loaded:1"); err != nil {
			t.Errorf("remove: %v", err)
		}
		needed = nil
		if err := s.Remove(t.Context(), "needed:1"); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
}

// An image whose name was given to another one by hand stays for the pods that
// were made with it, without a registry; once none needs it, a full disk loses
// it, and not the one that has the name.
func TestAnImageThatLostItsNameStaysWhileItIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newCounting()
		used, needed := int64(50<<20), []string(nil)
		s := image.New(image.Config{Runtime: rt, InUse: func() []string { return needed },
			Disk: func() (int64, int64, error) { return used, 100 << 20, nil }})
		load := func(archive string) runtime.Image {
			t.Helper()
			imgs, err := s.Import(t.Context(), strings.NewReader(archive))
			if err != nil {
				t.Fatal(err)
			}
			return imgs[0]
		}
		old := load("web:2 print=old;forever")
		pinned := runtime.Fetch{Reference: "web:2@" + old.Digest}
		needed = []string{pinned.Reference}
		load("web:2 print=new;forever")
		collect := func() error {
			t.Helper()
			used = 90 << 20
			time.Sleep(time.Hour)
			if err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := s.Have(t.Context(), pinned, image.IfAbsent)
			return err
		}
		if img, err := s.Ensure(t.Context(), pinned, image.Never); err != nil || img.Digest != old.Digest {
			t.Errorf("%+v, %v", img, err)
		}
		if err := collect(); err != nil {
			t.Errorf("it is needed: %v", err)
		}
		needed = nil
		if err := collect(); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("nobody needs it: %v", err)
		}
		if img, err := s.Ensure(t.Context(), runtime.Fetch{Reference: "web:2"}, image.Never); err != nil || img.Digest == old.Digest || rt.pulls.Load() != 0 {
			t.Errorf("%+v after %d fetches, %v", img, rt.pulls.Load(), err)
		}
	})
}
