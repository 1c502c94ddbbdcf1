package store

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Space is how full a member's store is, in bytes.
type Space struct {
	Size  int64 // of its file
	InUse int64 // of that, what data takes; the rest is reused
	Quota int64 // at which the store refuses all writes but deletes
}

// Spacious is the side of a store whose room is limited.
type Spacious interface {
	Space(ctx context.Context) (Space, error)
	// Defragment gives back what is not in use. This member answers nothing for as
	// long as it takes.
	Defragment(ctx context.Context) error
	// Disarm lets the store take writes again that refused them, once there is room.
	Disarm(ctx context.Context) error
}

var _ Spacious = (*Etcd)(nil)

// Space implements Spacious. What is written is counted, also where it waits to
// get into the file, which grows in large steps. The member itself is asked: the
// client's Status panics in one that is not, or no longer, of the cluster.
func (s *Etcd) Space(context.Context) (Space, error) {
	member := s.member.Server
	select {
	case <-member.StoppingNotify():
		return Space{}, wrap("ask how full the store is", rpctypes.ErrStopped)
	default:
	}
	file := member.Backend()
	file.ForceCommit()
	return Space{Size: file.Size(), InUse: file.SizeInUse(), Quota: member.Config().QuotaBackendBytes}, nil
}

// Defragment implements Spacious.
func (s *Etcd) Defragment(ctx context.Context) error {
	_, err := s.watch.Defragment(ctx, "unix://"+s.socket) // not in process: etcd 3.7 panics
	return wrap("defragment", err)
}

// Disarm implements Spacious.
func (s *Etcd) Disarm(ctx context.Context) error {
	alarms, err := s.kv.AlarmList(ctx)
	if err != nil {
		return wrap("list alarms", err)
	}
	for _, a := range alarms.Alarms {
		if _, err := s.kv.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("disarm: %w", err)
		}
	}
	return nil
}
