package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Etcd is the Store of a real cluster: an etcd member in this process. Its
// client side is a unix socket that only this user can reach.
type Etcd struct {
	tree
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
	member, err := c.start(ctx, cfg)
	if err != nil {
		removeSocketDir(socket)
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	s := &Etcd{member: member, kv: v3client.New(member.Server), socket: socket, log: c.logger()}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-member.Server.ReadyNotify():
	case <-member.Server.StopNotify(): // as of Stopped
		err = ErrRemoved
	case err = <-member.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	select {
	case <-member.Server.StoppingNotify(): // of which Err has less to say
		err = ErrRemoved
	default:
	}
	if err == nil {
		s.watch, err = clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
		s.tree = tree{keys: s.kv, changes: s.watch}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start etcd: %w", err), s.Close())
	}
	return s, nil
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
