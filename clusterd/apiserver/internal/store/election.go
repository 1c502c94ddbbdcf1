package store

import (
	"context"
	"iter"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// Who leads in an etcd of the operator's is settled by a lease: the first who
// writes a key under one leads until it steps back, or the lease runs out; the
// others wait in line. What the contract says of a leader that does not know yet
// holds here: only the key that a new leader bumps keeps its writes out.

// leaderKey is below the place; each who stands has a key below it.
const leaderKey = "leader"

// leaseSeconds is how long a leader that is silent keeps the others waiting:
// longer than an etcd takes to find a leader of its own.
const leaseSeconds = 3

// campaignRetry is how long to wait before the etcd is asked again.
const campaignRetry = 500 * time.Millisecond

// Leading implements Store. The first call makes this server stand for election,
// until Close.
func (s *External) Leading(ctx context.Context) iter.Seq[bool] {
	return func(yield func(bool) bool) {
		s.campaigning.Do(func() { s.electoral.Go(s.campaign) })
		for first, was := true, false; ; first = false {
			is, changed := s.office.Get()
			if first || is != was {
				if was = is; !yield(is) {
					return
				}
			}
			select {
			case <-changed:
			case <-s.ctx.Done():
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

// campaign stands for election again and again.
func (s *External) campaign() {
	for s.ctx.Err() == nil {
		err := s.term()
		if err == nil || s.ctx.Err() != nil {
			continue
		}
		s.log.Warn("stand for election", "error", err, "retry_in", campaignRetry)
		select {
		case <-s.ctx.Done():
		case <-time.After(campaignRetry):
		}
	}
}

// term waits in line, and leads until the lease is lost, or given back.
func (s *External) term() error {
	lease, err := s.client.Grant(s.ctx, leaseSeconds)
	if err != nil {
		return wrap("take a lease", err)
	}
	session, err := concurrency.NewSession(s.client, concurrency.WithLease(lease.ID), concurrency.WithTTL(leaseSeconds))
	if err != nil {
		return wrap("keep the lease", err)
	}
	defer session.Close() // the next in line leads at once
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer context.AfterFunc(session.Ctx(), cancel)()
	if err := concurrency.NewElection(session, s.place+leaderKey).Campaign(ctx, s.name); err != nil {
		return wrap("wait for the leader's end", err)
	}
	s.office.Set(true)
	defer s.office.Set(false)
	select {
	case <-ctx.Done():
	case <-s.resign:
	}
	return nil
}

// Yield hands leadership to the server that has waited longest, if this one has
// it and there is one.
func (s *External) Yield(ctx context.Context) error {
	held, changed := s.office.Get()
	if !held {
		return nil
	}
	select {
	case s.resign <- struct{}{}:
		return nil
	case <-changed:
		return nil
	case <-s.ctx.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
