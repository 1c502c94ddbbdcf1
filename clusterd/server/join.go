package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// joined is what a server learned from those it has joined.
type joined struct {
	keys    *keys.Set
	members map[string]string // of the store
}

// join asks the servers of a cluster to let this one in. Who is a member
// already, or founds a cluster, gets nothing.
func (s *Server) join(ctx context.Context, gossipAddr string) (j joined, err error) {
	if len(s.cfg.Join) == 0 {
		return j, nil
	}
	for _, sign := range []string{storeDir, placeFile} {
		if _, err := os.Stat(filepath.Join(s.cfg.DataDir, sign)); err == nil {
			return j, nil
		}
	}
	token, err := pki.ParseJoinToken(s.cfg.JoinToken)
	if err != nil {
		return j, fmt.Errorf("--join needs a token of role server, by --token-file or CLUSTERD_JOIN_TOKEN: %w", err)
	}
	req := pki.JoinRequest{Role: pki.Server, Name: s.cfg.Name, Address: s.addr, Gossip: gossipAddr, Peer: s.peer, Level: s.cfg.Level}
	for wait, i := time.Second, 0; ; i++ {
		at, err := hostPort("--join", s.cfg.Join[i%len(s.cfg.Join)], DefaultPort)
		if err != nil {
			return j, err
		}
		try, cancel := context.WithTimeout(ctx, 30*time.Second)
		res, err := pki.Join(try, at, token, req)
		cancel()
		_, refused := errors.AsType[*pki.RefusedError](err)
		_, stranger := errors.AsType[*pki.PinError](err)
		switch {
		case err == nil && res.Server == nil:
			return j, fmt.Errorf("join %s: it does not take servers", at)
		case err == nil:
			if j.keys, err = keys.Parse(res.Server.Keys); err != nil {
				return j, fmt.Errorf("join %s: %w", at, err)
			}
			j.members = res.Server.Members
			s.log.Info("joined the cluster", "server", at, "members", len(j.members))
			return j, nil
		case refused || stranger || ctx.Err() != nil:
			return j, err
		}
		s.log.Warn("not joined yet; trying again", "error", err)
		select {
		case <-ctx.Done():
			return j, err
		case <-time.After(wait):
		}
	}
}
