package store_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store/storetest"
	"github.com/clusterd/terraform-provider-clusterd/internal/etcdtest"
)

func openExternal(t testing.TB, c store.ExternalConfig) *store.External {
	t.Helper()
	s, err := store.OpenExternal(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func at(endpoint, name string) store.ExternalConfig {
	return store.ExternalConfig{Endpoints: []string{endpoint}, Prefix: "/clusterd", Name: name}
}

// withTLS makes an etcd ask for, and show, a certificate.
func withTLS(cert, key string) func(*embed.Config) {
	return func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme = "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: cert, ClientCertAuth: true}
	}
}

func TestExternal(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openExternal(t, at(etcdtest.Start(t, nil), "s1")) })
}

// TestExternalIsShared: what others write into the etcd is neither seen nor
// waited for, and what is written here has revisions that a watch here reaches.
func TestExternalIsShared(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	end := etcdtest.Start(t, nil)
	s := openExternal(t, at(end, "s1"))
	neighbour := at(end, "s1")
	neighbour.Prefix = "/clusterd2"
	other := openExternal(t, neighbour)
	put := func(s *store.External, key string) int64 {
		t.Helper()
		rev, err := s.Commit(ctx, store.Txn{Then: []store.Op{store.Put(key, []byte("x"))}})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	from := put(s, "/a")
	put(other, "/b")
	put(other, "/c")
	if now, err := s.Revision(ctx); err != nil || now != from {
		t.Errorf("at %d after a write at %d, and others' writes: %v", now, from, err)
	}
	_, err := s.Commit(ctx, store.Txn{If: []store.Compare{{Key: "/a"}}, Then: []store.Op{store.Put("/a", nil)}})
	if c, ok := errors.AsType[*store.ConflictError](err); !ok || c.Revision != from {
		t.Errorf("a conflict at a revision that the watch does not reach: %v", err)
	}
	if p, err := s.List(ctx, store.Range{}); err != nil || len(p.Entries) != 1 || p.Entries[0].Key != "/a" {
		t.Errorf("lists %+v: %v", p, err)
	}
	rev, err := s.Commit(ctx, store.Txn{Then: []store.Op{store.Delete("/absent")}})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := range s.Watch(ctx, "/", from) {
		if err != nil || len(b.Events) > 0 {
			t.Fatalf("the watch saw %+v: %v", b, err)
		}
		if b.Revision >= rev {
			return
		}
	}
	t.Errorf("the watch does not reach revision %d", rev)
}

// TestExternalElection: one leads; who yields, closes, or falls silent is
// followed by another.
func TestExternalElection(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	end := etcdtest.Start(t, nil)
	one, two := openExternal(t, at(end, "s1")), openExternal(t, at(end, "s2"))
	await := func(s *store.External, want bool) {
		t.Helper()
		for is := range s.Leading(ctx) {
			if is == want {
				return
			}
		}
		t.Fatalf("leading is not %v", want)
	}
	await(one, true)
	await(two, false)
	waiting := func(n int64) { // in line
		t.Helper()
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{end}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for {
			r, err := c.Get(ctx, "/clusterd/leader/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil {
				t.Fatal(err)
			}
			if r.Count == n {
				return
			}
		}
	}
	waiting(2)
	if err := two.Yield(ctx); err != nil {
		t.Errorf("who does not lead has nothing to yield: %v", err)
	}
	if err := one.Yield(ctx); err != nil {
		t.Fatal(err)
	}
	await(two, true)
	await(one, false)
	waiting(2)
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	await(two, false)
	await(one, true)
	three := openExternal(t, at(end, "s3"))
	await(three, false)
	waiting(2)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{end}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Get(ctx, "/clusterd/leader/", clientv3.WithFirstCreate()...)
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Kvs[0].Value) != "s1" {
		t.Fatalf("%s leads", r.Kvs[0].Value)
	}
	if _, err := c.Revoke(ctx, clientv3.LeaseID(r.Kvs[0].Lease)); err != nil { // as if it had run out
		t.Fatal(err)
	}
	await(three, true)
	await(one, false)
}

// leading tells whether s leads, at each change, until ctx ends.
func leading(ctx context.Context, all *sync.WaitGroup, s *store.External) <-chan bool {
	leads := make(chan bool)
	all.Go(func() {
		for is := range s.Leading(ctx) {
			select {
			case leads <- is:
			case <-ctx.Done():
				return
			}
		}
	})
	return leads
}

