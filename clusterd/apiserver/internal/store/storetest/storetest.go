// Package storetest checks that an implementation of store.Store keeps the
// contract. Every implementation runs the same suite: what the API server
// builds on must hold in memory as on disk.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
)

// Run runs the suite. open returns a store that nobody else uses and that the
// test's cleanup closes.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		run  func(h *harness)
	}{
		{"put and get", putAndGet},
		{"compare", compare},
		{"one revision for one transaction", oneRevision},
		{"a conflict changes nothing", conflictChangesNothing},
		{"delete", deletes},
		{"list", lists},
		{"list at a revision", listsAtRevision},
		{"watch in order", watchInOrder},
		{"watch from the past", watchFromThePast},
		{"watch groups revisions", watchGroups},
		{"watch ends with its context", watchEnds},
		{"compaction", compaction},
		{"large transaction", largeTransaction},
		{"racing increments", racingIncrements},
		{"watchers see all of concurrent writes", concurrentWatch},
		{"leading", leading},
		{"closed", closed},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c.run(&harness{T: t, s: open(t), ctx: ctx})
		})
	}
}

type harness struct {
	*testing.T
	s   store.Store
	ctx context.Context
}

func (h *harness) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *harness) put(key, value string) int64 {
	h.Helper()
	rev, err := h.s.Commit(h.ctx, store.Txn{Then: []store.Op{store.Put(key, []byte(value))}})
	h.ok(err)
	return rev
}

func (h *harness) del(key string) int64 {
	h.Helper()
	rev, err := h.s.Commit(h.ctx, store.Txn{Then: []store.Op{store.Delete(key)}})
	h.ok(err)
	return rev
}

func (h *harness) revision() int64 {
	h.Helper()
	rev, err := h.s.Revision(h.ctx)
	h.ok(err)
	return rev
}

func (h *harness) want(got, want any) {
	h.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		h.Fatalf("got %s, want %s", g, w)
	}
}

func (h *harness) list(r store.Range) (out []string, page store.Page) {
	h.Helper()
	page, err := h.s.List(h.ctx, r)
	h.ok(err)
	for _, e := range page.Entries {
		out = append(out, e.Key+"="+string(e.Value))
	}
	return out, page
}

// watch collects events until done says so.
func (h *harness) watch(prefix string, from int64, done func(store.Event) bool) (out []string) {
	h.Helper()
	for b, err := range h.s.Watch(h.ctx, prefix, from) {
		h.ok(err)
		for _, ev := range b.Events {
			if ev.Revision > b.Revision {
				h.Fatalf("event of revision %d in a batch up to %d", ev.Revision, b.Revision)
			}
			line := ev.Key + "=" + string(ev.Value)
			if ev.Deleted {
				line = ev.Key + " gone"
			}
			if out = append(out, line); done(ev) {
				return out
			}
		}
	}
	h.Fatalf("watch ended after %v: %v", out, h.ctx.Err())
	return nil
}

func last(key string) func(store.Event) bool {
	return func(ev store.Event) bool { return ev.Key == key }
}

func putAndGet(h *harness) {
	_, err := h.s.Get(h.ctx, "/a")
	if !errors.Is(err, store.ErrNotFound) {
		h.Fatalf("got %v", err)
	}
	before := h.revision()
	rev := h.put("/a", "1")
	if rev <= before || h.revision() < rev {
		h.Fatalf("revision %d after %d, store at %d", rev, before, h.revision())
	}
	e, err := h.s.Get(h.ctx, "/a")
	h.ok(err)
	h.want(fmt.Sprint(e.Key, string(e.Value), e.Revision), fmt.Sprint("/a", "1", rev))
	if again := h.put("/a", "2"); again <= rev {
		h.Fatalf("revision %d after %d", again, rev)
	}
	h.put("/empty", "")
	e, err = h.s.Get(h.ctx, "/empty")
	h.ok(err)
	h.want(len(e.Value), 0)
}

