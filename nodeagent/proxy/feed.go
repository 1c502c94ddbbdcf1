package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// ServiceEvent and EndpointsEvent are one change each.
type (
	ServiceEvent   = api.WatchEvent[*api.Service]
	EndpointsEvent = api.WatchEvent[*api.Endpoints]
)

// Sink wants to know every service and its endpoints: the proxy, the resolver.
type Sink interface {
	// Reset replaces all that is known. revision is that of the endpoints; 0
	// means that they are remembered from an earlier run.
	Reset(services []*api.Service, endpoints []*api.Endpoints, revision int64)
	// Service and Endpoints tell of a put or delete. A bookmark says that
	// nothing before its revision was missed.
	Service(ServiceEvent)
	Endpoints(EndpointsEvent)
}

// Feed tells sinks about all services and endpoints of the cluster. It
// remembers them in a file: while no server can be reached, sinks go on with
// what was true last, also after a restart.
type Feed struct {
	Client *client.Client
	Path   string // of the file; empty: remember nothing
	Sinks  []Sink
	Log    hclog.Logger

	mu        sync.Mutex
	services  map[api.Ref]*api.Service
	endpoints map[api.Ref]*api.Endpoints
	changed   bool
}

const remember = 5 * time.Second // at most so much is lost to a crash

// Run feeds the sinks until ctx is done.
func (f *Feed) Run(ctx context.Context) error {
	if f.Log == nil {
		f.Log = hclog.NewNullLogger()
	}
	if err := f.recall(); err != nil {
		f.Log.Warn("cannot read the services of the last run: waiting for a server", "error", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { f.rememberAll(ctx) })
	defer wg.Wait()
	f.retry(ctx, "services", f.follow)
	return ctx.Err()
}

// follow lists everything, then watches until a watch must be begun anew.
func (f *Feed) follow(ctx context.Context) error {
	services, from, err := client.Of(f.Client, api.Services).List(ctx, "", nil)
	if err != nil {
		return err
	}
	endpoints, fromEP, err := client.Of(f.Client, api.EndpointSlices).List(ctx, "", nil)
	if err != nil {
		return err
	}
	f.reset(services, endpoints, fromEP)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		cancel(watch(ctx, f, api.Services, from, f.service))
	})
	wg.Go(func() {
		cancel(watch(ctx, f, api.EndpointSlices, fromEP, f.endpoint))
	})
	wg.Wait()
	return context.Cause(ctx)
}

// watch hands every event to do. A stream that breaks is taken up where it
// ended; the error says that this is not possible.
func watch[O api.Any](ctx context.Context, f *Feed, k *api.Kind[O], from int64, do func(api.WatchEvent[O])) error {
	var gone error
	f.retry(ctx, k.Plural, func(ctx context.Context) error {
		first := true
		for ev, err := range client.Of(f.Client, k).Watch(ctx, "", nil, from) {
			if api.Is(err, api.Gone) {
				gone = err
				return nil
			}
			if err != nil {
				return err
			}
			from = max(from, ev.Revision)
			// A server that was restarted does not know any more what this node has
			// applied: the first bookmark of a stream is told, later ones are noise.
			if ev.Type != api.EventBookmark || first {
				do(ev)
			}
			first = false
		}
		return nil
	})
	return cmp.Or(gone, ctx.Err())
}

// retry calls do until it succeeds or ctx ends.
func (f *Feed) retry(ctx context.Context, what string, do func(context.Context) error) {
	client.Retry(ctx, do, func(err error, first bool) {
		level := hclog.Debug
		if first {
			level = hclog.Warn
		}
		f.Log.Log(level, "watch broke, trying again", "kind", what, "error", err)
	})
}

func (f *Feed) reset(services []*api.Service, endpoints []*api.Endpoints, revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.services, f.endpoints, f.changed = byRef(services), byRef(endpoints), true
	for _, s := range f.Sinks {
		s.Reset(services, endpoints, revision)
	}
}

func byRef[O api.Any](items []O) map[api.Ref]O {
	m := make(map[api.Ref]O, len(items))
	for _, o := range items {
		m[refOf(o)] = o
	}
	return m
}

// refOf names an object among those of its kind.
func refOf(o api.Any) api.Ref {
	return api.Ref{Namespace: o.GetMeta().Namespace, Name: o.GetMeta().Name}
}

func note[O api.Any](m map[api.Ref]O, ev api.WatchEvent[O]) bool {
	switch {
	case ev.Object.Absent():
		return false
	case ev.Type == api.EventDelete:
		delete(m, refOf(ev.Object))
	default:
		m[refOf(ev.Object)] = ev.Object
	}
	return true
}

func (f *Feed) service(ev ServiceEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = note(f.services, ev) || f.changed
	for _, s := range f.Sinks {
		s.Service(ev)
	}
}

func (f *Feed) endpoint(ev EndpointsEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = note(f.endpoints, ev) || f.changed
	for _, s := range f.Sinks {
		s.Endpoints(ev)
	}
}

// memory is the file's content.
type memory struct {
	Services  []*api.Service   `json:"services"`
	Endpoints []*api.Endpoints `json:"endpoints"`
}

// recall tells the sinks what was true in the last run, if anything is known.
func (f *Feed) recall() error {
	if f.Path == "" {
		return nil
	}
	b, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var m memory
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	f.reset(m.Services, m.Endpoints, 0)
	return nil
}

func (f *Feed) rememberAll(ctx context.Context) {
	if f.Path == "" {
		return
	}
	t := time.NewTicker(remember)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		if err := f.save(); err != nil {
			f.Log.Warn("cannot remember the services", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (f *Feed) save() error {
	f.mu.Lock()
	changed := f.changed
	f.changed = false
	m := memory{slices.Collect(maps.Values(f.services)), slices.Collect(maps.Values(f.endpoints))}
	f.mu.Unlock()
	if !changed {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return err
	}
	tmp := f.Path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, f.Path)
}
