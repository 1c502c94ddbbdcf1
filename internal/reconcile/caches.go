package reconcile

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Caches are what the loops of one process share: each kind is decoded once.
type Caches struct {
	Namespaces *Cache[*api.Namespace]
	Apps       *Cache[*api.App]
	Jobs       *Cache[*api.Job]
	Pods       *Cache[*api.Pod]
	Volumes    *Cache[*api.Volume]
	Services   *Cache[*api.Service]
	Endpoints  *Cache[*api.Endpoints]
	Nodes      *Cache[*api.Node]
	Configs    *Cache[*api.Config]
	Secrets    *Cache[*api.Secret]
	Contents   *Cache[*api.Content]
	Tokens     *Cache[*api.Token]
}

// NewCaches returns empty caches. Run fills them and keeps them current.
func NewCaches(c *client.Client, log hclog.Logger) *Caches {
	log = log.Named("cache")
	return &Caches{
		Namespaces: NewCache(c, api.Namespaces, log),
		Apps:       NewCache(c, api.Apps, log),
		Jobs:       NewCache(c, api.Jobs, log),
		Pods:       NewCache(c, api.Pods, log),
		Volumes:    NewCache(c, api.Volumes, log),
		Services:   NewCache(c, api.Services, log),
		Endpoints:  NewCache(c, api.EndpointSlices, log),
		Nodes:      NewCache(c, api.Nodes, log),
		Configs:    NewCache(c, api.Configs, log),
		Secrets:    NewCache(c, api.Secrets, log),
		Contents:   NewCache(c, api.Contents, log),
		Tokens:     NewCache(c, api.Tokens, log),
	}
}

// Run runs all caches until ctx ends.
func (c *Caches) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{
		c.Namespaces.Run, c.Apps.Run, c.Jobs.Run, c.Pods.Run, c.Volumes.Run, c.Services.Run, c.Endpoints.Run, c.Nodes.Run,
		c.Configs.Run, c.Secrets.Run, c.Contents.Run, c.Tokens.Run,
	} {
		wg.Go(func() { run(ctx) })
	}
	wg.Wait()
	return nil
}

// Written remembers up to which revision the loop that owns it has written for
// each object: what the object's next plan must have seen.
type Written struct {
	mu sync.Mutex
	at map[api.Ref]int64
}

// Note records a write at revision on behalf of ref.
func (w *Written) Note(ref api.Ref, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[api.Ref]int64{}
	}
	w.at[ref] = max(w.at[ref], revision)
}

// Of returns the revision of the last write on behalf of ref, 0 for none.
func (w *Written) Of(ref api.Ref) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[ref]
}

// Forget drops what is known of an object that is gone.
func (w *Written) Forget(ref api.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.at, ref)
}
