package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestWatchSeesEveryWrite: no gap, whatever else is written meanwhile and
// whenever a watch begins.
func TestWatchSeesEveryWrite(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		const writers, each = 6, 30
		_, from, err := apps.List(ctx, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var writing, watching sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for i := range each {
					a := newApp(fmt.Sprint("w", w))
					a.Spec.Image = fmt.Sprint("n:", i)
					if _, err := apps.Put(ctx, a); err != nil {
						t.Error(err)
					}
				}
			})
		}
		watch := func(from int64) {
			last := map[string]int64{}
			before := from
			for ev, err := range apps.Watch(ctx, "default", nil, from) {
				if err != nil {
					t.Error(err)
					return
				}
				if ev.Revision < before {
					t.Errorf("revision %d after %d", ev.Revision, before)
				}
				before = ev.Revision
				if ev.Type != api.EventPut {
					continue
				}
				name, gen := ev.Object.Meta.Name, ev.Object.Meta.Generation
				if was, ok := last[name]; ok && gen != was+1 || from == 1 && !ok && gen != 1 {
					t.Errorf("%s: generation %d after %d", name, gen, was)
				}
				last[name] = gen
				if name == "end" {
					return
				}
			}
		}
		for range 3 {
			watching.Go(func() { watch(from) })
		}
		for range 5 { // and who comes later, with a list first
			watching.Go(func() {
				_, rev, err := apps.List(ctx, "", nil)
				if err != nil {
					t.Error(err)
				}
				watch(rev)
			})
		}
		writing.Wait()
		must(apps.Create(ctx, newApp("end")))(t)
		watching.Wait()
	})
}

// TestWatchFilters: what leaves a selection is deleted for its watcher, what
// enters it is put.
func TestWatchFilters(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, pods := t.Context(), client.Of(c, api.Pods)
		makeNode(t, c, "w1", "2", "1Gi")
		_, from, _ := pods.List(ctx, "", nil)
		seen := make(chan string, 100)
		go func() {
			for ev, err := range pods.Watch(ctx, "", client.By("node", "w1"), from) {
				if err != nil {
					return
				}
				if ev.Type != api.EventBookmark {
					seen <- fmt.Sprint(ev.Type, " ", ev.Object.Meta.Name)
				}
			}
		}()
		team := make(chan string, 100)
		go func() {
			for ev, err := range pods.Watch(ctx, "", client.Filter{"label": {"team=a"}}, from) {
				if err != nil {
					return
				}
				if ev.Type != api.EventBookmark {
					team <- fmt.Sprint(ev.Type, " ", ev.Object.Meta.Name)
				}
			}
		}()
		makePod(t, c, "elsewhere", "10m", "16Mi")
		makePod(t, c, "here", "10m", "16Mi")
		bindPod(t, c, "here", "w1")
		p := must(pods.Get(ctx, "default", "here"))(t)
		p.Meta.Labels = map[string]string{"team": "a"}
		p = must(pods.Put(ctx, p))(t)
		p.Meta.Labels = nil
		must(pods.Put(ctx, p))(t)
		if err := pods.Finalize(ctx, "default", "here", p.Meta.UID); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"put here", "put here", "put here", "delete here"} {
			if got := <-seen; got != want {
				t.Errorf("by node: %s, want %s", got, want)
			}
		}
		for _, want := range []string{"put here", "delete here"} {
			if got := <-team; got != want {
				t.Errorf("by label: %s, want %s", got, want)
			}
		}
		synctest.Wait()
		if len(seen)+len(team) > 0 {
			t.Errorf("more events: %d by node, %d by label", len(seen), len(team))
		}
	})
}

// TestWatchWithoutFrom puts what there is, then a bookmark; and a bookmark
// comes every few seconds of silence.
func TestWatchWithoutFrom(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		must(apps.Create(ctx, newApp("a")))(t)
		b := must(apps.Create(ctx, newApp("b")))(t)
		start := time.Now()
		var got []string
		for ev, err := range apps.Watch(ctx, "", nil, 0) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(ev.Type, " ", ev.Revision >= b.Meta.Revision))
			if len(got) == 5 {
				break
			}
		}
		if want := "[put false put true bookmark true bookmark true bookmark true]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
		if d := time.Since(start); d != 2*roundEvery {
			t.Errorf("two bookmarks took %s", d)
		}
	})
}

// TestSlowWatcherIsCut: it is told to list again, and slows nobody else.
func TestSlowWatcherIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		must(apps.Create(ctx, newApp("web")))(t)
		resp := must(c.Do(ctx, client.Request{Method: "GET", Path: "/v1/apps", Query: map[string][]string{"watch": {"true"}}}))(t)
		defer resp.Body.Close()
		s.cache.hub.most = 20
		for i := range 20 + 10 { // nobody reads
			a := newApp("web")
			a.Status.Ready = i + 1
			must(apps.PutStatus(ctx, a))(t)
		}
		last := ""
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			last = lines.Text()
		}
		var ev api.WatchEvent[*api.App]
		if err := json.Unmarshal([]byte(last), &ev); err != nil || ev.Type != api.EventError || ev.Error.Code != api.Gone {
			t.Errorf("it ended with %s: %v", last, err)
		}
	})
}