func compare(h *harness) {
	create := store.Txn{If: []store.Compare{{Key: "/a"}}, Then: []store.Op{store.Put("/a", []byte("1"))}}
	rev, err := h.s.Commit(h.ctx, create)
	h.ok(err)
	_, err = h.s.Commit(h.ctx, create)
	c, ok := errors.AsType[*store.ConflictError](err)
	if !ok || c.Revision < rev {
		h.Fatalf("got %v", err)
	}
	h.want(c.Failed, []store.Compare{{Key: "/a", Revision: rev}})
	_, err = h.s.Commit(h.ctx, store.Txn{If: []store.Compare{{Key: "/a", Revision: rev}}, Then: []store.Op{store.Put("/a", []byte("2"))}})
	h.ok(err)
	_, err = h.s.Commit(h.ctx, store.Txn{
		If:   []store.Compare{{Key: "/gone", Revision: rev}, {Key: "/b"}, {Key: "/a", Revision: rev}},
		Then: []store.Op{store.Put("/b", nil)},
	})
	if c, ok = errors.AsType[*store.ConflictError](err); !ok || len(c.Failed) != 2 || c.Failed[0].Key != "/gone" || c.Failed[0].Revision != 0 || c.Failed[1].Key != "/a" {
		h.Fatalf("got %v", err)
	}
	_, err = h.s.Commit(h.ctx, store.Txn{Then: []store.Op{store.Put("/x", nil), store.Delete("/x")}})
	if err == nil {
		h.Fatal("a key was changed twice in one transaction")
	}
}

func oneRevision(h *harness) {
	h.put("/c", "0")
	rev, err := h.s.Commit(h.ctx, store.Txn{Then: []store.Op{store.Put("/a", []byte("1")), store.Put("/b", []byte("2")), store.Delete("/c")}})
	h.ok(err)
	got, page := h.list(store.Range{Prefix: "/"})
	h.want(got, []string{"/a=1", "/b=2"})
	for _, e := range page.Entries {
		h.want(e.Revision, rev)
	}
	h.want(page.Revision, rev)
}

func conflictChangesNothing(h *harness) {
	h.put("/a", "1")
	before := h.revision()
	_, err := h.s.Commit(h.ctx, store.Txn{If: []store.Compare{{Key: "/a"}}, Then: []store.Op{store.Put("/a", []byte("2")), store.Put("/b", nil)}})
	if err == nil {
		h.Fatal("no conflict")
	}
	got, _ := h.list(store.Range{Prefix: "/"})
	h.want(got, []string{"/a=1"})
	h.want(h.revision(), before)
}

func deletes(h *harness) {
	before := h.revision()
	h.del("/absent")
	h.put("/a", "1")
	h.want(h.watch("/", before, last("/a")), []string{"/a=1"})
	before = h.revision()
	if rev := h.del("/a"); rev <= before {
		h.Fatalf("revision %d", rev)
	}
	_, err := h.s.Get(h.ctx, "/a")
	if !errors.Is(err, store.ErrNotFound) {
		h.Fatalf("got %v", err)
	}
	_, err = h.s.Commit(h.ctx, store.Txn{If: []store.Compare{{Key: "/a"}}, Then: []store.Op{store.Put("/a", []byte("again"))}})
	h.ok(err)
}

func lists(h *harness) {
	for _, k := range []string{"/b/2", "/a/1", "/b/10", "/b/1", "/c", "/b"} {
		h.put(k, "v")
	}
	got, page := h.list(store.Range{Prefix: "/b/"})
	h.want(got, []string{"/b/1=v", "/b/10=v", "/b/2=v"})
	h.want(page.More, false)
	got, page = h.list(store.Range{Prefix: "/b/", Limit: 2})
	h.want(got, []string{"/b/1=v", "/b/10=v"})
	h.want(page.More, true)
	got, page = h.list(store.Range{Prefix: "/b/", Limit: 2, After: "/b/10"})
	h.want(got, []string{"/b/2=v"})
	h.want(page.More, false)
	got, _ = h.list(store.Range{Prefix: "/b/", After: "/b/2"})
	h.want(len(got), 0)
	got, _ = h.list(store.Range{Prefix: "/b/", After: "/z"})
	h.want(len(got), 0)
	got, _ = h.list(store.Range{})
	h.want(len(got), 6)
}

