package provider

import (
	"context"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// cluster is what the resources of one run share. Terraform starts a provider
// for each walk of its graph, so nothing here outlives a plan or an apply.
type cluster struct {
	client    *client.Client // nil while the provider's configuration is not known yet
	ca        []byte         // its CA certificates in PEM; empty: the system's authorities are trusted
	namespace string         // of resources that name none; "" while it is not known

	spaces  sync.Map // *space by the name of its namespace
	shelves sync.Map // *shelf by plural and namespace
	makes   sync.Map // api.Ref of each object that this run plans to make

	mu     sync.Mutex
	silent error // why checks of this run do not wait for the cluster any more
}

// planTimeout bounds one check of a plan: a plan does without the cluster
// rather than hang.
const planTimeout = 8 * time.Second

// ask makes a plan-time request. A cluster that did not answer once is not
// asked again by this run.
func (c *cluster) ask(ctx context.Context, request func(context.Context) error) error {
	c.mu.Lock()
	err := c.silent
	c.mu.Unlock()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	err = request(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = api.Errorf(api.Unready, "no answer within %s", planTimeout)
	}
	if api.Is(err, api.Unready) {
		c.mu.Lock()
		c.silent = err
		c.mu.Unlock()
	}
	return err
}

// shelf serves a run's reads of one kind in one namespace. Terraform refreshes
// object by object; from the fourth on, one list answers for all.
type shelf[O api.Any] struct {
	objects   *client.Kind[O]
	namespace string

	mu    sync.Mutex
	reads int
	items map[string]O    // nil until listed
	dirty map[string]bool // written by this run
	bad   bool            // the list failed: get one by one
}

const readsBeforeList = 3

func shelfOf[O api.Any](c *cluster, k *api.Kind[O], namespace string) *shelf[O] {
	s, _ := c.shelves.LoadOrStore(k.Plural+"/"+namespace, &shelf[O]{objects: client.Of(c.client, k), namespace: namespace, dirty: map[string]bool{}})
	return s.(*shelf[O])
}

// get returns one object. That it does not exist is never taken from the list.
func (s *shelf[O]) get(ctx context.Context, name string) (O, error) {
	if o := s.listed(ctx, name); !o.Absent() {
		return o, nil
	}
	return s.objects.Get(ctx, s.namespace, name)
}

// listed returns an object from the list, which the call after the first few
// makes while the others wait for it; nil means get it.
func (s *shelf[O]) listed(ctx context.Context, name string) (o O) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.reads <= readsBeforeList || s.bad || s.dirty[name] {
		return o
	}
	if s.items == nil {
		all, _, err := s.objects.List(ctx, s.namespace, nil)
		if err != nil {
			s.bad = ctx.Err() == nil
			return o
		}
		s.items = make(map[string]O, len(all))
		for _, o := range all {
			s.items[o.GetMeta().Name] = o
		}
	}
	return s.items[name]
}

// wrote makes later reads of an object fresh.
func (s *shelf[O]) wrote(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[name] = true
}
