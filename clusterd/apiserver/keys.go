package apiserver

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
)

// keysKey holds the keys that the servers share, sealed. Whoever seals
// something with them reads it in the same transaction, so nothing is ever
// sealed with a key that another server, or a rotation, has just taken away.
const keysKey = root + ".keys"

// opened is the keys as one revision of the store has them.
type opened struct {
	revision int64
	set      *keys.Set
}

// foundKeys puts the keys of a new cluster into its store, and checks that
// those of an older one open.
func (s *Server) foundKeys(ctx context.Context) error {
	if s.cfg.Keys == nil {
		set, err := keys.New(s.cfg.Name)
		if err != nil {
			return err
		}
		s.cfg.Keys = set
	}
	if s.cfg.Founded {
		return s.checkKeys(ctx)
	}
	_, err := s.store.Commit(ctx, store.Txn{
		If:   []store.Compare{{Key: keysKey}},
		Then: []store.Op{store.Put(keysKey, s.cfg.Keys.Seal())},
	})
	if _, there := errors.AsType[*store.ConflictError](err); !there {
		return err
	}
	return s.checkKeys(ctx)
}

func (s *Server) checkKeys(ctx context.Context) error {
	e, err := s.store.Get(ctx, keysKey)
	if errors.Is(err, store.ErrNotFound) {
		return errors.New("the store has no cluster, and this server is of one")
	}
	if err != nil {
		return err
	}
	_, err = s.openKeys(&object{key: keysKey, value: e.Value})
	return err
}

// openKeys returns the keys that o holds.
func (s *Server) openKeys(o *object) (*keys.Set, error) {
	if o == nil {
		return nil, errors.New("the store has lost the cluster's keys: restore it from a backup")
	}
	if last := s.opened.Load(); last != nil && o.meta.Revision != 0 && last.revision == o.meta.Revision {
		return last.set, nil
	}
	set, err := keys.Open(s.cfg.Keys.Root, o.value)
	if err != nil {
		return nil, err
	}
	if o.meta.Revision != 0 {
		s.opened.Store(&opened{o.meta.Revision, set})
	}
	return set, nil
}

// keys returns the keys to seal with; the transaction fails if they change
// meanwhile.
func (t *txn) keys() (*keys.Set, error) { return t.s.openKeys(t.read(keysKey)) }

// changeKeys makes another set of the cluster's keys: change is given a copy of
// the one there is, and returns what becomes of it.
func (s *Server) changeKeys(ctx context.Context, by caller, change func(*snapshot, *keys.Set) (*keys.Set, error)) (set *keys.Set, err error) {
	_, err = s.commit(ctx, by, func(t *txn) error {
		now, err := t.keys()
		if err != nil {
			return err
		}
		next := *now
		if set, err = change(t.snap, &next); err != nil {
			return err
		}
		t.set(keysKey, set.Seal())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("change the cluster's keys: %w", err)
	}
	return set, nil
}

// Keys yields the keys that the servers share, at once and whenever they
// change, until ctx ends.
func (s *Server) Keys(ctx context.Context) iter.Seq[*keys.Set] {
	return func(yield func(*keys.Set) bool) {
		for last := int64(0); ; {
			advanced := s.cache.next()
			if snap := s.cache.now.Load(); snap != nil && snap.revisionOf(keysKey) != last {
				last = snap.revisionOf(keysKey)
				set, err := s.openKeys(snap.get(keysKey))
				if err != nil {
					s.log.Error("the cluster's keys", "error", err)
				} else if !yield(set) {
					return
				}
			}
			select {
			case <-advanced:
			case <-ctx.Done():
				return
			}
		}
	}
}