func listsAtRevision(h *harness) {
	h.put("/a", "1")
	h.put("/b", "1")
	then := h.revision()
	h.put("/a", "2")
	h.del("/b")
	h.put("/c", "1")
	got, page := h.list(store.Range{Prefix: "/", Revision: then})
	h.want(got, []string{"/a=1", "/b=1"})
	h.want(page.Revision, then)
	got, _ = h.list(store.Range{Prefix: "/", Revision: then, After: "/a"})
	h.want(got, []string{"/b=1"})
	got, _ = h.list(store.Range{Prefix: "/"})
	h.want(got, []string{"/a=2", "/c=1"})
}

func watchInOrder(h *harness) {
	from := h.revision()
	var got []string
	var wg sync.WaitGroup
	wg.Go(func() { got = h.watch("/a/", from, last("/a/end")) })
	h.put("/a/1", "x")
	h.put("/b/1", "not seen")
	h.put("/a/1", "y")
	h.del("/a/1")
	h.put("/a/end", "")
	wg.Wait()
	h.want(got, []string{"/a/1=x", "/a/1=y", "/a/1 gone", "/a/end="})
}

func watchFromThePast(h *harness) {
	h.put("/a/1", "before")
	from := h.revision()
	h.put("/a/1", "x")
	mid := h.put("/a/2", "y")
	h.put("/a/end", "")
	h.want(h.watch("/a/", from, last("/a/end")), []string{"/a/1=x", "/a/2=y", "/a/end="})
	h.want(h.watch("/a/", mid, last("/a/end")), []string{"/a/end="})
}

func watchGroups(h *harness) {
	from := h.revision()
	const txns, keys = 50, 7
	for i := range txns {
		var ops []store.Op
		for k := range keys {
			ops = append(ops, store.Put(fmt.Sprintf("/g/%d", k), []byte(strconv.Itoa(i))))
		}
		_, err := h.s.Commit(h.ctx, store.Txn{Then: ops})
		h.ok(err)
	}
	seen := map[int64]int{}
	var before int64
	for b, err := range h.s.Watch(h.ctx, "/g/", from) {
		h.ok(err)
		if b.Revision < before {
			h.Fatalf("batch %d after %d", b.Revision, before)
		}
		inBatch := map[int64]int{}
		for _, ev := range b.Events {
			if seen[ev.Revision] != 0 {
				h.Fatalf("revision %d is in two batches", ev.Revision)
			}
			inBatch[ev.Revision]++
		}
		for rev, n := range inBatch {
			if n != keys {
				h.Fatalf("revision %d has %d events in its batch, not %d", rev, n, keys)
			}
			seen[rev] = n
		}
		before = b.Revision
		if len(seen) == txns {
			return
		}
	}
	h.Fatalf("watch ended after %d revisions", len(seen))
}

func watchEnds(h *harness) {
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, err := range h.s.Watch(ctx, "/", h.revision()) {
			if err != nil {
				h.Errorf("a cancelled watch ended with %v", err)
			}
		}
	}()
	cancel()
	select {
	case <-done:
	case <-h.ctx.Done():
		h.Fatal("a cancelled watch goes on")
	}
}

