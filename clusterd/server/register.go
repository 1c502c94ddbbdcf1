package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
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

// adminToken makes a token that may do everything, unless its file is there:
// whoever deletes the file gets a new one with the next start.
func (s *Server) adminToken(ctx context.Context) error {
	path := filepath.Join(s.cfg.DataDir, AdminTokenFile)
	if _, err := os.Stat(path); err == nil && !s.cfg.InMemory {
		return nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for the admin token: %w", err)
	}
	tok := pki.NewUserToken()
	o := &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{
		Role: api.RoleAdmin, Hash: tok.Hash(), Description: "made by server " + s.cfg.Name + " as it found no " + AdminTokenFile,
	}}
	// The object first: a file whose token nobody knows would be a riddle.
	if err := s.insist(ctx, func() error { _, err := client.Of(s.system, api.Tokens).Create(ctx, o); return err }); err != nil {
		return fmt.Errorf("create the admin token: %w", err)
	}
	if err := pki.WriteFile(path, []byte(tok.Reveal()+"\n")); err != nil {
		return fmt.Errorf("write the admin token: %w", err)
	}
	s.log.Info("wrote a new admin token", "path", path)
	return nil
}
