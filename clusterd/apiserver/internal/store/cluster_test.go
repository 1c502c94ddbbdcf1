package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
)

// TestEtcdThreeMembers: what one member acknowledged every other reads at
// once; when the leader goes, another leads, and watches on the rest go on.
func TestEtcdThreeMembers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stores := three(ctx, t)
	put := func(s *store.Etcd, key string) int64 {
		t.Helper()
		for {
			rev, err := s.Commit(ctx, store.Txn{Then: []store.Op{store.Put(key, []byte("x"))}})
			if err == nil {
				return rev
			}
			if !errors.Is(err, store.ErrNoLeader) {
				t.Fatal(err)
			}
		}
	}
	for i, s := range stores {
		rev := put(s, fmt.Sprint("/k", i))
		other := stores[(i+1)%3]
		if got, err := other.Revision(ctx); err != nil || got < rev {
			t.Errorf("another member reads at %d after %d: %v", got, rev, err)
		}
		if _, err := other.Get(ctx, fmt.Sprint("/k", i)); err != nil {
			t.Error(err)
		}
	}
	leader := leaderOf(ctx, t, stores)
	var rest []*store.Etcd
	for i, s := range stores {
		if i != leader {
			rest = append(rest, s)
		}
	}
	from, err := rest[0].Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	go func() {
		for from := from; ; {
			for b, err := range rest[0].Watch(ctx, "/after", from) {
				if err != nil {
					break // taken up where it ended
				}
				from = b.Revision
				if len(b.Events) > 0 {
					seen <- b.Events[0].Key
					return
				}
			}
		}
	}()
	stores[leader].Close()
	leaderOf(ctx, t, rest)
	put(rest[1], "/after")
	select {
	case <-seen:
	case <-ctx.Done():
		t.Error("the watch saw nothing")
	}
}

// TestRemovedMemberIsAsked: a member that is taken out hears of it before it
// stops, and what it is asked until then is answered.
func TestRemovedMemberIsAsked(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stores := three(ctx, t)
	leader := leaderOf(ctx, t, stores)
	out := stores[(leader+1)%3]
	members, err := out.Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	self := members[slices.IndexFunc(members, func(m store.Member) bool { return m.Self })]
	for err = store.ErrUnsettled; errors.Is(err, store.ErrUnsettled); {
		err = stores[leader].Remove(ctx, self.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := out.Space(ctx); err != nil && !errors.Is(err, store.ErrNoLeader) {
			t.Fatal(err)
		}
		select {
		case <-out.Stopped():
			return
		case <-ctx.Done():
			t.Fatal("the member that was removed goes on")
		default:
		}
	}
}

// three opens a store of three members.
func three(ctx context.Context, t *testing.T) []*store.Etcd {
	t.Helper()
	cert, key := selfSigned(t)
	members := map[string]string{}
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		members[fmt.Sprint("s", i)] = l.Addr().String()
		l.Close()
	}
	stores := make([]*store.Etcd, 3)
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			name := fmt.Sprint("s", i)
			s, err := store.OpenEtcd(ctx, store.EtcdConfig{Dir: t.TempDir(), Name: name, PeerAddress: members[name],
				PeerCert: cert, PeerKey: key, PeerCA: cert, Members: members})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { s.Close() })
			stores[i] = s
		})
	}
	if wg.Wait(); t.Failed() {
		t.FailNow()
	}
	return stores
}

// leaderOf waits until one of the stores leads.
func leaderOf(ctx context.Context, t *testing.T, stores []*store.Etcd) int {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leads := make(chan int, len(stores))
	for i, s := range stores {
		go func() {
			for is := range s.Leading(ctx) {
				if is {
					leads <- i
					return
				}
			}
		}()
	}
	select {
	case i := <-leads:
		return i
	case <-ctx.Done():
		t.Fatal("nobody leads")
		return 0
	}
}
