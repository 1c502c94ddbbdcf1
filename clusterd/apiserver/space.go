package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// The store has a quota, and what is full to the brim takes nothing, not even
// the statuses by which a cluster finds its way out. So from nine tenths of it
// on, only deletes and statuses are taken; and a file that is mostly air is
// packed anew, by one server at a time, and never by the one that leads.
const (
	spaceEvery = 5 * time.Second
	// packPause is how long the servers leave each other to catch up.
	packPause = 5 * time.Minute
	packKey   = root + ".pack"
)

// storeRoom is what this server knows of its store's space.
type storeRoom struct {
	last atomic.Pointer[store.Space]
	full atomic.Bool
}

// crowded reports whether the store is to take no more than deletes and
// statuses. Its own limit is on the file, air included.
func crowded(s store.Space) bool { return s.Quota > 0 && s.Size > s.Quota/10*9 }

// airy reports whether a file is worth packing: it is large, and half of it is
// air, or it is nearly full, and some of it is.
func airy(s store.Space) bool {
	return s.Size > s.Quota/4 && s.InUse < s.Size/2 || s.Size > s.Quota/4*3 && s.InUse < s.Size/10*9
}

// roomFor refuses a write of a spec when the store is nearly full.
func (t *txn) roomFor(ref api.Ref) error {
	if !t.s.room.full.Load() {
		return nil
	}
	sp := t.s.room.last.Load()
	return conflict(insufficientStorage, ref, "the store is nearly full, %d MB of %d: only deletes and statuses are taken; delete what nobody needs, and ask why there is so much: clusterd get events -A", sp.Size>>20, sp.Quota>>20)
}

// StoreUsed is how full this server's store is, in tenths.
func (s *Server) StoreUsed() int {
	if sp := s.room.last.Load(); sp != nil && sp.Quota > 0 {
		return int(sp.Size * 10 / sp.Quota)
	}
	return 0
}

// watchSpace looks after the store's room until ctx ends.
func (s *Server) watchSpace(ctx context.Context) {
	st, ok := s.store.(store.Spacious)
	if !ok {
		return
	}
	for ctx.Err() == nil {
		if err := s.lookAtSpace(ctx, st); err != nil && ctx.Err() == nil {
			s.log.Warn("the store's space", "error", err)
		}
		pause(ctx, spaceEvery)
	}
}

func (s *Server) lookAtSpace(ctx context.Context, st store.Spacious) error {
	sp, err := st.Space(ctx)
	if err != nil {
		return err
	}
	s.room.last.Store(&sp)
	switch full := crowded(sp); {
	case full && !s.room.full.Swap(true):
		s.log.Error("the store is nearly full: only deletes and statuses are taken", "size", sp.Size, "in_use", sp.InUse, "quota", sp.Quota)
	case !full && s.room.full.Swap(false):
		s.log.Info("the store has room again", "size", sp.Size, "in_use", sp.InUse, "quota", sp.Quota)
	}
	if !airy(sp) {
		return nil
	}
	if mine, err := s.mayPack(ctx); err != nil || !mine {
		return err
	}
	s.log.Info("packing the store", "size", sp.Size, "in_use", sp.InUse)
	if err := st.Defragment(ctx); err != nil {
		return err
	}
	return st.Disarm(ctx)
}

// packed is when a server packed its store last.
type packed struct {
	Server string    `json:"server"`
	At     time.Time `json:"at"`
}

// mayPack takes the turn to pack, once the server before has had time to catch
// up. A leader hands over first.
func (s *Server) mayPack(ctx context.Context) (bool, error) {
	if s.Leads() {
		if err := s.Yield(ctx); err != nil {
			return false, err
		}
		role, err := s.Role(ctx)
		if err != nil || role == api.ServerLeader && !s.alone(ctx) {
			return false, err // its turn comes when another one leads
		}
	}
	mine := false
	_, err := s.commit(ctx, caller{Identity: Identity{RoleSystem, "store"}}, func(t *txn) error {
		mine = false
		if o := t.read(packKey); o != nil {
			var last packed
			if err := json.Unmarshal(o.value, &last); err != nil {
				return fmt.Errorf("decode %s: %w", packKey, err)
			}
			if t.now.Sub(last.At) < packPause {
				return nil
			}
		}
		t.set(packKey, marshal(packed{s.cfg.Name, t.now}))
		mine = true
		return nil
	})
	if errors.Is(err, store.ErrFull) {
		return true, nil // nothing can be written before
	}
	return mine, err
}

// alone reports whether the store has no other member.
func (s *Server) alone(ctx context.Context) bool {
	m := s.membership()
	if m == nil {
		return true
	}
	members, err := m.Members(ctx)
	return err == nil && len(members) == 1
}
