package apiserver

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// cache holds every object as it was at one revision of the store, kept
// current by one watch. Readers take no lock: they read an immutable snapshot.
type cache struct {
	store  store.Store
	decode func(store.Entry) (*object, error)
	log    hclog.Logger
	hub    hub

	written handover

	now atomic.Pointer[snapshot] // nil until the first load

	mu       sync.Mutex
	advanced chan struct{} // closed and replaced with every new snapshot

	index readIndex
}

// snapshot is the state of the cluster at one revision.
type snapshot struct {
	revision int64
	objects  *btree.BTreeG[*object]
	indexed  *btree.BTreeG[indexed]
	loads    *btree.BTreeG[nodeLoad]
}

// indexed is one entry of an index: all objects whose field has a value.
type indexed struct {
	index string // plural, field and value
	o     *object
}

// nodeLoad is what pods take from a node.
type nodeLoad struct {
	node string
	load load
}

func newSnapshot(revision int64) *snapshot {
	return &snapshot{revision,
		btree.NewG(32, func(a, b *object) bool { return a.key < b.key }),
		btree.NewG(32, func(a, b indexed) bool {
			return a.index < b.index || a.index == b.index && a.o.key < b.o.key
		}),
		btree.NewG(32, func(a, b nodeLoad) bool { return a.node < b.node })}
}

// indexName is the key of an index; values cannot contain its separator.
func indexName(k *kind, field, value string) string {
	return k.info.Plural + "\x00" + field + "\x00" + value
}

// get returns the object at key, or nil.
func (s *snapshot) get(key string) *object {
	o, _ := s.objects.Get(&object{key: key})
	return o
}

// revisionOf returns the revision that wrote key, 0 if it is absent.
func (s *snapshot) revisionOf(key string) int64 {
	if o := s.get(key); o != nil {
		return o.meta.Revision
	}
	return 0
}

// each calls yield for the objects below prefix in order of their keys, after key after.
func (s *snapshot) each(prefix, after string, yield func(*object) bool) {
	s.objects.AscendGreaterOrEqual(&object{key: max(prefix, after+"\x00")}, func(o *object) bool {
		return strings.HasPrefix(o.key, prefix) && yield(o)
	})
}

// eachWhere calls yield for the objects of k whose index field has the value.
func (s *snapshot) eachWhere(k *kind, field, value string, yield func(*object) bool) {
	name := indexName(k, field, value)
	s.indexed.AscendGreaterOrEqual(indexed{name, &object{}}, func(i indexed) bool {
		return i.index == name && yield(i.o)
	})
}

func (s *snapshot) put(o *object) (old *object) {
	old, _ = s.objects.ReplaceOrInsert(o)
	s.reindex(old, o)
	return old
}

func (s *snapshot) remove(key string) (old *object) {
	old, _ = s.objects.Delete(&object{key: key})
	s.reindex(old, nil)
	return old
}

func (s *snapshot) reindex(old, o *object) {
	if old != nil {
		for i, name := range old.index {
			if name != "" && (o == nil || i >= len(o.index) || o.index[i] != name) { // what stays is replaced below
				s.indexed.Delete(indexed{name, old})
			}
		}
	}
	if o != nil {
		for _, name := range o.index {
			if name != "" {
				s.indexed.ReplaceOrInsert(indexed{name, o})
			}
		}
	}
	was, is := old.loads(), o.loads()
	if was != is {
		s.weigh(was.node, load{}.minus(was.load))
		s.weigh(is.node, is.load)
	}
}

// loads is what a pod takes from which node; nil and what is no pod take nothing.
func (o *object) loads() nodeLoad {
	if o == nil || o.load == (load{}) {
		return nodeLoad{}
	}
	return nodeLoad{o.indexed("node"), o.load}
}

// weigh adds to what the pods of a node take.
func (s *snapshot) weigh(node string, by load) {
	if node == "" {
		return
	}
	if sum := s.loadOf(node).plus(by); sum == (load{}) {
		s.loads.Delete(nodeLoad{node: node})
	} else {
		s.loads.ReplaceOrInsert(nodeLoad{node, sum})
	}
}

// loadOf returns what all pods of a node take together.
func (s *snapshot) loadOf(node string) load {
	n, _ := s.loads.Get(nodeLoad{node: node})
	return n.load
}

// freeze returns a copy that later changes of s leave alone.
func (s *snapshot) freeze() *snapshot {
	return &snapshot{s.revision, s.objects.Clone(), s.indexed.Clone(), s.loads.Clone()}
}

const loadPage = 10_000 // of which a load holds five at once

