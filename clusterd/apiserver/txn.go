package apiserver

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// caller is who asks, and what its headers say about the write.
type caller struct {
	Identity
	still     standing
	rights    api.Rights // of a user
	program   string     // its User-Agent
	requestID string     // makes a retry find its own write
	fence     int64      // revision the fence key must have; 0 demands nothing
}

// txn is one request on its way into the store: a snapshot, and what to change
// in it. Everything that was read must be unchanged when it commits. Several
// writes of one batch see each other's effects.
type txn struct {
	s      *Server
	by     caller
	now    time.Time
	snap   *snapshot
	reads  map[string]int64
	writes map[string][]byte     // nil deletes
	staged map[string]*object    // what writes make of the objects
	bound  map[string]load       // by node: what this transaction binds, less what it frees
	freed  map[string]bool       // keys of pods of the snapshot that it has removed, perhaps to make them anew
	ports  map[nodePort]string   // the pods that take them by binds of this transaction
	made   map[string]api.Charge // by key of the owner, of pods this transaction makes
	images pinning
}

func (s *Server) newTxn(snap *snapshot, by caller) *txn {
	t := &txn{s: s, by: by, snap: snap, now: api.Now(),
		reads: map[string]int64{}, writes: map[string][]byte{}, staged: map[string]*object{}, bound: map[string]load{}, freed: map[string]bool{}, ports: map[nodePort]string{}, made: map[string]api.Charge{}}
	if by.fence != 0 {
		t.reads[fenceKey] = by.fence
	}
	return t
}

// read returns the object at key, or nil; the transaction fails if it changes meanwhile.
func (t *txn) read(key string) *object {
	if _, ok := t.reads[key]; !ok {
		t.reads[key] = t.snap.revisionOf(key)
	}
	return t.peek(key)
}

// peek returns the object at key, or nil, without depending on it.
func (t *txn) peek(key string) *object {
	if o, ok := t.staged[key]; ok {
		return o
	}
	return t.snap.get(key)
}

// put stages an object. Its key must have been read.
func (t *txn) put(o *object) {
	o.meta.Revision = 0 // the store has it
	o.value = o.encode()
	o.body = o.value
	t.writes[o.key], t.staged[o.key] = o.value, o
}

// set stages a value that is no object.
func (t *txn) set(key string, value []byte) {
	t.writes[key], t.staged[key] = value, &object{key: key, value: value}
}

// remove stages a deletion.
func (t *txn) remove(key string) {
	if was := t.snap.get(key).loads(); was.node != "" && !t.freed[key] {
		t.freed[key] = true
		t.bound[was.node] = t.bound[was.node].minus(was.load)
	}
	t.writes[key], t.staged[key] = nil, nil
}

func (t *txn) store() store.Txn {
	var out store.Txn
	for key, revision := range t.reads {
		out.If = append(out.If, store.Compare{Key: key, Revision: revision})
	}
	for key, value := range t.writes {
		if value == nil {
			out.Then = append(out.Then, store.Delete(key))
		} else {
			out.Then = append(out.Then, store.Put(key, value))
		}
	}
	return out
}

const writeTimeout = 20 * time.Second

// errSilent is why a write or a read ended at its own bound, not at its
// caller's. A proposal of a leader that was cut off is lost without a word.
var errSilent = api.Errorf(api.Unready, "the store does not answer: perhaps no majority of the servers reaches each other; try again, or ask another server")

// silent returns errSilent for an error of a context that ended with it.
func silent(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// commit runs plan on the state of the cluster and writes what it staged, again
// and again until nothing it read has changed in between. It begins with what
// the cache has; only what is certainly newest may refuse a request, or find
// that there is nothing to do. It returns the revision of the write, or of the
// state that needed none.
func (s *Server) commit(ctx context.Context, by caller, plan func(*txn) error) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errSilent)
	defer cancel()
	snap, newest := s.cache.now.Load(), false
	var known findings
	for {
		if snap == nil {
			var err error
			if snap, err = s.cache.latest(ctx); err != nil {
				return 0, err
			}
			newest = true
		}
		t := s.newTxn(snap, by)
		t.images.known = known
		err := plan(t)
		if len(t.images.lacks) > 0 {
			if newest {
				known = s.askRegistries(ctx, t)
			} else {
				snap = nil // perhaps it has what is lacking
			}
			continue
		}
		if err != nil || len(t.writes) == 0 {
			if newest {
				return snap.revision, err
			}
			snap = nil
			continue
		}
		s.cache.written.expect(t.staged)
		revision, err := s.store.Commit(ctx, t.store())
		if err == nil {
			return revision, nil
		}
		s.cache.written.forget(t.staged)
		clash, ok := errors.AsType[*store.ConflictError](err)
		if !ok {
			return 0, silent(ctx, err)
		}
		if by.fence != 0 && slices.ContainsFunc(clash.Failed, func(c store.Compare) bool { return c.Key == fenceKey }) {
			return 0, api.Errorf(api.Precondition, "fenced off: another server leads since this write was decided")
		}
		if snap, err = s.cache.at(ctx, clash.Revision); err != nil {
			return 0, err
		}
		newest = true
	}
}

// dryRun runs plan on the newest state and changes nothing.
func (s *Server) dryRun(ctx context.Context, by caller, plan func(*txn) error) (int64, error) {
	snap, err := s.cache.latest(ctx)
	if err != nil {
		return 0, err
	}
	var known findings
	for {
		t := s.newTxn(snap, by)
		t.images.known = known
		err := plan(t)
		if len(t.images.lacks) == 0 {
			return snap.revision, err
		}
		known = s.askRegistries(ctx, t)
	}
}