// TestExternalOutage: while the etcd is away writes wait for it until they are
// given up, and nobody leads; once it is back everything goes on, watches too.
func TestExternalOutage(t *testing.T) {
	t.Parallel() // an etcd that is stopped waits for its clients, for seconds
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	place := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	run := func() (string, func()) {
		return etcdtest.Run(t, func(cfg *embed.Config) { cfg.Dir, cfg.ListenClientUrls = dir, []url.URL{place} })
	}
	endpoint, stop := run()
	place.Host = strings.TrimPrefix(endpoint, "http://")
	s := openExternal(t, at(endpoint, "s1"))
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	leads := leading(ctx, &all, s)
	until := func(want bool) {
		t.Helper()
		for is := range leads {
			if is == want {
				return
			}
		}
	}
	until(true)
	put := func(key string) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return s.Commit(ctx, store.Txn{Then: []store.Op{store.Put(key, nil)}})
	}
	from, err := put("/before")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string)
	all.Go(func() {
		for b, err := range s.Watch(ctx, "/", from) {
			if err != nil {
				t.Error(err)
				return
			}
			for _, ev := range b.Events {
				select {
				case seen <- ev.Key:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	stop()
	if _, err := put("/during"); err == nil {
		t.Error("a write was taken without an etcd")
	}
	until(false)
	run()
	for _, err = put("/after"); err != nil && ctx.Err() == nil; { // once its connection is tried again
		_, err = put("/after")
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case key := <-seen:
		if key != "/after" {
			t.Errorf("the watch saw %s", key)
		}
	case <-ctx.Done():
		t.Error("the watch sees nothing any more")
	}
	until(true)
	cancel() // the watch's end is no failure
	all.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestExternalGoesBack: an etcd that has lost what it confirmed ends the store.
func TestExternalGoesBack(t *testing.T) {
	end := etcdtest.Start(t, nil)
	s := openExternal(t, at(end, "s1"))
	if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("/a", nil)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revision(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{end}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Delete(t.Context(), "/clusterd/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if rev, err := s.Revision(t.Context()); err == nil {
		t.Errorf("reads at revision %d", rev)
	}
	<-s.Stopped()
}

// TestExternalRefusals: what cannot work is said at once, and why.
func TestExternalRefusals(t *testing.T) {
	cert, key := selfSigned(t)
	other, otherKey := selfSigned(t)
	secure, small := etcdtest.Start(t, withTLS(cert, key)), etcdtest.Start(t, func(c *embed.Config) { c.MaxTxnOps = 128 })
	openExternal(t, store.ExternalConfig{Endpoints: []string{"https://127.0.0.1:1", secure}, Prefix: "/clusterd", CAFile: cert, CertFile: cert, KeyFile: key})
	for name, c := range map[string]struct {
		conf store.ExternalConfig
		want string
	}{
		"no endpoint":          {store.ExternalConfig{}, "no endpoints"},
		"no scheme":            {store.ExternalConfig{Endpoints: []string{"10.0.0.1:2379"}}, "want https://host:port"},
		"no port":              {store.ExternalConfig{Endpoints: []string{"https://10.0.0.1"}}, "want https://host:port"},
		"without TLS":          {store.ExternalConfig{Endpoints: []string{"http://10.0.0.1:2379"}}, "want https"},
		"now and then TLS":     {store.ExternalConfig{Endpoints: []string{secure, small}}, "all of them with https"},
		"prefix":               {store.ExternalConfig{Endpoints: []string{secure}, Prefix: "/x/"}, "begin with a slash"},
		"certificate alone":    {store.ExternalConfig{Endpoints: []string{secure}, CertFile: cert}, "needs its key"},
		"no such file":         {store.ExternalConfig{Endpoints: []string{secure}, CAFile: "/nowhere"}, "/nowhere"},
		"other CA":             {store.ExternalConfig{Endpoints: []string{secure}, CAFile: other, CertFile: cert, KeyFile: key}, secure + ": tls: failed to verify certificate"},
		"system's CAs":         {store.ExternalConfig{Endpoints: []string{secure}, CertFile: cert, KeyFile: key}, "unknown authority"},
		"other certificate":    {store.ExternalConfig{Endpoints: []string{secure}, CAFile: cert, CertFile: other, KeyFile: otherKey}, "unknown certificate authority"},
		"no certificate":       {store.ExternalConfig{Endpoints: []string{secure}, CAFile: cert}, "certificate required"},
		"nobody there":         {store.ExternalConfig{Endpoints: []string{"http://127.0.0.1:1"}}, "http://127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},
		"TLS, and none wanted": {store.ExternalConfig{Endpoints: []string{strings.Replace(secure, "https", "http", 1)}}, "EOF"},
		"etcd's own bounds":    {store.ExternalConfig{Endpoints: []string{small}}, "--max-txn-ops=1024"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if c.conf.Prefix == "" {
				c.conf.Prefix = "/clusterd"
			}
			s, err := store.OpenExternal(ctx, c.conf)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || ctx.Err() != nil {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}
