//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// membership is what a join taught the node about its cluster.
type membership struct {
	Name       string       `json:"name"`
	Address    string       `json:"address"`
	Subnet     netip.Prefix `json:"subnet"`
	Pods       netip.Prefix `json:"pods"`
	Services   netip.Prefix `json:"services"`
	Servers    []string     `json:"servers"` // host:port
	GossipKeys [][]byte     `json:"gossip_keys"`
	Token      string       `json:"token,omitempty"` // id of the one it joined with
}

func (s *settings) membershipFile() string { return filepath.Join(s.DataDir, "cluster.json") }

func (s *settings) loadMembership() (m membership, err error) {
	b, err := os.ReadFile(s.membershipFile())
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s: %w", s.membershipFile(), err)
	}
	return m, nil
}

func (s *settings) saveMembership(m membership) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return pki.WriteFile(s.membershipFile(), b)
}

// join returns what the node knows of its cluster; the first time, it asks to
// be let in. The identity is saved last: without it, the node has not joined.
func (s *settings) join(ctx context.Context, log hclog.Logger) (membership, error) {
	id, err := pki.LoadIdentity(s.identityDir())
	if err == nil && time.Now().Before(id.Leaf().NotAfter) && !s.expelled(ctx, log) {
		return s.rejoin(id, log)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return membership{}, err
	}
	token, terr := s.joinToken()
	switch {
	case terr == nil:
	case err == nil:
		return membership{}, fmt.Errorf("the node's certificate expired on %s: join again, with a new token (%w)", id.Leaf().NotAfter.Format(time.DateTime), terr)
	default:
		return membership{}, terr
	}
	if s.server == "" {
		return membership{}, errors.New("this machine is not in a cluster yet: say which to join with --server host:port")
	}
	if err := s.reachable(s.server); err != nil {
		return membership{}, err
	}
	res, err := s.knock(ctx, token, log)
	if err != nil {
		return membership{}, err
	}
	m := membership{Name: s.Name, Address: s.Address, Servers: res.Servers, GossipKeys: res.GossipKeys, Token: token.ID}
	if len(m.Servers) == 0 {
		m.Servers = []string{s.server}
	}
	for _, p := range []struct {
		to   *netip.Prefix
		text string
	}{{&m.Subnet, res.Node.Subnet}, {&m.Pods, res.Cluster.PodsCIDR}, {&m.Services, res.Cluster.ServicesCIDR}} {
		if *p.to, err = netip.ParsePrefix(p.text); err != nil {
			return m, fmt.Errorf("join %s: the answer: %w", s.server, err)
		}
	}
	if err := s.saveMembership(m); err != nil {
		return m, err
	}
	log.Info("joined the cluster", "server", s.server, "subnet", m.Subnet)
	return m, res.Identity.Save(s.identityDir())
}

// expelled reports whether the node was deleted, and has a token that it did not
// join with: it was given that to join anew. Where nobody says so, it is a member.
func (s *settings) expelled(ctx context.Context, log hclog.Logger) bool {
	c, m, err := s.client()
	if err != nil {
		return false
	}
	defer c.Close()
	if token, err := s.joinToken(); err != nil || token.ID == m.Token {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = client.Of(c, api.Nodes).Get(ctx, "", m.Name)
	if !api.Is(err, api.Unauthenticated) {
		return false
	}
	if s.server == "" && len(m.Servers) > 0 {
		s.server = m.Servers[0]
	}
	log.Info("this node is no member any more: it joins anew, with the new token", "node", m.Name, "reason", err)
	return true
}

// rejoin is the start of a node that is a member already. The token that it
// joined with may stay in its settings; another one was given to some end.
func (s *settings) rejoin(id *pki.Identity, log hclog.Logger) (membership, error) {
	m, err := s.loadMembership()
	if err != nil {
		return m, fmt.Errorf("the node has an identity and not what belongs to it: remove %s to join anew: %w", s.identityDir(), err)
	}
	if id.ID().Name != m.Name || s.Name != m.Name {
		return m, fmt.Errorf("%s belongs to node %s, not to %s: give --name %s, or another --data-dir", s.DataDir, m.Name, s.Name, m.Name)
	}
	if token, err := s.joinToken(); err == nil && token.ID != m.Token {
		log.Warn("the join token is not used, as this machine is a node already: to join anew with it, remove the identity, and start again",
			"node", m.Name, "token", token.ID, "identity", s.identityDir())
	}
	if s.Address != "" && s.Address != m.Address { // the machine moved
		m.Address = s.Address
		err = s.saveMembership(m)
	}
	s.Address = m.Address
	return m, err
}

// lingers is how long a server may take this machine for one that lives, after
// it has lost its power and its identity: it notices within seconds.
const lingers = 10 * time.Second

// knock asks until somebody is there to answer.
func (s *settings) knock(ctx context.Context, token pki.JoinToken, log hclog.Logger) (res *pki.JoinResult, err error) {
	err = insist(ctx, log, func(ctx context.Context) error {
		res, err = pki.Join(ctx, s.server, token, pki.JoinRequest{Name: s.Name, Address: s.Address, Labels: s.labels, Program: daemon.UserAgent("nodeagent")})
		return err
	})
	return res, err
}

// insist tries to join until it succeeds or is refused for good.
func insist(ctx context.Context, log hclog.Logger, join func(context.Context) error) error {
	began := time.Now()
	for warned := false; ; {
		attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := join(attempt)
		cancel()
		if err == nil {
			return nil
		}
		no, refused := errors.AsType[*pki.RefusedError](err)
		if refused && no.Status == http.StatusConflict && time.Since(began) < lingers {
			refused = false // the name is taken, perhaps by what this machine was
		}
		_, stranger := errors.AsType[*pki.PinError](err)
		if refused || stranger || ctx.Err() != nil {
			return err
		}
		if !warned {
			log.Warn("not joined yet; trying again", "error", err)
			warned = true
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// envToken is the variable that may hold the join token.
const envToken = "CLUSTERD_JOIN_TOKEN"

func (s *settings) joinToken() (pki.JoinToken, error) {
	text := s.token
	if text == "" && s.tokenFile != "" {
		b, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return pki.JoinToken{}, fmt.Errorf("--token-file: %w", err)
		}
		text = string(b)
	}
	if text == "" {
		text = os.Getenv(envToken)
	}
	if text == "" {
		return pki.JoinToken{}, errors.New("this machine needs a join token: make one on a server with clusterd token create --role node, and give it by --token-file or CLUSTERD_JOIN_TOKEN")
	}
	return pki.ParseJoinToken(strings.TrimSpace(text))
}
