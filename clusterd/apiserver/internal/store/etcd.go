package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Etcd is the Store of a real cluster: an etcd member in this process. Its
// client side is a unix socket that only this user can reach.
type Etcd struct {
	member *embed.Etcd
	// kv calls the member directly: half the CPU of a loopback connection.
	kv *clientv3.Client
	// watch goes through the socket: the in-process watch stream of etcd 3.7
	// can deadlock for good when many watches are cancelled at once.
	watch  *clientv3.Client
	socket string
	log    hclog.Logger

	closing sync.Once
	closed  error
}

var _ Store = (*Etcd)(nil)

// startTimeout bounds how long a member may take to serve; replaying a large
// log takes seconds, waiting for the other members of a cluster longer.
const startTimeout = 2 * time.Minute

// OpenEtcd starts the member and waits until it serves.
func OpenEtcd(ctx context.Context, c EtcdConfig) (*Etcd, error) {
	cfg, socket, err := c.embed()
	if err != nil {
		return nil, fmt.Errorf("configure etcd: %w", err)
	}
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		removeSocketDir(socket)
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	s := &Etcd{member: member, kv: v3client.New(member.Server), socket: socket, log: c.logger()}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-member.Server.ReadyNotify():
	case <-member.Server.StopNotify():
		err = errors.New("it was removed from the cluster")
	case err = <-member.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		s.watch, err = clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start etcd: %w", err), s.Close())
	}
	return s, nil
}

// Get implements Store.
func (s *Etcd) Get(ctx context.Context, key string) (Entry, error) {
	r, err := s.kv.Get(ctx, key)
	if err != nil {
		return Entry{}, wrap("get", err)
	}
	if len(r.Kvs) == 0 {
		return Entry{}, ErrNotFound
	}
	return Entry{key, r.Kvs[0].Value, r.Kvs[0].ModRevision}, nil
}

// Revision implements Store. The key does not matter: a linearizable read of
// any key waits for the member to have applied all that was committed.
func (s *Etcd) Revision(ctx context.Context) (int64, error) {
	r, err := s.kv.Get(ctx, "/", clientv3.WithCountOnly())
	if err != nil {
		return 0, wrap("read index", err)
	}
	return r.Header.Revision, nil
}

// List implements Store.
func (s *Etcd) List(ctx context.Context, r Range) (Page, error) {
	end := clientv3.GetPrefixRangeEnd(r.Prefix)
	from := max(r.Prefix, r.After+"\x00")
	if from >= end && end != "\x00" {
		rev, err := s.Revision(ctx)
		return Page{Revision: rev}, err
	}
	resp, err := s.kv.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(r.Limit)), clientv3.WithRev(r.Revision))
	if err != nil {
		return Page{}, wrap("list", err)
	}
	p := Page{Entries: make([]Entry, len(resp.Kvs)), Revision: resp.Header.Revision, More: resp.More}
	if r.Revision != 0 {
		p.Revision = r.Revision
	}
	for i, kv := range resp.Kvs {
		p.Entries[i] = Entry{string(kv.Key), kv.Value, kv.ModRevision}
	}
	return p, nil
}

// Commit implements Store.
func (s *Etcd) Commit(ctx context.Context, t Txn) (int64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	cmps, gets := make([]clientv3.Cmp, len(t.If)), make([]clientv3.Op, len(t.If))
	for i, c := range t.If {
		cmps[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
		gets[i] = clientv3.OpGet(c.Key, clientv3.WithKeysOnly())
	}
	ops := make([]clientv3.Op, len(t.Then))
	for i, op := range t.Then {
		if op.Delete {
			ops[i] = clientv3.OpDelete(op.Key)
		} else {
			ops[i] = clientv3.OpPut(op.Key, string(op.Value))
		}
	}
	r, err := s.kv.Txn(ctx).If(cmps...).Then(ops...).Else(gets...).Commit()
	if err != nil {
		return 0, wrap("commit", err)
	}
	if r.Succeeded {
		return r.Header.Revision, nil
	}
	conflict := &ConflictError{Revision: r.Header.Revision}
	for i, c := range t.If {
		var have int64
		if kvs := r.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			have = kvs[0].ModRevision
		}
		if have != c.Revision {
			conflict.Failed = append(conflict.Failed, Compare{c.Key, have})
		}
	}
	return 0, conflict
}

// Watch implements Store.
func (s *Etcd) Watch(ctx context.Context, prefix string, from int64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		for r := range s.watch.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1), clientv3.WithProgressNotify()) {
			if err := r.Err(); err != nil {
				if ctx.Err() == nil {
					yield(Batch{}, wrap("watch", err))
				}
				return
			}
			b := Batch{Events: make([]Event, len(r.Events))}
			for i, ev := range r.Events {
				b.Events[i] = Event{Entry{string(ev.Kv.Key), ev.Kv.Value, ev.Kv.ModRevision}, ev.Type == clientv3.EventTypeDelete}
				b.Revision = ev.Kv.ModRevision
			}
			// The header of a response with events may run ahead of them.
			if r.IsProgressNotify() {
				b.Revision = r.Header.Revision
			}
			if b.Revision > 0 && !yield(b, nil) {
				return
			}
		}
		if ctx.Err() == nil {
			yield(Batch{}, errors.New("watch: stream ended"))
		}
	}
}

// Compact implements Store.
func (s *Etcd) Compact(ctx context.Context, revision int64) error {
	_, err := s.kv.Compact(ctx, revision)
	return wrap("compact", err)
}

// leadingPoll is how often Leading looks without being told: etcd says when a
// leader appears, but not when one is lost.
const leadingPoll = 250 * time.Millisecond

// Leading implements Store: the raft leader leads.
func (s *Etcd) Leading(ctx context.Context) iter.Seq[bool] {
	return func(yield func(bool) bool) {
		tick := time.NewTicker(leadingPoll)
		defer tick.Stop()
		srv := s.member.Server
		for first, was := true, false; ; first = false {
			changed := srv.LeaderChangedNotify()
			if is := srv.Leader() == srv.MemberID(); first || is != was {
				if was = is; !yield(is) {
					return
				}
			}
			select {
			case <-changed:
			case <-tick.C:
			case <-srv.StopNotify():
				if was {
					yield(false)
				}
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// Stopped implements Store: a member also ends when it is removed from the cluster.
func (s *Etcd) Stopped() <-chan struct{} { return s.member.Server.StopNotify() }

// Close stops the member. Closing again does nothing.
func (s *Etcd) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *Etcd) close() error {
	var err error
	if s.watch != nil {
		err = s.watch.Close()
	}
	err = errors.Join(err, s.kv.Close())
	s.member.Close()
	removeSocketDir(s.socket)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// wrap maps etcd's errors to the contract's.
func wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrCompacted):
		err = ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		err = ErrFull
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout),
		errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
		errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrNotCapable), errors.Is(err, rpctypes.ErrStopped),
		strings.Contains(err.Error(), "raft proposal dropped"): // has no error of its own
		err = fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
