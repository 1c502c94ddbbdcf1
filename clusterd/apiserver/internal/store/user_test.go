package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store/storetest"
	"github.com/clusterd/terraform-provider-clusterd/internal/etcdtest"
)

func TestMain(m *testing.M) {
	etcdtest.Serve()
	os.Exit(m.Run())
}

var clusterd = etcdtest.User{Name: "clusterd", Password: "only ours"}

// as is what u says of itself to the etcd.
func as(u etcdtest.User, endpoints ...string) store.ExternalConfig {
	return store.ExternalConfig{
		Endpoints: endpoints, Prefix: "/clusterd", Name: "s1",
		Username: u.Name, Password: func() (string, error) { return u.Password, nil },
	}
}

// TestExternalOfThreeMembers: the contract holds in an etcd of several members,
// for a user who may do nothing there but read and write below the prefix.
func TestExternalOfThreeMembers(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.StartMembers(t, 3)
	root := etcdtest.Secure(t, etcd.Endpoints...)
	etcdtest.Add(t, root, clusterd, etcdtest.Of("/clusterd"))
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		c := as(clusterd, etcd.Endpoints...)
		n++
		c.Prefix += "/" + strconv.Itoa(n)
		return compacted{openExternal(t, c), root}
	})
}

// compacted is a store that somebody else compacts: no server does, and only root
// may.
type compacted struct {
	*store.External
	root *clientv3.Client
}

func (c compacted) Compact(ctx context.Context, revision int64) error {
	_, err := c.root.Compact(ctx, revision)
	return err
}

// TestExternalLosesMembers: each member of the etcd is killed in turn, and comes
// back, while clients of one store count. No acknowledged write is lost, none is
// done that was not asked for, and each watch sees every change once, in order.
func TestExternalLosesMembers(t *testing.T) {
	t.Parallel()
	const writers = 3
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	etcd := etcdtest.StartMembers(t, 3)
	root := etcdtest.Secure(t, etcd.Endpoints...)
	etcdtest.Add(t, root, clusterd, etcdtest.Of("/clusterd"))
	s := openExternal(t, as(clusterd, etcd.Endpoints...))

	running, stop := context.WithCancel(ctx)
	var counting, watching sync.WaitGroup
	defer watching.Wait()
	defer counting.Wait()
	defer cancel()
	defer stop()
	told := make(chan struct{})
	acked := make([]int, writers) // the last that was
	for w := range writers {
		counting.Go(func() { acked[w] = count(running, t, s, fmt.Sprint("/", w), math.MaxInt, told) })
	}
	seen := make([]map[string]int, 3)
	for i := range seen {
		seen[i] = map[string]int{}
		watching.Go(func() { follow(ctx, t, s, seen[i]) })
	}
	goesOn := func(when string) {
		t.Helper()
		began := time.Now()
		for range 50 {
			select {
			case <-told:
			case <-ctx.Done():
				t.Fatalf("no more writes %s", when)
			}
		}
		t.Logf("%s: 50 writes after %v", when, time.Since(began).Round(time.Millisecond))
	}
	goesOn("at the start")
	for i := range etcd.Endpoints {
		etcd.Kill(i)
		goesOn(fmt.Sprintf("while member %d is down", i))
		etcd.Start(i)
		goesOn(fmt.Sprintf("once member %d is back", i))
	}
	stop()
	counting.Wait()
	if count(ctx, t, s, end, 1, nil) != 1 {
		t.Fatal("the last write is not taken")
	}
	page, err := s.List(ctx, store.Range{})
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]int{}
	for _, e := range page.Entries {
		kept[e.Key], _ = strconv.Atoi(string(e.Value))
	}
	// One write more may have been taken whose answer got lost.
	for w, n := range acked {
		if key := fmt.Sprint("/", w); kept[key] != n && kept[key] != n+1 {
			t.Errorf("%s is at %d, and %d was acknowledged", key, kept[key], n)
		}
	}
	watching.Wait()
	for i := range seen {
		if !maps.Equal(seen[i], kept) {
			t.Errorf("watch %d ended at %v, the store at %v", i, seen[i], kept)
		}
	}
	t.Logf("%v", acked)
}

// end is the key of the last write.
const end = "/end"

