package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// External is the Store in an etcd of the operator's: several servers share it,
// and perhaps others. Its members, quota and backups are not ours.
type External struct {
	tree
	client *clientv3.Client
	name   string
	log    hclog.Logger

	seen    atomic.Int64 // the newest revision that was told
	watches atomic.Int64 // that were ever begun

	campaigning sync.Once
	electoral   sync.WaitGroup
	office      *Office
	resign      chan struct{} // takes a token of whoever wants the leader to step back

	ctx     context.Context // ends with Close, or when the etcd went back
	stop    context.CancelFunc
	closing sync.Once
	closed  error
}

var _ Store = (*External)(nil)

// errBounds is what an etcd with its own defaults says to large transactions.
var errBounds = fmt.Errorf("the etcd does not take what clusterd writes at once: start its members with --max-txn-ops=%d --max-request-bytes=%d", maxExternalOps, maxRequest)

// ErrRefused is what an etcd says that asks who we are, and what we may.
var (
	ErrRefused = errors.New("the etcd does not let this server in")

	errNobody = fmt.Errorf("%w: it wants a user: give --etcd-username and --etcd-password-file", ErrRefused)
	errLogin  = fmt.Errorf("%w: it has no such user, or the password is another: compare --etcd-username and --etcd-password-file with etcdctl user list; etcdctl user passwd sets it", ErrRefused)
	errRights = fmt.Errorf("%w: the user may not read and write all that is below --etcd-prefix: etcdctl role grant-permission ROLE readwrite --prefix=true PREFIX/, and etcdctl user grant-role USER ROLE", ErrRefused)
	errToken  = fmt.Errorf("%w: it does not know our token, or no more", ErrRefused)
)

// maxExternalOps has room for the mark beside MaxOps.
const maxExternalOps = 1024

// Bounds of the waits for an etcd.
const (
	openTimeout = 10 * time.Second
	dialTimeout = 2 * time.Second
	closeWait   = 3 * time.Second
	tokenRetry  = 50 * time.Millisecond
	tokenTries  = 20
)

// OpenExternal connects to the etcd, and makes sure that it takes our writes.
func OpenExternal(ctx context.Context, c ExternalConfig) (*External, error) {
	conf, err := c.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := reach(ctx, conf); err != nil {
		return nil, err
	}
	to := "the etcd at " + strings.Join(c.Endpoints, ", ")
	if c.Username != "" {
		to += " as " + c.Username
	}
	client, err := connect(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	s := &External{
		tree:   tree{keys: client, changes: client, place: c.Prefix + "/", objects: c.Prefix + "/objects", mark: c.Prefix + "/revision"},
		client: client, name: c.Name, log: c.Log, office: NewOffice(), resign: make(chan struct{}),
	}
	if s.log == nil {
		s.log = hclog.NewNullLogger()
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.life = s.ctx
	if err := s.try(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("use %s: %w", to, err), s.Close())
	}
	return s, nil
}

// connect is patient with an etcd that finds a leader, without which it tells
// nobody from somebody else. The client by itself gives up after dialTimeout.
func connect(ctx context.Context, conf clientv3.Config) (*clientv3.Client, error) {
	for {
		client, err := clientv3.New(conf)
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return client, wrap("say who we are", err)
		}
	}
}

// try asks for as much at once as we may write, and for the right to all that we
// do, before it makes the mark.
func (s *External) try(ctx context.Context) error {
	most := slices.Repeat([]clientv3.Op{clientv3.OpGet(s.mark, clientv3.WithCountOnly())}, MaxOps+1)
	if _, err := s.client.Txn(ctx).Then(most...).Commit(); err != nil {
		return wrap("read", err)
	}
	// Of both sides of a transaction the rights are checked; this one never writes.
	created := clientv3.CreateRevision(s.mark)
	_, err := s.client.Txn(ctx).If(clientv3.Compare(created, "<", 0)).
		Then(clientv3.OpPut(s.mark, ""), clientv3.OpPut(s.objects+"/", ""), clientv3.OpPut(s.place+leaderKey+"/", "")).
		Else(clientv3.OpGet(s.place, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())).Commit()
	if err != nil {
		return wrap("read and write", err)
	}
	_, err = s.client.Txn(ctx).If(clientv3.Compare(created, "=", 0)).Then(clientv3.OpPut(s.mark, "")).Commit()
	return wrap("write", err)
}

// Watch implements Store. Each watch has a stream of its own, which the client
// opens with a fresh token: the etcd would take that of an older stream, which
// may have run out, for whoever watches more on it. And a member may not have
// heard of a fresh token yet, which the client asks again for in all calls but
// this.
func (s *External) Watch(ctx context.Context, prefix string, from int64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for tries, again := 0, true; again; tries++ {
			again = false
			own := metadata.AppendToOutgoingContext(ctx, "clusterd-watch", strconv.FormatInt(s.watches.Add(1), 10))
			for b, err := range s.tree.Watch(own, prefix, from) {
				if again = errors.Is(err, errToken) && tries < tokenTries; again {
					break
				}
				if !yield(b, err) {
					return
				}
				from, tries = max(from, b.Revision), 0
			}
			if again {
				select {
				case <-time.After(tokenRetry):
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// Revision implements Store. An etcd that went back, as one does that was
// restored from a backup, ends the store: whoever read it has seen what is no
// more, and must begin anew.
func (s *External) Revision(ctx context.Context) (int64, error) {
	before := s.seen.Load()
	rev, err := s.tree.Revision(ctx)
	if err != nil {
		return 0, err
	}
	if rev < before {
		s.log.Error("the etcd has lost writes that it had confirmed, as after a restore: this server must start anew", "had", before, "has", rev, "prefix", s.place)
		s.stop()
		return 0, fmt.Errorf("read index: %w", errWentBack)
	}
	s.saw(rev)
	return rev, nil
}

var errWentBack = errors.New("the etcd went back to an earlier state")

// Commit implements Store.
func (s *External) Commit(ctx context.Context, t Txn) (int64, error) {
	rev, err := s.tree.Commit(ctx, t)
	if err == nil {
		s.saw(rev)
	}
	return rev, err
}

func (s *External) saw(rev int64) {
	for before := s.seen.Load(); rev > before && !s.seen.CompareAndSwap(before, rev); before = s.seen.Load() {
	}
}

func modRevision(kvs []*mvccpb.KeyValue) int64 {
	if len(kvs) == 0 {
		return 0
	}
	return kvs[0].ModRevision
}

// Stopped implements Store.
func (s *External) Stopped() <-chan struct{} { return s.ctx.Done() }

// Close ends the leadership, if this server has it, and the connections.
// Closing again does nothing.
func (s *External) Close() error {
	s.closing.Do(func() {
		s.stop()
		s.campaigning.Do(func() {}) // none begins any more
		ended := make(chan struct{})
		go func() { defer close(ended); s.electoral.Wait() }()
		select {
		case <-ended:
		case <-time.After(closeWait): // an etcd that cannot be reached lets the lease run out
		}
		if s.closed = s.client.Close(); errors.Is(s.closed, context.Canceled) {
			s.closed = nil
		}
		<-ended
	})
	return s.closed
}
