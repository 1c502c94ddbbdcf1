package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tree keeps entries in an etcd: all of it, or what is below a place that others
// leave alone.
type tree struct {
	keys    clientv3.KV
	changes clientv3.Watcher
	// life ends with the store: a client that is closed tries in vain for seconds.
	// Nil: calls end with the member.
	life context.Context

	place   string // below which everything is; "" has all of the etcd
	objects string // goes before every key of an entry
	// mark is a key that every commit writes. Revisions of an etcd that is shared
	// grow by what others do; that of the mark is the newest that our watches see.
	mark string
}

// alive returns a context that ends with the store, too.
func (t *tree) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	if t.life == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(t.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// Get implements Store.
func (t *tree) Get(ctx context.Context, key string) (Entry, error) {
	ctx, done := t.alive(ctx)
	defer done()
	r, err := t.keys.Get(ctx, t.objects+key)
	if err != nil {
		return Entry{}, wrap("get", err)
	}
	if len(r.Kvs) == 0 {
		return Entry{}, ErrNotFound
	}
	return Entry{key, r.Kvs[0].Value, r.Kvs[0].ModRevision}, nil
}

// Revision implements Store. A linearizable read of any key waits for the member
// to have applied all that was committed, so without a mark its key does not matter.
func (t *tree) Revision(ctx context.Context) (int64, error) {
	ctx, done := t.alive(ctx)
	defer done()
	if t.mark == "" {
		r, err := t.keys.Get(ctx, "/", clientv3.WithCountOnly())
		if err != nil {
			return 0, wrap("read index", err)
		}
		return r.Header.Revision, nil
	}
	r, err := t.keys.Get(ctx, t.mark, clientv3.WithKeysOnly())
	if err != nil {
		return 0, wrap("read index", err)
	}
	return modRevision(r.Kvs), nil
}

// List implements Store.
func (t *tree) List(ctx context.Context, r Range) (Page, error) {
	ctx, done := t.alive(ctx)
	defer done()
	prefix := t.objects + r.Prefix
	end := clientv3.GetPrefixRangeEnd(prefix)
	from := max(prefix, t.objects+r.After+"\x00")
	if from >= end && end != "\x00" {
		rev, err := t.Revision(ctx)
		return Page{Revision: rev}, err
	}
	resp, err := t.keys.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(r.Limit)), clientv3.WithRev(r.Revision))
	if err != nil {
		return Page{}, wrap("list", err)
	}
	p := Page{Entries: make([]Entry, len(resp.Kvs)), Revision: resp.Header.Revision, More: resp.More}
	if r.Revision != 0 {
		p.Revision = r.Revision
	}
	for i, kv := range resp.Kvs {
		p.Entries[i] = Entry{string(kv.Key[len(t.objects):]), kv.Value, kv.ModRevision}
	}
	return p, nil
}

// Commit implements Store.
func (t *tree) Commit(ctx context.Context, txn Txn) (int64, error) {
	if err := txn.check(); err != nil {
		return 0, err
	}
	cmps, gets := make([]clientv3.Cmp, len(txn.If)), make([]clientv3.Op, len(txn.If), len(txn.If)+1)
	for i, c := range txn.If {
		cmps[i] = clientv3.Compare(clientv3.ModRevision(t.objects+c.Key), "=", c.Revision)
		gets[i] = clientv3.OpGet(t.objects+c.Key, clientv3.WithKeysOnly())
	}
	ops := make([]clientv3.Op, len(txn.Then), len(txn.Then)+1)
	for i, op := range txn.Then {
		if op.Delete {
			ops[i] = clientv3.OpDelete(t.objects + op.Key)
		} else {
			ops[i] = clientv3.OpPut(t.objects+op.Key, string(op.Value))
		}
	}
	if t.mark != "" {
		ops = append(ops, clientv3.OpPut(t.mark, ""))
		gets = append(gets, clientv3.OpGet(t.mark, clientv3.WithKeysOnly()))
	}
	ctx, done := t.alive(ctx)
	defer done()
	r, err := t.keys.Txn(ctx).If(cmps...).Then(ops...).Else(gets...).Commit()
	if err != nil {
		return 0, wrap("commit", err)
	}
	if r.Succeeded {
		return r.Header.Revision, nil
	}
	found := func(i int) int64 { return modRevision(r.Responses[i].GetResponseRange().Kvs) }
	conflict := &ConflictError{Revision: r.Header.Revision}
	if t.mark != "" {
		conflict.Revision = found(len(txn.If))
	}
	for i, c := range txn.If {
		if have := found(i); have != c.Revision {
			conflict.Failed = append(conflict.Failed, Compare{c.Key, have})
		}
	}
	return 0, conflict
}

// Watch implements Store. With a mark it watches all of the place: the mark tells
// how far it has seen.
func (t *tree) Watch(ctx context.Context, prefix string, from int64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		prefix, watched := t.objects+prefix, t.place
		if watched == "" {
			watched = prefix
		}
		for r := range t.changes.Watch(ctx, watched, clientv3.WithPrefix(), clientv3.WithRev(from+1), clientv3.WithProgressNotify()) {
			if err := r.Err(); err != nil {
				if ctx.Err() == nil {
					yield(Batch{}, wrap("watch", err))
				}
				return
			}
			b := Batch{Events: make([]Event, 0, len(r.Events))}
			for _, ev := range r.Events {
				b.Revision = ev.Kv.ModRevision
				if key := string(ev.Kv.Key); strings.HasPrefix(key, prefix) {
					b.Events = append(b.Events, Event{Entry{key[len(t.objects):], ev.Kv.Value, ev.Kv.ModRevision}, ev.Type == clientv3.EventTypeDelete})
				}
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
func (t *tree) Compact(ctx context.Context, revision int64) error {
	_, err := t.keys.Compact(ctx, revision)
	return wrap("compact", err)
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
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge):
		err = fmt.Errorf("%w: %w", errBounds, err)
	case says(err, rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)):
		err = ErrLearner
	case says(err, rpctypes.ErrUserEmpty):
		err = fmt.Errorf("%w: %w", errNobody, err)
	case says(err, rpctypes.ErrAuthFailed):
		err = fmt.Errorf("%w: %w", errLogin, err)
	case says(err, rpctypes.ErrPermissionDenied):
		err = fmt.Errorf("%w: %w", errRights, err)
	case says(err, rpctypes.ErrInvalidAuthToken), says(err, rpctypes.ErrAuthOldRevision):
		err = fmt.Errorf("%w: %w", errToken, err)
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout),
		errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
		errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrNotCapable), errors.Is(err, rpctypes.ErrStopped),
		status.Code(err) == codes.Unavailable,                  // no member of it was reached
		strings.Contains(err.Error(), "raft proposal dropped"): // has no error of its own
		err = fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// says reports whether err is what the etcd means by known; of a watch that it
// refuses the client has nothing but the words.
func says(err, known error) bool { return strings.Contains(err.Error(), known.Error()) }
