package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

var nullLog = hclog.NewNullLogger()

// bubble runs f on the API over memory, in virtual time.
func bubble(t *testing.T, f func(ctx context.Context, h http.Handler)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := apiserver.Open(ctx, apiserver.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		f(ctx, s.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "test"}))
		cancel()
		<-ended
		s.Close()
	})
}

func newPod(name string) *api.Pod {
	p := &api.Pod{Meta: api.Meta{Name: name, Namespace: "default"}}
	p.Spec.App, p.Spec.Image = "web", "nginx:1"
	return p
}

func names(pods []*api.Pod) (out []string) {
	for _, p := range pods {
		out = append(out, p.Meta.Name)
	}
	return out
}

func TestCacheFollows(t *testing.T) {
	bubble(t, func(ctx context.Context, h http.Handler) {
		c := client.InProcess(h)
		pods := client.Of(c, api.Pods)
		create := func(name string) *api.Pod {
			p, err := pods.Create(ctx, newPod(name))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		create("a")
		cache := NewCache(c, api.Pods, nullLog)
		var told []string
		cache.OnChange(func(was, is *api.Pod) {
			switch {
			case was == nil:
				told = append(told, "+"+is.Meta.Name)
			case is == nil:
				told = append(told, "-"+was.Meta.Name)
			default:
				told = append(told, "~"+is.Meta.Name)
			}
		})
		run, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { cache.Run(run); close(done) }()
		if err := cache.Synced(ctx); err != nil {
			t.Fatal(err)
		}
		b := create("b")
		if err := cache.Await(ctx, b.Meta.Revision); err != nil {
			t.Fatal(err)
		}
		if got := names(cache.By("app", "default", "web")); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("by app: %v", got)
		}
		if got := cache.By("app", "other", "web"); len(got) != 0 {
			t.Errorf("of another namespace: %v", names(got))
		}
		b.Status.Phase = api.PhaseRunning
		pods.PutStatus(ctx, b)
		pods.Finalize(ctx, "default", "a", "")
		synctest.Wait()
		if cache.Get("default", "a") != nil || cache.Get("default", "b").Status.Phase != api.PhaseRunning || len(cache.List()) != 1 {
			t.Errorf("has %v", names(cache.List()))
		}
		if want := []string{"+a", "+b", "~b", "-a"}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		// Who comes late is told what there is.
		late := 0
		cache.OnChange(func(was, is *api.Pod) { late++ })()
		create("c")
		synctest.Wait()
		if late != 1 {
			t.Errorf("a handler that stopped was told %d times", late)
		}
		stop()
		<-done
	})
}

// TestIndexOfManyValues: an index that was added before there are objects, and
// one that was added after, show what a search through all objects finds.
func TestIndexOfManyValues(t *testing.T) {
	letters := func(p *api.Pod) (out []string) {
		for _, r := range p.Meta.Labels["letters"] {
			out = append(out, string(r))
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		cache := NewCache(client.InProcess(http.NotFoundHandler()), api.Pods, nullLog)
		cache.Index("early", letters)
		for i := range rapid.IntRange(1, 30).Draw(t, "changes") {
			p := newPod(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"))
			if rapid.Bool().Draw(t, "remove") {
				cache.remove(id{p.Meta.Namespace, p.Meta.Name})
				continue
			}
			p.Meta.Revision = int64(i + 1)
			p.Meta.Labels = map[string]string{"letters": rapid.SampledFrom([]string{"", "x", "y", "xy", "yy"}).Draw(t, "letters")}
			cache.apply(p)
		}
		cache.Index("late", letters)
		for _, letter := range []string{"x", "y"} {
			var want []*api.Pod
			for _, p := range cache.List() {
				if slices.Contains(letters(p), letter) {
					want = append(want, p)
				}
			}
			for _, index := range []string{"early", "late"} {
				if got := cache.By(index, "", letter); !slices.Equal(got, want) {
					t.Fatalf("%s index of %s: %v, want %v", index, letter, names(got), names(want))
				}
				if got := slices.Collect(cache.Where(index, letter)); len(got) != len(want) {
					t.Fatalf("%s index yields %v for %s, want %v", index, names(got), letter, names(want))
				}
			}
		}
	})
}

// TestCacheListsAgain: what a broken watch did not show is found by listing,
// deletions too, and nothing that is known is told twice.
func TestCacheListsAgain(t *testing.T) {
	bubble(t, func(ctx context.Context, h http.Handler) {
		var broken atomic.Bool
		cut := func() {}
		var mu sync.Mutex
		c := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") != "" {
				if broken.Load() {
					http.Error(w, "gone", http.StatusGone)
					return
				}
				ctx, cancel := context.WithCancel(r.Context())
				mu.Lock()
				cut = cancel
				mu.Unlock()
				r = r.WithContext(ctx)
			}
			if broken.Load() && r.Method == http.MethodGet {
				http.Error(w, "down", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		}))
		pods := client.Of(c, api.Pods)
		for _, name := range []string{"a", "b"} {
			pods.Create(ctx, newPod(name))
		}
		cache := NewCache(c, api.Pods, nullLog)
		told := map[string]int{}
		cache.OnChange(func(was, is *api.Pod) {
			if is == nil {
				told["-"+was.Meta.Name]++
			} else {
				told[is.Meta.Name]++
			}
		})
		run, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { cache.Run(run); close(done) }()
		cache.Synced(ctx)
		synctest.Wait()
		broken.Store(true)
		mu.Lock()
		cut()
		mu.Unlock()
		pods.Finalize(ctx, "default", "a", "")
		pods.Create(ctx, newPod("c"))
		time.Sleep(time.Minute)
		if cache.Get("default", "c") != nil {
			t.Fatal("it knows what it cannot know")
		}
		broken.Store(false)
		time.Sleep(3 * time.Second)
		if got := names(cache.List()); !slices.Equal(got, []string{"b", "c"}) {
			t.Errorf("has %v", got)
		}
		if fmt.Sprint(told) != "map[-a:1 a:1 b:1 c:1]" {
			t.Errorf("told %v", told)
		}
		stop()
		<-done
	})
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	cache := NewCache(client.InProcess(http.NotFoundHandler()), api.Pods, nullLog)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cache.Await(ctx, 5); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func ref(name string) api.Ref { return api.Apps.Ref("default", name) }

