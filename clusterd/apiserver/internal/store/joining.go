package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
)

// A member that joins starts only with the very list of members that the
// cluster has at that moment. What it was told when it was let in is soon old:
// another member goes, or it starts a day later.

// Bounds of how long a member that joins looks for a list that holds.
const (
	joinTimeout = 15 * time.Second
	joinRetry   = 300 * time.Millisecond
	askTimeout  = 3 * time.Second // of one member
)

// start starts the member c with the list of today, if it has to join.
func (c EtcdConfig) start(ctx context.Context, cfg *embed.Config) (*embed.Etcd, error) {
	if _, err := os.Stat(filepath.Join(c.Dir, "member", "wal")); !c.Join || err == nil {
		return embed.StartEtcd(cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	for said := ""; ; {
		members, err := c.membersNow(ctx)
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

// membersNow asks the other members who all of them are. One that is behind may
// not know this one yet: whoever knows it is believed, of those at work the first
// in order of their addresses.
func (c EtcdConfig) membersNow(ctx context.Context) (map[string]string, error) {
	via, err := transport.NewTransport(c.peerTLS(), askTimeout)
	if err != nil {
		return nil, err
	}
	defer via.CloseIdleConnections()
	hc := &http.Client{Transport: via, Timeout: askTimeout}
	var others []string
	for name, address := range c.Members {
		if name != c.Name {
			others = append(others, address)
		}
	}
	slices.Sort(others)
	lists, errs := make([]map[string]string, len(others)), make([]error, len(others))
	var wg sync.WaitGroup
	for i, address := range others {
		wg.Go(func() {
			all, err := membersOf(ctx, hc, address)
			if err == nil {
				lists[i], err = nameMembers(all, c.Name, c.PeerAddress)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for _, list := range lists {
		if list != nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("no other member of the store takes this one for a member: %w", errors.Join(errs...))
}

// membersOf asks the member at address for what it knows of all.
func membersOf(ctx context.Context, hc *http.Client, address string) (all []*membership.Member, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peerURL(address)+"/members", nil)
	if err != nil {
		return nil, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&all); err != nil {
		return nil, fmt.Errorf("%s: %w", req.URL, err)
	}
	return all, nil
}

// nameMembers returns the addresses of members by name, in which the one at
// address is called self. Those without a name have not started yet.
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
		return nil, fmt.Errorf("the members of the store are at %s, and none is at %s", strings.Join(slices.Sorted(maps.Values(out)), ", "), address)
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
