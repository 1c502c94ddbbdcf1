package hollow

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Storage remembers what volumes there are, and keeps nothing in them.
type Storage struct {
	lookup func(ctx context.Context, namespace, name string) (*api.Volume, error)

	mu      sync.Mutex
	volumes map[string]int64           // size by UID
	pods    map[string]map[string]bool // sources of mounts by pod UID
	full    error
}

func lookup(c *client.Client) func(context.Context, string, string) (*api.Volume, error) {
	return func(ctx context.Context, namespace, name string) (*api.Volume, error) {
		return client.Of(c, api.Volumes).Get(ctx, namespace, name)
	}
}

// Fill makes every Mount that needs space fail with err; nil makes room.
func (s *Storage) Fill(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = err
}

// Volumes returns the sizes of the volumes that have data here, by UID.
func (s *Storage) Volumes() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.volumes)
}

// Mount notes what a pod mounts.
func (s *Storage) Mount(ctx context.Context, p *api.Pod) (map[string]string, error) {
	at := map[string]string{}
	uses := map[string]*api.Volume{}
	for _, u := range p.Spec.Uses() {
		v, err := s.lookup(ctx, p.Meta.Namespace, u.Name)
		if err != nil {
			return nil, err
		}
		uses[v.Meta.UID] = v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Spec.EachMount(func(_, target string, m api.Mount) { at[m.Source(target)] = "/hollow/" + m.Source(target) })
	if s.full != nil && len(at) > 0 {
		return nil, s.full
	}
	for uid, v := range uses {
		if s.volumes == nil {
			s.volumes = map[string]int64{}
		}
		s.volumes[uid] = max(s.volumes[uid], v.Effective.Size.Bytes())
	}
	if len(at) > 0 {
		if s.pods == nil {
			s.pods = map[string]map[string]bool{}
		}
		s.pods[p.Meta.UID] = map[string]bool{}
		for source := range at {
			s.pods[p.Meta.UID][source] = true
		}
	}
	return at, nil
}

// Full reports whether Fill was called.
func (s *Storage) Full(string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full != nil
}

// Unmount forgets a pod.
func (s *Storage) Unmount(_ context.Context, uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
	return nil
}

// List returns the UIDs that have something mounted.
func (s *Storage) List(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.pods)), nil
}

// Resize makes a volume that is here as large as it should be.
func (s *Storage) Resize(_ context.Context, v *api.Volume) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, here := s.volumes[v.Meta.UID]; here {
		s.volumes[v.Meta.UID] = max(s.volumes[v.Meta.UID], v.Effective.Size.Bytes())
	}
	return s.volumes[v.Meta.UID], nil
}

// Remove forgets a volume.
func (s *Storage) Remove(_ context.Context, uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, uid)
	return nil
}
