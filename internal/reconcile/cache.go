package reconcile

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Cache holds every object of one kind, decoded once, and follows the cluster
// by list and watch. What it returns is shared: it must not be changed.
type Cache[S api.Spec[S], T any] struct {
	kind   api.Kind[S, T]
	client client.Kind[S, T]
	log    hclog.Logger
	synced chan struct{} // closed after the first list

	feed     sync.Mutex // serializes changes, and with them the handlers
	handlers map[int]func(was, is *api.Object[S, T])
	next     int

	mu       sync.RWMutex
	objects  map[id]*api.Object[S, T]
	indexed  map[string]func(*api.Object[S, T]) []string    // by index, beside those of the kind
	indexes  map[string]map[string]map[id]*api.Object[S, T] // by index, then value
	revision int64
	waiting  chan struct{} // closed by the next advance; nil when nobody waits

	// listed is objects in order, until one changes: of many kinds everything is
	// looked at often, and changes seldom. It is set under the lock for readers.
	listed atomic.Pointer[listing[S, T]]
}

type listing[S api.Spec[S], T any] struct {
	all    []*api.Object[S, T]
	byName func() map[string]*api.Object[S, T]
}

// id is what tells objects of one kind apart.
type id struct{ namespace, name string }

func (a id) compare(b id) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// NewCache returns an empty cache of kind k. Run fills it.
func NewCache[S api.Spec[S], T any](c *client.Client, k api.Kind[S, T], log hclog.Logger) *Cache[S, T] {
	x := &Cache[S, T]{
		kind: k, client: client.Of(c, k), log: log.Named(k.Plural), synced: make(chan struct{}),
		handlers: map[int]func(was, is *api.Object[S, T]){},
		objects:  map[id]*api.Object[S, T]{},
		indexed:  map[string]func(*api.Object[S, T]) []string{},
		indexes:  map[string]map[string]map[id]*api.Object[S, T]{},
	}
	for name := range k.Indexes {
		x.indexes[name] = map[string]map[id]*api.Object[S, T]{}
	}
	return x
}

// Synced waits until the cache has been filled.
func (c *Cache[S, T]) Synced(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Get returns an object, or nil.
func (c *Cache[S, T]) Get(namespace, name string) *api.Object[S, T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[id{namespace, name}]
}

// List returns all objects, by namespace and name.
func (c *Cache[S, T]) List() []*api.Object[S, T] { return slices.Clone(c.list().all) }

// ByName returns all objects of a kind that no namespace has. The map is shared:
// it must not be changed.
func (c *Cache[S, T]) ByName() map[string]*api.Object[S, T] { return c.list().byName() }

func (c *Cache[S, T]) list() *listing[S, T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l := c.listed.Load()
	if l == nil {
		l = &listing[S, T]{all: sorted(c.objects, nil)}
		l.byName = sync.OnceValue(func() map[string]*api.Object[S, T] {
			m := make(map[string]*api.Object[S, T], len(l.all))
			for _, o := range l.all {
				m[o.Meta.Name] = o
			}
			return m
		})
		c.listed.Store(l)
	}
	return l
}

// All yields all objects as they are now, in no order, and copies nothing. The
// loop must not change the cache, or wait for who does.
func (c *Cache[S, T]) All() iter.Seq[*api.Object[S, T]] {
	return func(yield func(*api.Object[S, T]) bool) {
		c.mu.RLock()
		defer c.mu.RUnlock()
		for _, o := range c.objects {
			if !yield(o) {
				return
			}
		}
	}
}

// By returns the objects whose index has the value, by namespace and name. An
// empty namespace means all.
func (c *Cache[S, T]) By(index, namespace, value string) []*api.Object[S, T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return sorted(c.indexes[index][value], func(k id) bool { return namespace == "" || k.namespace == namespace })
}

// Index keeps the objects by of their values, for By: a loop that looks for the
// few that name something must not go through all, each time. Everybody who
// names an index means the same by it.
func (c *Cache[S, T]) Index(name string, of func(*api.Object[S, T]) []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.indexed[name], c.indexes[name] = of, map[string]map[id]*api.Object[S, T]{}
	for k, o := range c.objects {
		c.file(name, k, nil, of(o), o)
	}
}

// Where yields the objects of By of all namespaces as All does.
func (c *Cache[S, T]) Where(index, value string) iter.Seq[*api.Object[S, T]] {
	return func(yield func(*api.Object[S, T]) bool) {
		c.mu.RLock()
		defer c.mu.RUnlock()
		for _, o := range c.indexes[index][value] {
			if !yield(o) {
				return
			}
		}
	}
}

// Values returns every value of an index that some object has, in order.
func (c *Cache[S, T]) Values(index string) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.indexes[index]))
}

