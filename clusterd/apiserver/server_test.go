package apiserver

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

var system = Identity{RoleSystem, "test"}

// bubble runs f on a server in memory, in virtual time.
func bubble(t *testing.T, f func(t *testing.T, s *Server, c *client.Client)) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := run(t, Config{})
		defer s.Close()
		defer stop()
		f(t, s, client.InProcess(s.InProcess(system)))
	})
}

// run runs a server in a bubble, until stop is called.
func run(t *testing.T, cfg Config) (s *Server, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	if !api.Is(err, code) {
		t.Fatalf("error is %v, want one of class %d", err, code)
	}
}

func newApp(name string) *api.App {
	return &api.App{Meta: api.Meta{Name: name, Namespace: "default"}, Spec: api.AppSpec{Container: api.Container{Image: "nginx:1"}}}
}

func TestLifeOfAnApp(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		a := must(apps.Create(ctx, newApp("web")))(t)
		if a.Meta.Generation != 1 || a.Meta.UID == "" || api.Deref(a.Effective.Replicas) != 1 || a.Spec.Replicas != nil {
			t.Fatalf("created %+v", a)
		}
		_, err := apps.Create(ctx, newApp("web"))
		wantCode(t, err, api.Conflict)
		a.Spec.Image = "nginx:2"
		b := must(apps.Replace(ctx, a, 1))(t)
		if b.Meta.Generation != 2 {
			t.Fatalf("generation is %d", b.Meta.Generation)
		}
		_, err = apps.Replace(ctx, a, 1)
		wantCode(t, err, api.Precondition)
		b.Status.Ready = 3
		must(apps.PutStatus(ctx, b))(t)
		got := must(apps.Get(ctx, "default", "web"))(t)
		if got.Status.Ready != 3 || got.Meta.Generation != 2 || got.Spec.Image != "nginx:2" {
			t.Fatalf("read %+v", got)
		}
		items, rev, err := apps.List(ctx, "default", nil)
		if err != nil || len(items) != 1 || rev < got.Meta.Revision {
			t.Fatalf("listed %v at %d: %v", items, rev, err)
		}
		if err := apps.Delete(ctx, "default", "web", ""); err != nil {
			t.Fatal(err)
		}
		if got = must(apps.Get(ctx, "default", "web"))(t); !got.Meta.Deleting() {
			t.Fatal("not marked")
		}
		if err := apps.Finalize(ctx, "default", "web", got.Meta.UID); err != nil {
			t.Fatal(err)
		}
		_, err = apps.Get(ctx, "default", "web")
		wantCode(t, err, api.NotFound)
		var seen []api.EventType
		for ev, err := range apps.Watch(ctx, "", nil, a.Meta.Revision-1) {
			if err != nil {
				t.Fatal(err)
			}
			if seen = append(seen, ev.Type); ev.Type == api.EventDelete {
				break
			}
		}
		if len(seen) != 5 {
			t.Fatalf("watch saw %v", seen)
		}
	})
}

// lost is a store whose member was cut off while it led: what it is asked for
// is never answered.
type lost struct{ store.Store }

func (lost) Commit(ctx context.Context, _ store.Txn) (int64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (lost) Revision(ctx context.Context) (int64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestSilentStore: what waits for a store that says nothing ends, and says why.
func TestSilentStore(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		synctest.Wait()
		s.store = lost{s.store}
		s.cache.store = s.store
		_, write := apps.Create(ctx, newApp("web"))
		_, read := apps.Get(ctx, "default", "web")
		for what, err := range map[string]error{"write": write, "read": read} {
			if wantCode(t, err, api.Unready); !strings.Contains(err.Error(), "majority") {
				t.Errorf("a %s says: %v", what, err)
			}
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := apps.Create(short, newApp("web")); err == nil || strings.Contains(err.Error(), "majority") {
			t.Errorf("a caller who waited no longer is told: %v", err)
		}
	})
}
