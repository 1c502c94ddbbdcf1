package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// joined is what a server learned from those it has joined.
type joined struct {
	keys    *keys.Set
	members map[string]string // of the store
}

// admittedFile has the members of the store, until this one has served: a server
// that was let in, and whose first start ended before that, founds no cluster of
// its own with the next.
const admittedFile = "admitted"

// admit notes what joined says of the store, or forgets it with nil.
func (s *Server) admit(members map[string]string) error {
	path := filepath.Join(s.cfg.DataDir, admittedFile)
	if members == nil {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(members)
	if err != nil {
		return err
	}
	return pki.WriteFile(path, b)
}

// admitted returns what an earlier start noted, nil if it came to serve. Without
// keys it has not come far enough: it joins anew.
func (s *Server) admitted() (members map[string]string, err error) {
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, admittedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(s.cfg.DataDir, keysFile)); err != nil {
		return nil, nil
	}
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, fmt.Errorf("decode %s: %w", admittedFile, err)
	}
	return members, nil
}

// join asks the servers of a cluster to let this one in. Who is a member
// already, or founds a cluster, gets nothing.
func (s *Server) join(ctx context.Context, gossipAddr string) (j joined, err error) {
	if j.members, err = s.admitted(); err != nil || j.members != nil {
		return j, err
	}
	for _, sign := range []string{storeDir, placeFile} {
		if _, err := os.Stat(filepath.Join(s.cfg.DataDir, sign)); err == nil {
			return j, nil
		}
	}
	if len(s.cfg.Join) == 0 {
		if s.cfg.JoinToken != "" {
			return j, errors.New("there is a join token, and no --join: name servers of the cluster to join, or leave the token out to found a cluster")
		}
		return j, nil
	}
	token, err := pki.ParseJoinToken(s.cfg.JoinToken)
	if err != nil {
		return j, fmt.Errorf("--join needs a token of role server, by --token-file or CLUSTERD_JOIN_TOKEN: %w", err)
	}
	req := pki.JoinRequest{Role: pki.Server, Name: s.cfg.Name, Address: s.addr, Gossip: gossipAddr, Peer: s.peer, Level: s.cfg.Level, Program: daemon.UserAgent("clusterd")}
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
			if j.members != nil {
				err = s.admit(j.members)
			}
			return j, err
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
