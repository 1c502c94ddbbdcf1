//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// servers are those the node talks to: who they are is learned from any of
// them, and remembered for the next start.
//
// Each of them hears how far the node's proxy has followed the endpoints, and
// keeps that in its memory alone: a pod that stops may ask any of them. They are
// told one by one, so that one which is down delays no other, and again whenever
// the node connects to one: it may have been started anew.
type servers struct {
	node string
	any  *client.Client // talks to one, and moves on when that fails
	lead *client.Client // likewise; for what only the leader answers, so that not all are drawn to it
	conf *tls.Config
	save func(addrs []string) error
	log  hclog.Logger

	mu      sync.Mutex
	each    map[string]*reporter // by host:port
	applied int64                // revision of the endpoints; 0 is not known yet
}

// reporter tells one server.
type reporter struct {
	client *client.Client
	wake   chan struct{}
	stop   chan struct{}
}

func openServers(node string, addrs []string, conf *tls.Config, save func([]string) error, log hclog.Logger) (*servers, error) {
	s := &servers{node: node, conf: conf, save: save, log: log, each: map[string]*reporter{}}
	var err error
	if s.any, err = s.client(addrs...); err != nil {
		return nil, err
	}
	if s.lead, err = s.client(addrs...); err != nil {
		return nil, err
	}
	return s, s.set(addrs)
}

func (s *servers) client(addrs ...string) (*client.Client, error) {
	return client.New(client.Config{Addresses: urls(addrs), TLS: s.conf, UserAgent: "nodeagent/" + daemon.Version()})
}

// close ends all connections.
func (s *servers) close() {
	s.set(nil)
	s.any.Close()
	s.lead.Close()
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
		c, err := s.client(addr)
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

func (r *reporter) poke() {
	select {
	case r.wake <- struct{}{}:
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
	defer r.client.Close()
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

// changed takes over who the servers are now.
func (s *servers) changed(addrs []string) {
	if slices.Equal(addrs, s.addrs()) {
		return
	}
	if err := errors.Join(s.any.Use(urls(addrs)), s.lead.Use(urls(addrs)), s.set(addrs), s.save(addrs)); err != nil {
		s.log.Warn("cannot take over who the servers are", "servers", addrs, "error", err)
		return
	}
	s.log.Info("the servers changed", "servers", addrs)
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
func (s *servers) renew(ctx context.Context, id *pki.Identity) error {
	var errs []error
	for _, addr := range s.addrs() {
		_, err := pki.Renew(ctx, addr, id)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
