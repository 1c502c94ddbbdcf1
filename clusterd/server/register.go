package server

import (
	"context"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
)

// register makes the server known to the cluster and the admin's token known
// to the admin, then keeps the server's status current.
func (s *Server) register(ctx context.Context) error {
	if err := s.adminToken(ctx); err != nil {
		return err
	}
	servers := client.Of(s.system, api.Servers)
	me := &api.Server{
		Meta:   api.Meta{Name: s.cfg.Name},
		Spec:   api.ServerSpec{Address: s.addr, Gossip: s.gossip.Addr(), Peer: s.peer},
		Status: api.ServerStatus{Version: daemon.Version(), Level: s.cfg.Level, StartedAt: time.Now()},
	}
	if err := s.insist(ctx, func() error { _, err := servers.Put(ctx, me); return err }); err != nil {
		return err
	}
	close(s.ready)
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		if err := s.tellRole(ctx, me); err != nil {
			s.log.Debug("cannot tell what this server is", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// tellRole writes what this server is to the store, when the cluster has
// something else; a leader also says whom it misses, and that nobody else leads.
func (s *Server) tellRole(ctx context.Context, me *api.Server) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	role, err := s.api.Role(ctx)
	if err != nil {
		return err
	}
	me.Status.Role, me.Status.StoreUsed, me.Status.Keys = role, s.api.StoreUsed(), s.creds.ids()
	me.Status.Message = ""
	if role == api.ServerLearner {
		me.Status.Message = "receives what the store has; it gets its vote by itself"
	}
	servers := client.Of(s.system, api.Servers)
	all, _, err := servers.List(ctx, "", client.Filter{"stale": {"true"}})
	if err != nil {
		return err
	}
	for _, other := range all {
		switch {
		case other.Meta.Name == s.cfg.Name && other.Status != me.Status:
			other.Status = me.Status
		case other.Meta.Name != s.cfg.Name && role == api.ServerLeader && other.Status.Role != api.ServerDead && s.witness.dead(other.Meta.Name, other.Meta.CreatedAt):
			s.log.Warn("a server is missed", "server", other.Meta.Name, "address", other.Spec.Address)
			other.Status.Role = api.ServerDead
			other.Status.Message = "the other servers miss it: start it again, or take it out with: clusterd delete server " + other.Meta.Name
		case other.Meta.Name != s.cfg.Name && role == api.ServerLeader && other.Status.Role == api.ServerLeader:
			other.Status.Role = s.follower() // it led until now, and cannot say so itself
		default:
			continue
		}
		if _, err := servers.PutStatus(ctx, other); err != nil {
			return err
		}
	}
	return nil
}

// follower is what a server is that lives, and does not lead.
func (s *Server) follower() api.ServerRole {
	if len(s.cfg.Etcd.Endpoints) > 0 {
		return api.ServerStandby
	}
	return api.ServerVoter
}

// insist calls f until the cluster is ready for it.
func (s *Server) insist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !api.Is(err, api.Unready) {
			return err
		}
		s.log.Warn("the store is not ready", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
