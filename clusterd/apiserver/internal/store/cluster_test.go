package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
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
	cert, key := selfSigned(t)
	stores := three(ctx, t, cert, key)
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
	cert, key := selfSigned(t)
	stores := three(ctx, t, cert, key)
	leader := leaderOf(ctx, t, stores)
	out := stores[(leader+1)%3]
	members, err := out.Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	self := members[slices.IndexFunc(members, func(m store.Member) bool { return m.Self })]
	insist(t, func() error { return stores[leader].Remove(ctx, self.ID) })
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

// TestJoinWithAnOldList: who was let in starts also if another member went
// since; who is no member any more hears that.
func TestJoinWithAnOldList(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cert, key := selfSigned(t)
	stores := three(ctx, t, cert, key)
	leader := leaderOf(ctx, t, stores)
	told := map[string]string{"s3": unused(t)}
	members, err := stores[leader].Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var goes store.Member
	for _, m := range members {
		told[m.Name] = m.Address
		if !m.Self {
			goes = m
		}
	}
	insist(t, func() error { return stores[leader].AddLearner(ctx, told["s3"]) })
	insist(t, func() error { return stores[leader].Remove(ctx, goes.ID) })
	open := func(ctx context.Context, address string) (*store.Etcd, error) {
		return store.OpenEtcd(ctx, store.EtcdConfig{Dir: t.TempDir(), Name: "s3", PeerAddress: address,
			PeerCert: cert, PeerKey: key, PeerCA: cert, Members: told, Join: true})
	}
	s, err := open(ctx, told["s3"])
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	insist(t, func() error {
		members, err := stores[leader].Members(ctx)
		if err != nil {
			return err
		}
		if len(members) != 3 {
			t.Errorf("the members are %v", members)
		}
		for _, m := range members {
			if m.Name == "s3" {
				return nil
			}
		}
		return store.ErrUnsettled
	})
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := open(short, unused(t)); err == nil || errors.Is(err, store.ErrRemoved) || !strings.Contains(err.Error(), "and none is at") {
		t.Errorf("who is no member hears: %v", err)
	}
}

// insist does what cannot be done at once, until it is.
func insist(t *testing.T, do func() error) {
	t.Helper()
	for {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrUnsettled) || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// unused is an address on loopback that nothing listens on.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// three opens a store of three members, whose peers have that certificate.
func three(ctx context.Context, t *testing.T, cert, key string) []*store.Etcd {
	t.Helper()
	members := map[string]string{}
	for i := range 3 {
		members[fmt.Sprint("s", i)] = unused(t)
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
