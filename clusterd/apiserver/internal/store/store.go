// Package store keeps bytes under keys, with revisions, transactions and a
// watch. It is the only package that knows etcd exists.
//
// Invariants, whatever the implementation (storetest checks them on each):
//   - Every change has one revision, larger than all before; the changes of
//     one transaction share it.
//   - A Commit that returned without error survives everything the
//     implementation promises to survive; one that returned ErrConflict
//     changed nothing; any other error leaves the outcome unknown.
//   - Get, List and Revision are linearizable: they see every Commit that had
//     returned before they were called.
//   - A Watch yields every change after its start, in order, whole revisions
//     at a time, or ends with an error. It never skips.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
)

var (
	// ErrNotFound means that a key has no value.
	ErrNotFound = errors.New("key not found")
	// ErrCompacted means that the history asked for is gone: list again.
	ErrCompacted = errors.New("revision is compacted")
	// ErrFull means that the store's quota is used up; deletes still work.
	ErrFull = errors.New("store is full: raise its quota or delete objects")
	// ErrRemoved means that this member is none of the store any more.
	ErrRemoved = errors.New("the member was removed")
	// ErrLearner means that this member cannot do so before it has its vote.
	ErrLearner = errors.New("the member is a learner yet")
	// ErrNoLeader means that no majority of members can be reached.
	ErrNoLeader = errors.New("no leader")
)

// Entry is one value and the revision that wrote it.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64
}

// Op is one change of a transaction: see Put and Delete.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Put sets the value of key.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete removes key. Deleting an absent key changes nothing.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Compare demands that Key was last written at Revision; 0 demands its absence.
type Compare struct {
	Key      string
	Revision int64
}

// Txn changes every key of Then if every Compare holds, else nothing. A key
// appears at most once in Then.
type Txn struct {
	If   []Compare
	Then []Op
}

// MaxOps is the most compares, and the most changes, one Txn may have.
const MaxOps = 1000

// ConflictError says which compares of a Txn failed, and the revisions found instead.
type ConflictError struct {
	Failed   []Compare // Revision is the one the store has; 0 if absent
	Revision int64     // a revision at which this was so
}

func (e *ConflictError) Error() string {
	keys := make([]string, len(e.Failed))
	for i, c := range e.Failed {
		keys[i] = fmt.Sprintf("%s is at revision %d", c.Key, c.Revision)
	}
	return "revision conflict: " + strings.Join(keys, ", ")
}

// Range selects a part of the keys in List.
type Range struct {
	Prefix   string
	After    string // list keys greater than this one
	Limit    int    // 0 is without limit
	Revision int64  // 0 is the newest
}

// Page is what List found, ordered by key.
type Page struct {
	Entries  []Entry
	Revision int64 // the store was listed as it was here
	More     bool  // Limit cut the list off
}

// Event is one change. The Entry of a deleted key has no value.
type Event struct {
	Entry
	Deleted bool
}

// Batch is the changes of whole revisions, up to and including Revision. A
// batch without events says that nothing happened up to Revision.
type Batch struct {
	Revision int64
	Events   []Event
}

// Store keeps entries.
type Store interface {
	// Get returns the entry of key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// Revision returns the newest revision.
	Revision(ctx context.Context) (int64, error)
	// List returns entries in order of key; ErrCompacted if r.Revision is gone.
	List(ctx context.Context, r Range) (Page, error)
	// Commit applies t and returns its revision; a *ConflictError if a compare failed.
	Commit(ctx context.Context, t Txn) (int64, error)
	// Watch yields every change below prefix after revision from. It ends with
	// one error, ErrCompacted if from is too old, or silently when ctx ends.
	Watch(ctx context.Context, prefix string, from int64) iter.Seq2[Batch, error]
	// Compact forgets the history before revision: deleted and overwritten values.
	Compact(ctx context.Context, revision int64) error
	// Leading yields whether this member leads, at once and after every change,
	// until ctx ends. Two members may both believe to lead for a moment: writes
	// that must not overlap carry a Compare on a key the new leader bumps.
	Leading(ctx context.Context) iter.Seq[bool]
	// Stopped is closed once the store serves no more: it was closed, or ended
	// by itself.
	Stopped() <-chan struct{}
	// Close releases everything. Calls under way fail.
	Close() error
}