func TestWatchFromTooLongAgo(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.cache.hub.keep = 10
		for i := range 30 {
			a := newApp("web")
			a.Spec.Image = fmt.Sprint("n:", i)
			if _, err := client.Of(c, api.Apps).Put(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		code, got := call(s, system, "GET", "/v1/apps?watch=true&from=3", "")
		if code != 410 || !strings.Contains(got, "list again") {
			t.Errorf("%d %s", code, got)
		}
	})
}

// TestWatchFromTheFuture: a revision the store has not reached is of a store
// that is no more; waiting for it could take forever.
func TestWatchFromTheFuture(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		if code, got := call(s, system, "GET", "/v1/apps?watch=true&from=1000", ""); code != 410 {
			t.Errorf("%d %s", code, got)
		}
	})
}

// TestListPages: a list in pages is as everything was at its first page.
func TestListPages(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		for i := range 25 {
			a := newApp(fmt.Sprintf("web-%02d", i))
			a.Meta.Labels = map[string]string{"even": fmt.Sprint(i%2 == 0)}
			must(apps.Create(ctx, a))(t)
		}
		var names []string
		var revision int64
		next := ""
		for {
			code, got := call(s, system, "GET", "/v1/apps?limit=4&label=even=true&continue="+next, "")
			var l api.List[*api.App]
			if err := json.Unmarshal([]byte(got), &l); err != nil || code != 200 || len(l.Items) > 4 {
				t.Fatalf("%d %s: %v", code, got, err)
			}
			if revision == 0 {
				revision = l.Revision
			}
			if l.Revision != revision {
				t.Errorf("a page at revision %d, the first at %d", l.Revision, revision)
			}
			for _, a := range l.Items {
				if a.Spec.Image != "nginx:1" {
					t.Errorf("%s has an image of later", a.Meta.Name)
				}
				names = append(names, a.Meta.Name)
			}
			for _, a := range l.Items { // change what was and what is to come
				b := newApp(a.Meta.Name)
				b.Spec.Image = "nginx:2"
				must(apps.Put(ctx, b))(t)
			}
			if err := apps.Finalize(ctx, "default", "web-24", ""); len(names) == 4 {
				wantCode(t, err, api.Conflict) // it was not marked
				if err := apps.Delete(ctx, "default", "web-24", ""); err != nil {
					t.Fatal(err)
				}
				if err := apps.Finalize(ctx, "default", "web-24", ""); err != nil {
					t.Fatal(err)
				}
			}
			if next = l.Continue; next == "" {
				break
			}
		}
		if len(names) != 13 || names[0] != "web-00" || names[12] != "web-24" {
			t.Errorf("listed %v", names)
		}
		code, _ := call(s, system, "GET", "/v1/pods?continue="+next+"Zm9v", "")
		if code != 400 {
			t.Errorf("a foreign token: %d", code)
		}
	})
}

// TestReloadCutsWatchers: when the store's history is gone, watchers list
// again instead of missing what was in it.
func TestReloadCutsWatchers(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, apps := t.Context(), client.Of(c, api.Apps)
		must(apps.Create(ctx, newApp("web")))(t)
		ended := make(chan error, 1)
		go func() {
			for _, err := range apps.Watch(ctx, "", nil, 0) {
				if err != nil {
					ended <- err
				}
			}
		}()
		synctest.Wait()
		if _, err := s.cache.load(ctx); err != nil {
			t.Fatal(err)
		}
		wantCode(t, <-ended, api.Gone)
	})
}

// TestWatchEndsWithServer: a stopping server lets go of its watchers.
func TestWatchEndsWithServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		r := httptest.NewRequest(http.MethodGet, "/v1/apps?watch=true", nil)
		served := make(chan struct{})
		go func() {
			defer close(served)
			s.InProcess(system).ServeHTTP(httptest.NewRecorder(), r)
		}()
		synctest.Wait()
		cancel()
		<-done
		<-served
	})
}

// patient is a writer that knows until when it may write.
type patient struct {
	http.ResponseWriter
	mu    sync.Mutex
	until time.Time
	bound bool // there was a bound
}

func (p *patient) Flush() {}
func (p *patient) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until, p.bound = t, p.bound || !t.IsZero()
	return nil
}

// TestQuietWatchHasNoDeadline: a bound is of a write, not of the quiet after it.
func TestQuietWatchHasNoDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &patient{ResponseWriter: httptest.NewRecorder()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/pods?watch=true", nil)
			s.InProcess(Identity{Role: RoleSystem, Name: "test"}).ServeHTTP(w, r)
		}()
		for range 3 {
			time.Sleep(quietRounds * roundEvery)
			synctest.Wait()
			w.mu.Lock()
			if !w.bound || !w.until.IsZero() {
				t.Errorf("in the quiet after a write (%v) the stream ends at %s", w.bound, w.until)
			}
			w.mu.Unlock()
		}
		cancel()
		<-done
	})
}