// TestExternalWaitsForALeader: a server that starts while its etcd has no leader,
// and so cannot say who it is, does not end with that.
func TestExternalWaitsForALeader(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.StartMembers(t, 3)
	root := etcdtest.Secure(t, etcd.Endpoints...)
	etcdtest.Add(t, root, clusterd, etcdtest.Of("/clusterd"))
	etcd.Kill(0)
	etcd.Kill(1)
	var asked atomic.Int32
	again, opened := make(chan struct{}), make(chan error, 1)
	conf := as(clusterd, etcd.Endpoints...)
	conf.Password = func() (string, error) {
		if asked.Add(1) == 2 {
			close(again)
		}
		return clusterd.Password, nil
	}
	go func() {
		s, err := store.OpenExternal(t.Context(), conf)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	select {
	case <-again:
		etcd.Start(0)
	case err := <-opened:
		t.Fatalf("opened without a leader: %v", err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// count writes 1, 2, 3, … to key, each only after the one before, and returns the
// last that it knows to be there.
func count(ctx context.Context, t *testing.T, s store.Store, key string, last int, told chan<- struct{}) (n int) {
	var rev int64
	for n < last && ctx.Err() == nil {
		now, err := s.Commit(ctx, store.Txn{
			If:   []store.Compare{{Key: key, Revision: rev}},
			Then: []store.Op{store.Put(key, []byte(strconv.Itoa(n+1)))},
		})
		if c, ok := errors.AsType[*store.ConflictError](err); ok {
			// Nobody else writes: it is the write of before whose answer got lost.
			e, err := s.Get(ctx, key)
			if err != nil {
				continue
			}
			if got, _ := strconv.Atoi(string(e.Value)); got != n+1 {
				t.Errorf("%s is at %d, not %d, after %v", key, got, n+1, c)
				return n
			}
			now = e.Revision
		} else if err != nil {
			if !errors.Is(err, store.ErrNoLeader) && ctx.Err() == nil {
				t.Errorf("a write to %s: %v", key, err)
				return n
			}
			continue
		}
		rev, n = now, n+1
		select {
		case told <- struct{}{}:
		default:
		}
	}
	return n
}

// follow watches, from where it was once a watch breaks, until the end; each key
// counts without a gap.
func follow(ctx context.Context, t *testing.T, s store.Store, seen map[string]int) {
	var from int64
	for seen[end] == 0 && ctx.Err() == nil {
		for b, err := range s.Watch(ctx, "/", from) {
			if err != nil {
				if !errors.Is(err, store.ErrNoLeader) && ctx.Err() == nil {
					t.Errorf("a watch: %v", err)
					return
				}
				break
			}
			for _, ev := range b.Events {
				n, _ := strconv.Atoi(string(ev.Value))
				if n != seen[ev.Key]+1 || ev.Revision <= from {
					t.Errorf("%s at %d after %d, revision %d after %d", ev.Key, n, seen[ev.Key], ev.Revision, from)
				}
				seen[ev.Key] = n
			}
			if from = b.Revision; seen[end] != 0 {
				break
			}
		}
	}
}

// TestExternalTokenEnds: an etcd forgets the tokens of who is connected, as it
// does of itself after five minutes. Writes, watches of before, new ones, and
// the leadership go on. So they do when the password is changed, once it is told
// the new one.
func TestExternalTokenEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	etcd := etcdtest.Start(t, nil)
	root := etcdtest.Secure(t, etcd)
	etcdtest.Add(t, root, clusterd, etcdtest.Of("/clusterd"))
	var password atomic.Value
	password.Store(clusterd.Password)
	conf := as(clusterd, etcd)
	conf.Password = func() (string, error) { return password.Load().(string), nil }
	s := openExternal(t, conf)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	leads := leading(ctx, &all, s)
	for !<-leads {
	}
	put := func(key string) (int64, error) {
		return s.Commit(ctx, store.Txn{Then: []store.Op{store.Put(key, nil)}})
	}
	from, err := put("/before")
	if err != nil {
		t.Fatal(err)
	}
	watch := func() <-chan string {
		seen := make(chan string)
		all.Go(func() {
			for b, err := range s.Watch(ctx, "/", from) {
				if err != nil && ctx.Err() == nil {
					t.Errorf("a watch ended: %v", err)
					cancel()
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
		return seen
	}
	see := func(seen <-chan string, want string) {
		t.Helper()
		select {
		case key := <-seen:
			if key != want {
				t.Fatalf("the watch saw %s, want %s", key, want)
			}
		case <-ctx.Done():
			t.Fatalf("the watch does not see %s", want)
		}
	}
	write := func(key string) {
		t.Helper()
		if _, err := put(key); err != nil {
			t.Fatal(err)
		}
	}
	change := func(to string) { // which ends all tokens of the user
		t.Helper()
		if _, err := root.UserChangePassword(ctx, clusterd.Name, to); err != nil {
			t.Fatal(err)
		}
	}
	old := watch()
	write("/a")
	see(old, "/a")

	change(clusterd.Password)
	more := watch()
	see(more, "/a")
	write("/b")
	see(old, "/b")
	see(more, "/b")

	change("another")
	if _, err := put("/refused"); err == nil || !strings.Contains(err.Error(), "the password is another") || strings.Contains(err.Error(), clusterd.Password) {
		t.Errorf("with the password of before: %v", err)
	}
	password.Store("another")
	write("/c")
	see(old, "/c")
	see(more, "/c")
	third := watch()
	for _, key := range []string{"/a", "/b", "/c"} {
		see(third, key)
	}
	select {
	case is := <-leads:
		if !is { // without the new password its lease may have run out
			for !<-leads {
			}
		}
	default:
	}
	if err := s.Yield(ctx); err != nil {
		t.Error(err)
	}
	for !<-leads {
	}
}

// TestExternalCertificateUser: an etcd that takes the name in a certificate for
// a user gives it the user's rights, and no password is asked for; who says a
// name with a password is that.
func TestExternalCertificateUser(t *testing.T) {
	cert, key := selfSigned(t)
	etcd := etcdtest.Start(t, withTLS(cert, key))
	with := func(c store.ExternalConfig) store.ExternalConfig {
		c.CAFile, c.CertFile, c.KeyFile = cert, cert, key
		return c
	}
	ours := with(at(etcd, "s1"))
	conf, err := transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: cert}.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	root := etcdtest.SecureAt(t, clientv3.Config{Endpoints: []string{etcd}, TLS: conf})
	if s, err := store.OpenExternal(t.Context(), ours); !errors.Is(err, store.ErrRefused) {
		t.Errorf("of no user got %v, %v", s, err)
	}
	etcdtest.Add(t, root, clusterd, etcdtest.Of("/clusterd"))
	openExternal(t, with(as(clusterd, etcd)))
	etcdtest.Add(t, root, etcdtest.User{Name: "server:s1", Password: "unused"}, etcdtest.Of("/clusterd"))
	openExternal(t, ours)
}

// TestExternalAuthIsEnabled: an etcd that begins to ask for passwords finds those
// who were told theirs ready.
func TestExternalAuthIsEnabled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	etcd := etcdtest.Start(t, nil)
	etcdtest.Add(t, etcdtest.Client(t, clientv3.Config{Endpoints: []string{etcd}}), clusterd, etcdtest.Of("/clusterd"))
	ready, nobody := openExternal(t, as(clusterd, etcd)), openExternal(t, at(etcd, "s2"))
	etcdtest.Secure(t, etcd)
	rev, err := ready.Commit(ctx, store.Txn{Then: []store.Op{store.Put("/a", nil)}})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := range ready.Watch(ctx, "/", rev-1) {
		if err != nil || len(b.Events) != 1 {
			t.Errorf("the watch saw %+v: %v", b, err)
		}
		break
	}
	if _, err := nobody.Get(ctx, "/a"); err == nil || !strings.Contains(err.Error(), "give --etcd-username and --etcd-password-file") {
		t.Errorf("who was told of no user: %v", err)
	}
}

// TestExternalUsers: who is not who it says, or may not do all that a server
// does, hears so at once, and has written nothing.
func TestExternalUsers(t *testing.T) {
	etcd := etcdtest.Start(t, nil)
	root := etcdtest.Secure(t, etcd)
	whole := etcdtest.Of("/clusterd")
	user := func(name string, rights ...etcdtest.Right) store.ExternalConfig {
		u := etcdtest.User{Name: name, Password: "of " + name}
		etcdtest.Add(t, root, u, rights...)
		return as(u, etcd)
	}
	with := func(c store.ExternalConfig, password string, err error) store.ExternalConfig {
		c.Password = func() (string, error) { return password, err }
		return c
	}
	good := user("good", whole)
	read := etcdtest.Right{Prefix: whole.Prefix, Type: clientv3.PermissionType(clientv3.PermRead)}
	of := func(part string) etcdtest.Right { return etcdtest.Right{Prefix: whole.Prefix + part, Type: whole.Type} }
	const rights = "as %s: read and write: the etcd does not let this server in: the user may not read and write all that is below --etcd-prefix"
	for name, c := range map[string]struct {
		conf store.ExternalConfig
		want string
	}{
		"no user":          {at(etcd, "s1"), "it wants a user: give --etcd-username and --etcd-password-file"},
		"unknown user":     {as(etcdtest.User{Name: "who", Password: "x"}, etcd), "as who: say who we are: the etcd does not let this server in: it has no such user, or the password is another"},
		"wrong password":   {with(good, "hunter2", nil), "as good: say who we are: the etcd does not let this server in: it has no such user, or the password is another"},
		"unreadable":       {with(good, "", errors.New("--etcd-password-file: gone")), "--etcd-password-file: gone"},
		"no rights":        {user("none"), "--etcd-prefix: etcdctl role grant-permission"},
		"elsewhere":        {user("elsewhere", etcdtest.Of("/clusterd2")), "--etcd-prefix"},
		"reads":            {user("reads", read), fmt.Sprintf(rights, "reads")},
		"writes":           {user("writes", etcdtest.Right{Prefix: whole.Prefix, Type: clientv3.PermissionType(clientv3.PermWrite)}), "--etcd-prefix"},
		"objects alone":    {user("objects", of("objects")), "--etcd-prefix"},
		"all but objects":  {user("leader", read, of("revision"), of("leader")), fmt.Sprintf(rights, "leader")},
		"all but to lead":  {user("follower", read, of("revision"), of("objects")), fmt.Sprintf(rights, "follower")},
		"all but the mark": {user("unmarked", read, of("objects"), of("leader")), fmt.Sprintf(rights, "unmarked")},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			s, err := store.OpenExternal(ctx, c.conf)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || ctx.Err() != nil {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it tells the password: %v", err)
			}
		})
	}
	if r, err := root.Get(t.Context(), "", clientv3.WithPrefix()); err != nil || r.Count != 0 {
		t.Errorf("it has %v (%v)", r.Kvs, err)
	}
	openExternal(t, good)
	openExternal(t, as(etcdtest.Root, etcd))
}
