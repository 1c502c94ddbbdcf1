package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// modelApp is what an app should be.
type modelApp struct {
	generation int64
	image      string
	ready      int
	deleting   bool
}

// TestAgainstModel runs random calls and compares every answer, and in the end
// the cache with the store, with a model of a few lines.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Open(context.Background(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() { cancel(); <-done; s.Close() }()
		apps := client.Of(client.InProcess(s.InProcess(system)), api.Apps)
		model := map[string]*modelApp{}
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		image := rapid.SampledFrom([]string{"n:1", "n:2", "n:3"})
		code := func(err error, want api.Code) {
			if api.CodeOf(err) != want {
				t.Fatalf("error is %v, want one of class %d", err, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				a := newApp(name.Draw(t, "name"))
				a.Spec.Image = image.Draw(t, "image")
				_, err := apps.Create(ctx, a)
				if model[a.Meta.Name] != nil {
					code(err, api.Conflict)
					return
				}
				code(err, 0)
				model[a.Meta.Name] = &modelApp{generation: 1, image: a.Spec.Image}
			},
			"replace": func(t *rapid.T) {
				a := newApp(name.Draw(t, "name"))
				a.Spec.Image = image.Draw(t, "image")
				gen := rapid.Int64Range(1, 4).Draw(t, "generation")
				_, err := apps.Replace(ctx, a, gen)
				switch m := model[a.Meta.Name]; {
				case m == nil:
					code(err, api.NotFound)
				case m.generation != gen:
					code(err, api.Precondition)
				case m.deleting:
					code(err, api.Conflict)
				default:
					code(err, 0)
					if m.image != a.Spec.Image {
						m.generation, m.image = gen+1, a.Spec.Image
					}
				}
			},
			"status": func(t *rapid.T) {
				a := newApp(name.Draw(t, "name"))
				a.Status.Ready = rapid.IntRange(0, 5).Draw(t, "ready")
				_, err := apps.PutStatus(ctx, a)
				m := model[a.Meta.Name]
				if m == nil {
					code(err, api.NotFound)
					return
				}
				code(err, 0)
				m.ready = a.Status.Ready
			},
			"delete": func(t *rapid.T) {
				n := name.Draw(t, "name")
				err := apps.Delete(ctx, "default", n, "")
				if model[n] == nil {
					code(err, api.NotFound)
					return
				}
				code(err, 0)
				model[n].deleting = true
			},
			"finalize": func(t *rapid.T) {
				n := name.Draw(t, "name")
				err := apps.Finalize(ctx, "default", n, "")
				switch m := model[n]; {
				case m == nil:
					code(err, api.NotFound)
				case !m.deleting:
					code(err, api.Conflict)
				default:
					code(err, 0)
					delete(model, n)
				}
			},
			"": func(t *rapid.T) { // after each step
				items, _, err := apps.List(ctx, "", nil)
				code(err, 0)
				if len(items) != len(model) {
					t.Fatalf("%d apps, want %d", len(items), len(model))
				}
				for _, a := range items {
					m := model[a.Meta.Name]
					if m == nil || *m != (modelApp{a.Meta.Generation, a.Spec.Image, a.Status.Ready, a.Meta.Deleting()}) {
						t.Fatalf("%s is %+v, want %+v", a.Meta.Name, a, m)
					}
				}
			},
		})
	})
}

// TestCacheIsTheStore: after any sequence of changes, the cache's objects and
// indexes are what a fresh load of the store makes of them.
func TestCacheIsTheStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Open(context.Background(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() { cancel(); <-done; s.Close() }()
		for i := range rapid.IntRange(1, 40).Draw(t, "changes") {
			var txn store.Txn
			for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 1, 4, rapid.ID).Draw(t, "pods") {
				key := s.kinds["pods"].key("default", fmt.Sprint("p", n))
				switch rapid.IntRange(0, 4).Draw(t, "what") {
				case 0:
					txn.Then = append(txn.Then, store.Delete(key))
				case 1:
					txn.Then = append(txn.Then, store.Put(key, []byte(`not JSON`)))
				default:
					node := rapid.SampledFrom([]string{"", "w1", "w2"}).Draw(t, "node")
					phase := rapid.SampledFrom([]api.Phase{api.PhasePending, api.PhaseRunning, api.PhaseFailed}).Draw(t, "phase")
					txn.Then = append(txn.Then, store.Put(key, fmt.Appendf(nil, `{"kind":"Pod","meta":{"name":"p%d","namespace":"default"},"spec":{"image":"n:1","cpu":"%dm","node":%q},"status":{"phase":%q}}`, n, i, node, phase)))
				}
			}
			if _, err := s.store.Commit(ctx, txn); err != nil {
				t.Fatal(err)
			}
		}
		have, err := s.cache.latest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		fresh := &cache{store: s.store, decode: s.decode, log: s.log, advanced: make(chan struct{})}
		if _, err := fresh.load(ctx); err != nil {
			t.Fatal(err)
		}
		if a, b := dump(have), dump(fresh.now.Load()); !slices.Equal(a, b) {
			t.Fatalf("the cache has\n%s\nthe store\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
	})
}

// dump renders a snapshot, indexes included.
func dump(s *snapshot) (out []string) {
	s.objects.Ascend(func(o *object) bool {
		out = append(out, o.key+" "+strconv.FormatInt(o.meta.Revision, 10)+" "+string(o.body))
		return true
	})
	s.indexed.Ascend(func(i indexed) bool {
		out = append(out, fmt.Sprintf("%q %s %d", i.index, i.o.key, i.o.meta.Revision))
		return true
	})
	s.loads.Ascend(func(n nodeLoad) bool {
		out = append(out, fmt.Sprintf("%s takes %+v", n.node, n.load))
		return true
	})
	return append(out, strconv.FormatInt(s.revision, 10))
}

// TestStaleReads answers from what the server has, and only when asked to.
func TestStaleReads(t *testing.T) {
	s, err := Open(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	call(s, system, http.MethodPut, "/v1/nodes/w1", `{}`)
	call(s, system, http.MethodGet, "/v1/nodes/w1", "")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.store.Commit(t.Context(), s.claim()); err != nil { // the cache follows no more
		t.Fatal(err)
	}
	if code, _ := call(s, system, http.MethodGet, "/v1/nodes/w1?stale=true", ""); code != 200 {
		t.Errorf("stale read: %d", code)
	}
	late, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.cache.latest(late); err == nil {
		t.Error("a consistent read did not wait")
	}
}
