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
type Cache[O api.Any] struct {
	kind   *api.Kind[O]
	client *client.Kind[O]
	log    hclog.Logger
	synced chan struct{} // closed after the first list

	feed     sync.Mutex // serializes changes, and with them the handlers
	handlers map[int]func(was, is O)
	next     int

	mu       sync.RWMutex
	objects  map[id]O
	indexed  map[string]func(O) []string    // by index, beside those of the kind
	indexes  map[string]map[string]map[id]O // by index, then value
	revision int64
	waiting  chan struct{} // closed by the next advance; nil when nobody waits

	// listed is objects in order, until one changes: of many kinds everything is
	// looked at often, and changes seldom. It is set under the lock for readers.
	listed atomic.Pointer[listing[O]]
}

type listing[O api.Any] struct {
	all    []O
	byName func() map[string]O
}

// id is what tells objects of one kind apart.
type id struct{ namespace, name string }

func idOf(o api.Any) id { return id{o.GetMeta().Namespace, o.GetMeta().Name} }

func (a id) compare(b id) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// NewCache returns an empty cache of kind k. Run fills it.
func NewCache[O api.Any](c *client.Client, k *api.Kind[O], log hclog.Logger) *Cache[O] {
	x := &Cache[O]{
		kind: k, client: client.Of(c, k), log: log.Named(k.Plural), synced: make(chan struct{}),
		handlers: map[int]func(was, is O){},
		objects:  map[id]O{},
		indexed:  map[string]func(O) []string{},
		indexes:  map[string]map[string]map[id]O{},
	}
	for name := range k.Indexes {
		x.indexes[name] = map[string]map[id]O{}
	}
	return x
}

// Synced waits until the cache has been filled.
func (c *Cache[O]) Synced(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Get returns an object, or nil.
func (c *Cache[O]) Get(namespace, name string) O {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[id{namespace, name}]
}

// List returns all objects, by namespace and name.
func (c *Cache[O]) List() []O { return slices.Clone(c.list().all) }

// ByName returns all objects of a kind that no namespace has. The map is shared:
// it must not be changed.
func (c *Cache[O]) ByName() map[string]O { return c.list().byName() }

func (c *Cache[O]) list() *listing[O] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l := c.listed.Load()
	if l == nil {
		l = &listing[O]{all: sorted(c.objects, nil)}
		l.byName = sync.OnceValue(func() map[string]O {
			m := make(map[string]O, len(l.all))
			for _, o := range l.all {
				m[o.GetMeta().Name] = o
			}
			return m
		})
		c.listed.Store(l)
	}
	return l
}

// All yields all objects as they are now, in no order, and copies nothing. The
// loop must not change the cache, or wait for who does.
func (c *Cache[O]) All() iter.Seq[O] {
	return func(yield func(O) bool) {
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
func (c *Cache[O]) By(index, namespace, value string) []O {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return sorted(c.indexes[index][value], func(k id) bool { return namespace == "" || k.namespace == namespace })
}

// Index keeps the objects by of their values, for By: a loop that looks for the
// few that name something must not go through all, each time. Everybody who
// names an index means the same by it.
func (c *Cache[O]) Index(name string, of func(O) []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.indexed[name], c.indexes[name] = of, map[string]map[id]O{}
	for k, o := range c.objects {
		c.file(name, k, nil, of(o), o)
	}
}

// Where yields the objects of By of all namespaces as All does.
func (c *Cache[O]) Where(index, value string) iter.Seq[O] {
	return func(yield func(O) bool) {
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
func (c *Cache[O]) Values(index string) []string {
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
func (c *Cache[O]) Await(ctx context.Context, revision int64) error {
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
func (c *Cache[O]) OnChange(f func(was, is O)) (stop func()) {
	c.feed.Lock()
	defer c.feed.Unlock()
	n := c.next
	c.next++
	c.handlers[n] = f
	var none O
	for _, o := range c.List() {
		f(none, o)
	}
	return func() {
		c.feed.Lock()
		defer c.feed.Unlock()
		delete(c.handlers, n)
	}
}

// Refs is a Source: a loop looks at what refs returns for every changed
// object, as it was and as it is.
func (c *Cache[O]) Refs(refs func(O) []api.Ref) Source {
	return Source{c.Synced, func(enqueue func(api.Ref)) func() {
		return c.OnChange(func(was, is O) {
			for _, o := range []O{was, is} {
				if !o.Absent() {
					for _, r := range refs(o) {
						enqueue(r)
					}
				}
			}
		})
	}}
}

// Each is a Source: a loop looks at every changed object itself.
func (c *Cache[O]) Each() Source {
	return c.Refs(func(o O) []api.Ref { return []api.Ref{c.kind.Ref(o.GetMeta().Namespace, o.GetMeta().Name)} })
}

// Run keeps the cache current until ctx ends. Its end is not an error.
func (c *Cache[O]) Run(ctx context.Context) error {
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

func (c *Cache[O]) pause(ctx context.Context, wait *time.Duration) error {
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
func (c *Cache[O]) relist(ctx context.Context) error {
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
	for _, o := range items {
		seen[idOf(o)] = true
		c.apply(o)
	}
	for _, o := range c.List() {
		if k := idOf(o); !seen[k] {
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
func (c *Cache[O]) watch(ctx context.Context, wait *time.Duration) error {
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
			c.remove(idOf(ev.Object))
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
func (c *Cache[O]) apply(o O) {
	k := idOf(o)
	c.mu.Lock()
	was := c.objects[k]
	if !was.Absent() && was.GetMeta().Revision >= o.GetMeta().Revision {
		c.mu.Unlock()
		return // a list after a cut watch shows much that is known
	}
	c.reindex(k, was, o)
	c.objects[k] = o
	c.mu.Unlock()
	c.tell(was, o)
}

func (c *Cache[O]) remove(k id) {
	c.mu.Lock()
	was, had := c.objects[k]
	var none O
	if had {
		c.reindex(k, was, none)
		delete(c.objects, k)
	}
	c.mu.Unlock()
	if had {
		c.tell(was, none)
	}
}

func (c *Cache[O]) reindex(k id, was, is O) {
	c.listed.Store(nil)
	for name, of := range c.kind.Indexes {
		var before, after []string
		if !was.Absent() {
			before = []string{of(was)}
		}
		if !is.Absent() {
			after = []string{of(is)}
		}
		c.file(name, k, before, after, is)
	}
	for name, of := range c.indexed {
		var before, after []string
		if !was.Absent() {
			before = of(was)
		}
		if !is.Absent() {
			after = of(is)
		}
		c.file(name, k, before, after, is)
	}
}

// file moves an object from its values of an index before to those after. The
// caller holds mu.
func (c *Cache[O]) file(name string, k id, before, after []string, is O) {
	values := c.indexes[name]
	for _, v := range before {
		if delete(values[v], k); len(values[v]) == 0 {
			delete(values, v)
		}
	}
	for _, v := range after {
		if values[v] == nil {
			values[v] = map[id]O{}
		}
		values[v][k] = is
	}
}

func (c *Cache[O]) tell(was, is O) {
	for n := range c.next {
		if f := c.handlers[n]; f != nil {
			f(was, is)
		}
	}
}

func (c *Cache[O]) advance(revision int64) {
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
