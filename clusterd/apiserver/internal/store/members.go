package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Member is one of those that keep the store.
type Member struct {
	ID      uint64
	Name    string // empty until it has started once
	Address string // host:port other members reach it at
	Learner bool   // receives everything, and has no vote yet
	Self    bool
	Leader  bool
}

// Membership is the side of a store that several members keep.
type Membership interface {
	// Members lists them by address.
	Members(ctx context.Context) ([]Member, error)
	// AddLearner lets a member in that is not there yet, without a vote.
	// ErrUnsettled says to try again: another one joins, or one was lost just now.
	AddLearner(ctx context.Context, address string) error
	// Promote gives a learner its vote; ErrUnsettled until it has caught up.
	Promote(ctx context.Context, id uint64) error
	// Remove takes a member out. ErrUnsettled keeps what is left from being less
	// than a majority.
	Remove(ctx context.Context, id uint64) error
	// Yield hands leadership to another voter, if this member has it and there is one.
	Yield(ctx context.Context) error
}

// ErrUnsettled means that the members cannot change at the moment.
var ErrUnsettled = errors.New("the members of the store cannot change now")

var _ Membership = (*Etcd)(nil)

// Members implements Membership.
func (s *Etcd) Members(ctx context.Context) ([]Member, error) {
	r, err := s.kv.MemberList(ctx)
	if err != nil {
		return nil, wrap("list members", err)
	}
	return s.members(r.Members), nil
}

func (s *Etcd) members(all []*etcdserverpb.Member) []Member {
	var out []Member
	for _, m := range all {
		member := Member{ID: m.ID, Name: m.Name, Learner: m.IsLearner, Self: m.ID == uint64(s.member.Server.MemberID()), Leader: m.ID == uint64(s.member.Server.Leader())}
		if len(m.PeerURLs) > 0 {
			member.Address = strings.TrimPrefix(m.PeerURLs[0], "https://")
		}
		out = append(out, member)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Address, b.Address) })
	return out
}

// AddLearner implements Membership.
func (s *Etcd) AddLearner(ctx context.Context, address string) error {
	_, err := s.kv.MemberAddAsLearner(ctx, []string{"https://" + address})
	if errors.Is(err, rpctypes.ErrPeerURLExist) {
		return nil // a repeated request
	}
	return changed("add a member", err)
}

// Promote implements Membership.
func (s *Etcd) Promote(ctx context.Context, id uint64) error {
	_, err := s.kv.MemberPromote(ctx, id)
	if errors.Is(err, rpctypes.ErrMemberNotLearner) {
		return nil
	}
	return changed("promote a member", err)
}

// Remove implements Membership.
func (s *Etcd) Remove(ctx context.Context, id uint64) error {
	_, err := s.kv.MemberRemove(ctx, id)
	if errors.Is(err, rpctypes.ErrMemberNotFound) {
		return nil
	}
	return changed("remove a member", err)
}

// changed maps the errors of a change of members.
func changed(what string, err error) error {
	for _, soon := range []error{rpctypes.ErrUnhealthy, rpctypes.ErrTooManyLearners, rpctypes.ErrMemberNotEnoughStarted,
		rpctypes.ErrMemberLearnerNotReady, rpctypes.ErrMemberExist} {
		if errors.Is(err, soon) {
			return fmt.Errorf("%s: %w: %w", what, ErrUnsettled, err)
		}
	}
	return wrap(what, err)
}

// Yield implements Membership.
func (s *Etcd) Yield(ctx context.Context) error {
	srv := s.member.Server
	if srv.Leader() != srv.MemberID() {
		return nil
	}
	members, err := s.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Self || m.Learner || m.Name == "" {
			continue
		}
		if _, err = s.kv.MoveLeader(ctx, m.ID); err == nil {
			return nil
		}
	}
	return wrap("hand over leadership", err)
}
