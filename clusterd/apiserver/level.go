package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// The cluster has a level, see api.Level. It only grows: the leader raises it
// to what every registered server knows, those included that are dead, since
// they may come back. A server that does not know the store's level touches
// nothing of it; so while an upgrade goes on its servers may go back, and after
// it none can.

// levelKey has the cluster's level; a store of before it had one is at the first.
const levelKey = root + ".level"

const firstLevel = 1

// levelRecord is the value of levelKey.
type levelRecord struct {
	Level   int    `json:"level"`
	Server  string `json:"server"` // who raised it
	Version string `json:"version"`
}

func openLevel(raw []byte) (levelRecord, error) {
	r := levelRecord{Level: firstLevel}
	if len(raw) > 0 {
		if err := wire.Unmarshal(raw, &r); err != nil {
			return r, fmt.Errorf("decode the cluster's level: %w", err)
		}
	}
	return r, nil
}

// misfit says why this server cannot be one of a cluster at r, or nil.
func (s *Server) misfit(r levelRecord) error {
	why := api.ServesLevel(s.cfg.Level, r.Level)
	if why == "" {
		return nil
	}
	by := ""
	if r.Server != "" {
		by = fmt.Sprintf(" (so made by server %s, version %s)", r.Server, r.Version)
	}
	return fmt.Errorf("the cluster is at level %d%s, and this server, version %s, knows level %d: %s", r.Level, by, s.cfg.Version, s.cfg.Level, why)
}

// checkLevel refuses a store whose level this server does not know, before
// anything is written.
func (s *Server) checkLevel(ctx context.Context) error {
	_, err := s.store.Get(ctx, s.kinds["namespaces"].key("", api.DefaultNamespace))
	if errors.Is(err, store.ErrNotFound) { // founded now: see bootstrap
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a cluster in the store: %w", err)
	}
	e, err := s.store.Get(ctx, levelKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read the cluster's level: %w", err)
	}
	r, err := openLevel(e.Value)
	if err != nil {
		return err
	}
	return s.misfit(r)
}

// levelOf is the cluster's level in a snapshot.
func levelOf(snap *snapshot) (levelRecord, error) {
	if o := snap.get(levelKey); o != nil {
		return openLevel(o.value)
	}
	return openLevel(nil)
}

// planLevel says to which level the cluster can go whose servers know these.
func planLevel(at int, known []int) int {
	if len(known) == 0 { // the founder has not registered yet
		return at
	}
	least := max(known[0], firstLevel) // 0 is from before there were levels
	for _, l := range known[1:] {
		least = min(least, max(l, firstLevel))
	}
	return max(at, least)
}

// levelEvery is how often servers look at the level.
const levelEvery = time.Second

// tendLevel raises the cluster's level while this server leads. It ends with
// an error once the level is none that this server knows: it was started with
// an older version at the moment the upgrade was complete.
func (s *Server) tendLevel(ctx context.Context) error {
	const none = -1
	looked := int64(none) // at this revision, as the leader
	for {
		if pause(ctx, levelEvery); ctx.Err() != nil {
			return nil
		}
		snap := s.cache.now.Load()
		if snap == nil || snap.revision == looked {
			continue
		}
		at, err := levelOf(snap)
		if err == nil {
			err = s.misfit(at)
		}
		if err != nil {
			return err
		}
		if !s.Leads() {
			looked = none
			continue
		}
		looked = snap.revision
		if err := s.raiseLevel(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("raise the cluster's level", "error", err)
			looked = none
		}
	}
}

// levels are the cluster's level and the one that every server knows.
func (t *txn) levels() (from, to int, err error) {
	at, err := levelOf(t.snap)
	if err != nil {
		return 0, 0, err
	}
	var known []int
	for _, o := range t.servers() {
		t.read(o.key) // one that says something else meanwhile
		var st api.ServerStatus
		if len(o.status) > 0 {
			if err := json.Unmarshal(o.status, &st); err != nil {
				return 0, 0, fmt.Errorf("decode status of %s: %w", o.ref(), err)
			}
		}
		known = append(known, st.Level)
	}
	return at.Level, planLevel(at.Level, known), nil
}

// raiseLevel writes the level that every server knows, if it is a higher one.
func (s *Server) raiseLevel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	by := caller{Identity: Identity{RoleSystem, "level"}}
	snap := s.cache.now.Load()
	if snap == nil {
		return nil
	}
	if from, to, err := s.newTxn(snap, by).levels(); err != nil || from == to {
		return err
	}
	var from, to int
	_, err := s.commit(ctx, by, func(t *txn) (err error) {
		if from, to, err = t.levels(); err == nil && from != to {
			t.read(levelKey)
			t.set(levelKey, marshal(levelRecord{to, s.cfg.Name, s.cfg.Version}))
		}
		return err
	})
	if err == nil && from != to {
		s.log.Info("all servers know a higher level: the cluster is at it, and none can go back", "from", from, "level", to)
	}
	return err
}

// checkJoinLevel refuses a server that cannot be one of the cluster.
func (t *txn) checkJoinLevel(req pki.JoinRequest) error {
	t.read(levelKey)
	at, err := levelOf(t.snap)
	if err != nil {
		return err
	}
	level := max(req.Level, firstLevel)
	if why := api.ServesLevel(level, at.Level); why != "" {
		return conflict(api.Conflict, t.s.kinds["servers"].ref("", req.Name), "the cluster is at level %d, and this server knows level %d: %s", at.Level, level, why)
	}
	return nil
}