func sorted[V any](m map[id]V, want func(id) bool) []V {
	keys := make([]id, 0, len(m))
	for k := range m {
		if want == nil || want(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, id.compare)
	out := make([]V, len(keys))
	for i, k := range keys {
		out[i] = m[k]
	}
	return out
}

// Await waits until the cache has seen everything up to revision: whoever
// wrote at a revision plans again only from what includes that write.
func (c *Cache[S, T]) Await(ctx context.Context, revision int64) error {
	for {
		c.mu.Lock()
		if c.revision >= revision {
			c.mu.Unlock()
			return nil
		}
		if c.waiting == nil {
			c.waiting = make(chan struct{})
		}
		advanced := c.waiting
		c.mu.Unlock()
		select {
		case <-advanced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// OnChange calls f for every object there is and for every change from then
// on, in order and one at a time; nil is absence. f may read caches and must
// not block. stop ends it.
func (c *Cache[S, T]) OnChange(f func(was, is *api.Object[S, T])) (stop func()) {
	c.feed.Lock()
	defer c.feed.Unlock()
	n := c.next
	c.next++
	c.handlers[n] = f
	for _, o := range c.List() {
		f(nil, o)
	}
	return func() {
		c.feed.Lock()
		defer c.feed.Unlock()
		delete(c.handlers, n)
	}
}

// Refs is a Source: a loop looks at what refs returns for every changed
// object, as it was and as it is.
func (c *Cache[S, T]) Refs(refs func(*api.Object[S, T]) []api.Ref) Source {
	return Source{c.Synced, func(enqueue func(api.Ref)) func() {
		return c.OnChange(func(was, is *api.Object[S, T]) {
			for _, o := range []*api.Object[S, T]{was, is} {
				if o != nil {
					for _, r := range refs(o) {
						enqueue(r)
					}
				}
			}
		})
	}}
}

// Each is a Source: a loop looks at every changed object itself.
func (c *Cache[S, T]) Each() Source {
	return c.Refs(func(o *api.Object[S, T]) []api.Ref { return []api.Ref{c.kind.Ref(o.Meta.Namespace, o.Meta.Name)} })
}

// Run keeps the cache current until ctx ends. Its end is not an error.
func (c *Cache[S, T]) Run(ctx context.Context) error {
	wait := minRetry
	for ctx.Err() == nil {
		err := c.relist(ctx)
		for err == nil {
			if err = c.watch(ctx, &wait); err != nil && !api.Is(err, api.Gone) && ctx.Err() == nil {
				c.log.Debug("watch ended", "error", err, "retry_in", wait)
				err = c.pause(ctx, &wait)
			}
		}
		if ctx.Err() != nil {
			break
		}
		c.log.Warn("list again", "error", err, "retry_in", wait)
		c.pause(ctx, &wait)
	}
	return nil
}

const maxRelist = 2 * time.Second

func (c *Cache[S, T]) pause(ctx context.Context, wait *time.Duration) error {
	t := time.NewTimer(*wait)
	defer t.Stop()
	*wait = min(2**wait, maxRelist)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// relist replaces what the cache has with what the cluster has.
func (c *Cache[S, T]) relist(ctx context.Context) error {
	items, revision, err := c.client.List(ctx, "", nil)
	if err != nil {
		return err
	}
	c.feed.Lock()
	defer c.feed.Unlock()
	c.mu.RLock()
	behind := revision < c.revision
	c.mu.RUnlock()
	if behind {
		return api.Errorf(api.Unready, "the server answered from the past")
	}
	seen := make(map[id]bool, len(items))
	for i := range items {
		o := &items[i]
		seen[id{o.Meta.Namespace, o.Meta.Name}] = true
		c.apply(o)
	}
	for _, o := range c.List() {
		if k := (id{o.Meta.Namespace, o.Meta.Name}); !seen[k] {
			c.remove(k)
		}
	}
	c.advance(revision)
	select {
	case <-c.synced:
	default:
		close(c.synced)
	}
	return nil
}

// watch follows the cluster from where the cache is.
func (c *Cache[S, T]) watch(ctx context.Context, wait *time.Duration) error {
	c.mu.RLock()
	from := c.revision
	c.mu.RUnlock()
	for ev, err := range c.client.Watch(ctx, "", nil, from) {
		if err != nil {
			return err
		}
		*wait = minRetry
		c.feed.Lock()
		switch ev.Type {
		case api.EventPut:
			c.apply(ev.Object)
		case api.EventDelete:
			c.remove(id{ev.Object.Meta.Namespace, ev.Object.Meta.Name})
		}
		if ev.Type == api.EventBookmark {
			c.advance(ev.Revision)
		} else {
			c.advance(ev.Revision - 1) // the same transaction may have changed more
		}
		c.feed.Unlock()
	}
	return api.Errorf(api.Unready, "watch of %s ended", c.kind.Plural)
}

// apply makes o visible and tells the handlers. The caller holds feed.
func (c *Cache[S, T]) apply(o *api.Object[S, T]) {
	k := id{o.Meta.Namespace, o.Meta.Name}
	c.mu.Lock()
	was := c.objects[k]
	if was != nil && was.Meta.Revision >= o.Meta.Revision {
		c.mu.Unlock()
		return // a list after a cut watch shows much that is known
	}
	c.reindex(k, was, o)
	c.objects[k] = o
	c.mu.Unlock()
	c.tell(was, o)
}

func (c *Cache[S, T]) remove(k id) {
	c.mu.Lock()
	was := c.objects[k]
	if was != nil {
		c.reindex(k, was, nil)
		delete(c.objects, k)
	}
	c.mu.Unlock()
	if was != nil {
		c.tell(was, nil)
	}
}

func (c *Cache[S, T]) reindex(k id, was, is *api.Object[S, T]) {
	c.listed.Store(nil)
	for name, of := range c.kind.Indexes {
		var before, after []string
		if was != nil {
			before = []string{of(was)}
		}
		if is != nil {
			after = []string{of(is)}
		}
		c.file(name, k, before, after, is)
	}
	for name, of := range c.indexed {
		var before, after []string
		if was != nil {
			before = of(was)
		}
		if is != nil {
			after = of(is)
		}
		c.file(name, k, before, after, is)
	}
}

// file moves an object from its values of an index before to those after. The
// caller holds mu.
func (c *Cache[S, T]) file(name string, k id, before, after []string, is *api.Object[S, T]) {
	values := c.indexes[name]
	for _, v := range before {
		if delete(values[v], k); len(values[v]) == 0 {
			delete(values, v)
		}
	}
	for _, v := range after {
		if values[v] == nil {
			values[v] = map[id]*api.Object[S, T]{}
		}
		values[v][k] = is
	}
}

func (c *Cache[S, T]) tell(was, is *api.Object[S, T]) {
	for n := range c.next {
		if f := c.handlers[n]; f != nil {
			f(was, is)
		}
	}
}

func (c *Cache[S, T]) advance(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision > c.revision {
		c.revision = revision
		if c.waiting != nil {
			close(c.waiting)
			c.waiting = nil
		}
	}
}
