//go:build linux

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/agent"
)

// servers are those the node talks to: who they are is learned from any of
// them, and remembered for the next start.
//
// Each of them hears how far the node's proxy has followed the endpoints, and
// keeps that in its memory alone: a pod that stops may ask any of them. They are
// told one by one, so that one which is down delays no other, and again whenever
// the node connects to one: it may have been started anew.
//
// All of these clients share one connection to each server.
type servers struct {
	node string
	any  *client.Client // talks to one, and moves on when that fails
	lead *client.Client // likewise; for what only the leader answers, so that not all are drawn to it
	id   *pki.Identity
	save func(membership) error
	log  hclog.Logger

	mu      sync.Mutex
	each    map[string]*reporter // by host:port
	applied int64                // revision of the endpoints; 0 is not known yet
	known   membership
	keys    []api.KeyIDs  // that servers have
	stale   chan struct{} // carries a signal when servers may have other keys than the node
}

// reporter tells one server.
type reporter struct {
	client *client.Client
	wake   chan struct{}
	stop   chan struct{}
}

func openServers(m membership, id *pki.Identity, save func(membership) error, log hclog.Logger) (*servers, error) {
	s := &servers{
		node: m.Name, id: id, save: save, log: log,
		each: map[string]*reporter{}, known: m, stale: make(chan struct{}, 1),
	}
	var err error
	urls := agent.URLs(m.Servers)
	if s.any, err = client.New(client.Config{Addresses: urls, TLS: id.ClientTLS(), UserAgent: daemon.UserAgent("nodeagent")}); err != nil {
		return nil, err
	}
	if s.lead, err = s.any.At(urls); err != nil {
		return nil, err
	}
	return s, s.set(m.Servers)
}

// close ends all connections.
func (s *servers) close() {
	s.set(nil)
	s.any.Close()
}

// set makes a reporter to each server.
func (s *servers) set(addrs []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, r := range s.each {
		if !slices.Contains(addrs, addr) {
			close(r.stop)
			delete(s.each, addr)
		}
	}
	for _, addr := range addrs {
		if s.each[addr] != nil {
			continue
		}
		c, err := s.any.At(agent.URLs([]string{addr}))
		if err != nil {
			return err
		}
		r := &reporter{c, make(chan struct{}, 1), make(chan struct{})}
		s.each[addr] = r
		go s.report(r)
		r.poke()
	}
	return nil
}

func (r *reporter) poke() { poke(r.wake) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reportTimeout bounds one report, and reportRetry is the wait before another.
const (
	reportTimeout = 3 * time.Second
	reportRetry   = time.Second
)

// report tells a server what is programmed whenever that changes, until r ends.
func (s *servers) report(r *reporter) {
	path := client.Path(api.Nodes.Info(), "", s.node) + "/applied"
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		s.mu.Lock()
		revision := s.applied
		s.mu.Unlock()
		if revision == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
		err := r.client.Call(ctx, http.MethodPost, path, nil, api.AppliedReport{Revision: revision}, nil)
		cancel()
		if err != nil {
			time.AfterFunc(reportRetry, r.poke)
		}
	}
}

// follow takes how far the proxy is, and has every server told.
func (s *servers) follow(_ context.Context, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = revision
	for _, r := range s.each {
		r.poke()
	}
	return nil
}

// connected has a server told that may have been started anew.
func (s *servers) connected(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.each[addr]; r != nil {
		r.poke()
	}
}

// changed takes over who the servers are now, and what keys they have.
func (s *servers) changed(all []*api.Server) {
	var keys []api.KeyIDs
	for _, srv := range all {
		if srv.Status.Keys != (api.KeyIDs{}) && srv.Status.Role != api.ServerDead {
			keys = append(keys, srv.Status.Keys)
		}
	}
	s.mu.Lock()
	s.keys = keys
	s.mu.Unlock()
	if s.behind() {
		poke(s.stale)
	}
	addrs := agent.Addresses(all)
	if slices.Equal(addrs, s.addrs()) {
		return
	}
	if err := errors.Join(s.any.Use(agent.URLs(addrs)), s.lead.Use(agent.URLs(addrs)), s.set(addrs), s.remember(func(m *membership) { m.Servers = addrs })); err != nil {
		s.log.Warn("cannot take over who the servers are", "servers", addrs, "error", err)
		return
	}
	s.log.Info("the servers changed", "servers", addrs)
}

// remember changes what the node knows of its cluster, on disk first.
func (s *servers) remember(change func(*membership)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.known
	change(&m)
	if err := s.save(m); err != nil {
		return err
	}
	s.known = m
	return nil
}

// ids says which of the keys that members share the node has.
func (s *servers) ids() api.KeyIDs {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.KeyIDs{Authorities: pki.AuthorityIDs(s.id.CA()), Gossip: pki.KeyIDs(s.known.GossipKeys)}
}

// behind reports whether some server has other keys than the node.
func (s *servers) behind() bool {
	has := s.ids()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.keys, func(k api.KeyIDs) bool { return k != has })
}

// Bounds of when nodes ask for new keys: not all at once, and not for ever at
// once either while servers differ.
const (
	keysSpread = 2 * time.Second
	keysAgain  = time.Second
)

// followKeys has the node take over the keys of the servers whenever they
// change, until ctx ends; told hears of it.
func (s *servers) followKeys(ctx context.Context, told func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.stale:
		}
		for wait := rand.N(keysSpread); s.behind(); wait = keysAgain {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			if err := s.renew(ctx); err != nil {
				s.log.Warn("the cluster has new keys, and the node cannot get them yet", "error", err)
				continue
			}
			told()
		}
	}
}

func (s *servers) addrs() (addrs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr := range s.each {
		addrs = append(addrs, addr)
	}
	slices.Sort(addrs)
	return addrs
}

// renew gets a new certificate from whichever server gives one, and what else
// members share now.
func (s *servers) renew(ctx context.Context) error {
	var errs []error
	for _, addr := range s.addrs() {
		res, err := pki.Renew(ctx, addr, daemon.UserAgent("nodeagent"), s.id)
		if err == nil {
			return s.remember(func(m *membership) { m.GossipKeys = res.GossipKeys })
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