// Bounds of the wait before the store is asked again.
const (
	retryLeast = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// run loads the cache and follows the store until ctx ends.
func (c *cache) run(ctx context.Context) {
	wait := retryLeast
	for ctx.Err() == nil {
		building, err := c.load(ctx)
		if err == nil {
			wait = retryLeast
			err = c.follow(ctx, building)
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("reload cache", "error", err, "retry_in", wait)
		pause(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

// load reads everything at one revision and publishes it. While a page is
// decoded the next one is read, and the one before put in its place.
func (c *cache) load(ctx context.Context) (*snapshot, error) {
	building := newSnapshot(0)
	all, ctx := errgroup.WithContext(ctx)
	pages, decoded := make(chan store.Page, 1), make(chan []*object, 1)
	all.Go(func() error {
		defer close(pages)
		for r := (store.Range{Prefix: root, Limit: loadPage}); ; {
			p, err := c.store.List(ctx, r)
			if err != nil {
				return err
			}
			r.Revision, building.revision = p.Revision, p.Revision
			if err := send(ctx, pages, p); err != nil || !p.More {
				return err
			}
			r.After = p.Entries[len(p.Entries)-1].Key
		}
	})
	all.Go(func() error {
		defer close(decoded)
		for p := range pages {
			if err := send(ctx, decoded, c.decodeAll(p.Entries)); err != nil {
				return err
			}
		}
		return nil
	})
	for objects := range decoded {
		for _, o := range objects {
			if o != nil {
				building.put(o)
			}
		}
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	frozen := building.freeze()
	c.written.clear()
	c.hub.reset(frozen.revision, func() { c.now.Store(frozen) })
	c.announce()
	return building, nil
}

// send hands on a page, or says that it is lost: ctx is done.
func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// decodeAll decodes a page with all processors, for most of a start is that. What
// is unreadable is nil.
func (c *cache) decodeAll(entries []store.Entry) []*object {
	out := make([]*object, len(entries))
	share := (len(entries) + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for from := 0; from < len(entries); from += share {
		wg.Go(func() {
			for i := from; i < min(from+share, len(entries)); i++ {
				o, err := c.decode(entries[i])
				if err != nil {
					c.log.Error("stored object is unreadable and left out", "error", err)
					continue
				}
				out[i] = o
			}
		})
	}
	wg.Wait()
	return out
}

// follow applies the store's changes until the watch breaks. A watch that
// broke is taken up where it ended; only a compaction makes it return.
func (c *cache) follow(ctx context.Context, building *snapshot) error {
	wait := retryLeast
	for {
		var err error
		for b, werr := range c.store.Watch(ctx, root, building.revision) {
			if err = werr; err == nil {
				c.apply(building, b)
				wait = retryLeast
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, store.ErrCompacted) {
			return err
		}
		level := hclog.Warn
		if errors.Is(err, store.ErrLearner) { // for moments, on its way in
			level = hclog.Debug
		}
		c.log.Log(level, "store watch broke", "error", err, "retry_in", wait)
		pause(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

// apply makes one batch visible at once: no reader sees half a transaction.
func (c *cache) apply(building *snapshot, b store.Batch) {
	var changes []change
	for _, ev := range b.Events {
		var o, old *object
		if ev.Deleted {
			old = building.remove(ev.Key)
		} else {
			var err error
			if o = c.written.take(ev.Entry); o != nil {
				old = building.put(o)
			} else if o, err = c.decode(ev.Entry); err != nil {
				c.log.Error("stored object is unreadable and left out", "error", err)
				old = building.remove(ev.Key)
			} else {
				old = building.put(o)
			}
		}
		if o != nil && o.kind != nil || old != nil && old.kind != nil {
			changes = append(changes, change{ev.Revision, old, o})
		}
	}
	building.revision = max(building.revision, b.Revision)
	frozen := building.freeze()
	c.hub.publish(frozen.revision, changes, func() { c.now.Store(frozen) })
	c.announce()
}

func (c *cache) announce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.advanced)
	c.advanced = make(chan struct{})
}

// next returns a channel that is closed by the next snapshot after this call.
func (c *cache) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.advanced
}

// at returns a snapshot of revision or newer.
func (c *cache) at(ctx context.Context, revision int64) (*snapshot, error) {
	for {
		next := c.next()
		if s := c.now.Load(); s != nil && s.revision >= revision {
			return s, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, api.Errorf(api.Unready, "the server has not caught up with the store: try again")
		}
	}
}

// readTimeout bounds how long a read waits for the store or the cache.
const readTimeout = 10 * time.Second

// any returns the snapshot there is, once there is one.
func (c *cache) any(ctx context.Context) (*snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return c.at(ctx, 0)
}

// latest returns a snapshot that has every write acknowledged before the call.
func (c *cache) latest(ctx context.Context) (*snapshot, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errSilent)
	defer cancel()
	revision, err := c.index.read(ctx, c.store.Revision)
	if err != nil {
		return nil, silent(ctx, err)
	}
	return c.at(ctx, revision)
}

// readIndex asks the store for its newest revision, once for all who ask while
// an earlier question is under way: an answer only serves those who asked
// before it was put.
type readIndex struct {
	mu   sync.Mutex
	busy bool
	next *indexCall
}

type indexCall struct {
	turn     chan struct{} // holds a token: whoever takes it asks for all
	done     chan struct{}
	revision int64
	err      error
}

const readIndexTimeout = 5 * time.Second

func (r *readIndex) read(ctx context.Context, ask func(context.Context) (int64, error)) (int64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &indexCall{turn: make(chan struct{}, 1), done: make(chan struct{})}
	}
	c := r.next
	if !r.busy {
		r.busy = true
		c.turn <- struct{}{}
	}
	r.mu.Unlock()
	select {
	case <-c.done:
		return c.revision, c.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.turn:
		go r.ask(context.WithoutCancel(ctx), c, ask) // who waits less than others leaves it to them
	}
	select {
	case <-c.done:
		return c.revision, c.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ask has the answer for all who wait for it by now, and passes the turn on.
func (r *readIndex) ask(ctx context.Context, c *indexCall, ask func(context.Context) (int64, error)) {
	r.mu.Lock()
	r.next = nil // who comes from now on needs another answer
	r.mu.Unlock()
	actx, cancel := context.WithTimeoutCause(ctx, readIndexTimeout, errSilent)
	defer cancel()
	c.revision, c.err = ask(actx)
	c.err = silent(actx, c.err)
	close(c.done)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy = r.next != nil; r.busy {
		r.next.turn <- struct{}{}
	}
}
