package server

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/registry"
)

// silence is how long a registry that did not answer is not asked again: a
// cluster without one must not wait for it at each write.
const silence = time.Minute

// registries ask the registries of images for digests, for the API of every server.
type registries struct {
	ask func(ctx context.Context, reference string, as registry.Credentials) (string, error)

	mu     sync.Mutex
	silent map[string]silent // by registry
}

// silent is a registry that did not answer.
type silent struct {
	until time.Time
	why   string
}

func newRegistries() (*registries, error) {
	c, err := registry.New()
	if err != nil {
		return nil, err
	}
	return &registries{ask: c.Digest, silent: map[string]silent{}}, nil
}

// errLocal is why a registry on this machine is not asked.
var errLocal = errors.New("a registry on localhost is another one on each node")

// Digest asks a registry that is not known to be silent.
func (r *registries) Digest(ctx context.Context, reference, username, password string) (string, error) {
	ref, err := api.ParseImage(reference)
	if err != nil {
		return "", err
	}
	if isLocal(ref.Registry) {
		return "", errLocal
	}
	if why := r.silentBecause(ref.Registry, time.Now()); why != "" {
		return "", errors.New(why)
	}
	digest, err := r.ask(ctx, reference, registry.Credentials{Username: username, Password: password})
	t, ok := errors.AsType[*registry.Trouble](err)
	if err == nil || !ok {
		return digest, err
	}
	why := ref.Registry + ": " + t.Message
	if t.Silent {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.silent[ref.Registry] = silent{time.Now().Add(silence), why}
	}
	return "", errors.New(why)
}

// silentBecause says why a registry is not asked now, and forgets those that
// may be asked again.
func (r *registries) silentBecause(host string, now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, s := range r.silent {
		if !now.Before(s.until) {
			delete(r.silent, h)
		}
	}
	return r.silent[host].why
}

// isLocal reports whether a registry is the machine that asks.
func isLocal(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}