func compaction(h *harness) {
	h.put("/a", "1")
	old := h.revision()
	for i := range 10 {
		h.put("/a", strconv.Itoa(i))
	}
	now := h.revision()
	h.ok(h.s.Compact(h.ctx, now))
	got, _ := h.list(store.Range{Prefix: "/"})
	h.want(got, []string{"/a=9"})
	_, err := h.s.List(h.ctx, store.Range{Prefix: "/", Revision: old})
	if !errors.Is(err, store.ErrCompacted) {
		h.Fatalf("list of the past: %v", err)
	}
	ended := false
	for _, err := range h.s.Watch(h.ctx, "/", old) {
		if ended = errors.Is(err, store.ErrCompacted); !ended {
			h.Fatalf("watch from the past: %v", err)
		}
	}
	if !ended {
		h.Fatal("a watch from the past ended without an error")
	}
	h.put("/b", "1")
	h.want(h.watch("/", now, last("/b")), []string{"/b=1"})
}

func largeTransaction(h *harness) {
	t := store.Txn{}
	for i := range store.MaxOps {
		key := fmt.Sprintf("/k/%04d", i)
		t.If = append(t.If, store.Compare{Key: key})
		t.Then = append(t.Then, store.Put(key, slices.Repeat([]byte("x"), 1000)))
	}
	_, err := h.s.Commit(h.ctx, t)
	h.ok(err)
	_, err = h.s.Commit(h.ctx, t)
	if c, ok := errors.AsType[*store.ConflictError](err); !ok || len(c.Failed) != store.MaxOps {
		h.Fatalf("second time: %.200v", err)
	}
	t.Then = append(t.Then, store.Put("/k/one too many", nil))
	if _, err = h.s.Commit(h.ctx, t); err == nil {
		h.Fatal("a transaction beyond the bound was taken")
	}
}

func racingIncrements(h *harness) {
	const racers, each = 8, 20
	h.put("/n", "0")
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			for done := 0; done < each; {
				e, err := h.s.Get(h.ctx, "/n")
				if err != nil {
					h.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(e.Value))
				_, err = h.s.Commit(h.ctx, store.Txn{
					If:   []store.Compare{{Key: "/n", Revision: e.Revision}},
					Then: []store.Op{store.Put("/n", []byte(strconv.Itoa(n+1)))},
				})
				if _, clash := errors.AsType[*store.ConflictError](err); clash {
					continue
				}
				if err != nil {
					h.Error(err)
					return
				}
				done++
			}
		})
	}
	wg.Wait()
	e, err := h.s.Get(h.ctx, "/n")
	h.ok(err)
	h.want(string(e.Value), racers*each)
}

func concurrentWatch(h *harness) {
	const writers, each, watchers = 4, 50, 3
	from := h.revision()
	var write, watch sync.WaitGroup
	got := make([][]string, watchers)
	for w := range watchers {
		watch.Go(func() { got[w] = h.watch("/w/", from, last("/w/end")) })
	}
	for w := range writers {
		write.Go(func() {
			for i := range each {
				_, err := h.s.Commit(h.ctx, store.Txn{Then: []store.Op{store.Put(fmt.Sprintf("/w/%d", w), []byte(strconv.Itoa(i)))}})
				if err != nil {
					h.Error(err)
				}
			}
		})
	}
	write.Wait()
	h.put("/w/end", "")
	watch.Wait()
	h.want(len(got[0]), writers*each+1)
	next := map[string]int{}
	for _, line := range got[0][:len(got[0])-1] {
		var w, i int
		fmt.Sscanf(line, "/w/%d=%d", &w, &i)
		key := strconv.Itoa(w)
		h.want(i, next[key])
		next[key]++
	}
	for _, g := range got[1:] {
		h.want(g, got[0])
	}
}

func leading(h *harness) {
	for leads := range h.s.Leading(h.ctx) {
		if leads {
			return
		}
	}
	h.Fatal("the only member never leads")
}

func closed(h *harness) {
	h.put("/a", "1")
	select {
	case <-h.s.Stopped():
		h.Fatal("stopped before it was closed")
	default:
	}
	h.ok(h.s.Close())
	<-h.s.Stopped()
	ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
	defer cancel()
	if _, err := h.s.Commit(ctx, store.Txn{Then: []store.Op{store.Put("/a", nil)}}); err == nil {
		h.Fatal("a closed store took a write")
	}
}