// runLoop runs a loop over a source that is fed by hand.
func runLoop(t *testing.T, workers int, f Func, drive func(enqueue func(api.Ref))) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var enqueue func(api.Ref)
		src := Source{
			synced:    func(context.Context) error { return nil },
			subscribe: func(e func(api.Ref)) func() { enqueue = e; return func() {} },
		}
		done := make(chan struct{})
		go func() {
			Loop{Name: "test", Watch: []Source{src}, Reconcile: f, Workers: workers}.Run(ctx, nullLog)
			close(done)
		}()
		synctest.Wait()
		drive(enqueue)
		cancel()
		<-done
	})
}

func TestLoopNeverRunsOneObjectTwiceAtOnce(t *testing.T) {
	var mu sync.Mutex
	running, runs, most := map[api.Ref]int{}, map[api.Ref]int{}, 0
	runLoop(t, 3, func(ctx context.Context, r api.Ref) (time.Duration, error) {
		mu.Lock()
		running[r]++
		runs[r]++
		if running[r] > 1 {
			t.Errorf("%s runs twice at once", r)
		}
		total := 0
		for _, n := range running {
			total += n
		}
		most = max(most, total)
		mu.Unlock()
		time.Sleep(time.Second)
		mu.Lock()
		running[r]--
		mu.Unlock()
		return 0, nil
	}, func(enqueue func(api.Ref)) {
		for range 10 {
			for _, name := range []string{"a", "b", "c", "d"} {
				enqueue(ref(name))
				enqueue(ref(name))
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
	})
	for _, name := range []string{"a", "b", "c", "d"} {
		// At least once after the last time it was enqueued, and merged before.
		if n := runs[ref(name)]; n < 1 || n > 4 {
			t.Errorf("%s ran %d times", name, n)
		}
	}
	if most != 3 {
		t.Errorf("%d at once, want 3", most)
	}
}

func TestLoopRetriesEverMoreSlowly(t *testing.T) {
	var at []time.Duration
	var start time.Time
	runLoop(t, 1, func(ctx context.Context, r api.Ref) (time.Duration, error) {
		at = append(at, time.Since(start))
		if len(at) == 4 {
			panic("a bug")
		}
		if len(at) < 6 {
			return 0, errors.New("not yet")
		}
		return 10 * time.Second, nil
	}, func(enqueue func(api.Ref)) {
		start = time.Now()
		enqueue(ref("a"))
		time.Sleep(30 * time.Second)
	})
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	if want := []time.Duration{0, ms(50), ms(150), ms(350), ms(750), ms(1550), ms(11550), ms(21550)}; !slices.Equal(at, want) {
		t.Errorf("ran at %v, want %v", at, want)
	}
}

func TestQueueTakesTheEarliest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		now := time.Now()
		q.add(ref("late"), now.Add(time.Hour))
		q.add(ref("soon"), now.Add(2*time.Second))
		q.add(ref("late"), now.Add(time.Second)) // sooner wins
		q.add(ref("soon"), now.Add(time.Minute)) // later does not
		for _, want := range []string{"late", "soon"} {
			got, err := q.next(t.Context())
			if err != nil || got != ref(want) {
				t.Errorf("got %v, want %s", got, want)
			}
			q.done(got, 0)
		}
		if len(q.items) != 0 {
			t.Errorf("%d refs are kept for ever", len(q.items))
		}
		if d := time.Since(now); d != 2*time.Second {
			t.Errorf("took %s", d)
		}
	})
}
