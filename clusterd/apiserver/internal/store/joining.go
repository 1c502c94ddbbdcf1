package store

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
)

// A member that joins starts only with the very list of members that the
// cluster has at that moment. What it was told when it was let in is soon old:
// another member goes, or it starts a day later.

// Bounds of how long a member that joins looks for a list that holds.
const (
	joinTimeout = 15 * time.Second
	joinRetry   = 300 * time.Millisecond
)

// start starts the member c with the list of today, if it has to join.
func (c EtcdConfig) start(ctx context.Context, cfg *embed.Config) (*embed.Etcd, error) {
	if _, err := os.Stat(filepath.Join(c.Dir, "member", "wal")); !c.Join || err == nil {
		return embed.StartEtcd(cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	for said := ""; ; {
		members, err := c.membersNow()
		if err == nil {
			cfg.InitialCluster = initialCluster(members)
			var member *embed.Etcd
			if member, err = embed.StartEtcd(cfg); err == nil || !strings.Contains(err.Error(), "error validating peerURLs") {
				return member, err
			}
		}
		if said != err.Error() {
			said = err.Error()
			c.logger().Warn("cannot join the store yet: members reach each other by their peer addresses, in both directions", "peer", c.PeerAddress, "reason", err)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(joinRetry):
		}
	}
}

// membersNow asks the other members who all of them are. Those without a name
// have not started yet: this one is known by its address. ErrRemoved if it is
// none of them.
func (c EtcdConfig) membersNow() (map[string]string, error) {
	via, err := transport.NewTransport(c.peerTLS(), 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer via.CloseIdleConnections()
	var others []string
	for name, address := range c.Members {
		if name != c.Name {
			others = append(others, peerURL(address))
		}
	}
	slices.Sort(others)
	now, err := etcdserver.GetClusterFromRemotePeers(nil, others, via)
	if err != nil {
		return nil, err
	}
	return nameMembers(now.Members(), c.Name, c.PeerAddress)
}

// nameMembers returns the addresses of members by name, in which the one at
// address is called self.
func nameMembers(all []*membership.Member, self, address string) (map[string]string, error) {
	out := map[string]string{}
	for _, m := range all {
		switch {
		case slices.Contains(m.PeerURLs, peerURL(address)):
			out[self] = address
		case len(m.PeerURLs) > 0:
			at := strings.TrimPrefix(m.PeerURLs[0], peerURL(""))
			name := m.Name
			if name == "" || name == self { // of a former life
				name = "at " + at
			}
			out[name] = at
		}
	}
	if out[self] == "" {
		return nil, fmt.Errorf("the members of the store are %s, and none is at %s: %w", strings.Join(slices.Sorted(maps.Values(out)), ", "), address, ErrRemoved)
	}
	return out, nil
}

func peerURL(address string) string { return "https://" + address }

// initialCluster writes members as etcd takes them.
func initialCluster(members map[string]string) string {
	var all []string
	for name, address := range members {
		all = append(all, name+"="+peerURL(address))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}
