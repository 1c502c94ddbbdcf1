package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// A client without an answer sends its write again, perhaps to another server,
// while the first may be done or still under way; what somebody else wrote in
// between must not be done over by the second. So each write of a user leaves a
// record in its own transaction, which demands that there was none. Loops and
// nodes look at the cluster again instead.

const (
	donePrefix = root + ".done/"
	// doneKept is as long as the store remembers what a request was answered
	// with, and far longer than any client tries.
	doneKept      = 5 * time.Minute
	forgetEvery   = time.Minute
	forgottenOnce = 500 // records that one transaction forgets
)

// done is the record of a request that was carried out, under its key. Its
// revision is that of what the request changed.
type done struct {
	At     time.Time `json:"at"`
	Key    string    `json:"key,omitempty"` // of the object it was answered with; a batch has none
	Code   int       `json:"code"`
	Delete bool      `json:"delete,omitempty"` // Key is there no more
}

// once carries a request out if it was not before.
type once struct {
	key    string // of its record, "" of what may be done twice
	before *object
}

// once is for a write of this request.
func (r *request) once() *once {
	if r.by.Role != RoleUser || r.by.requestID == "" || r.flag("dry_run") {
		return &once{}
	}
	return &once{key: donePrefix + pki.Hash(fmt.Sprintf("%s\n%s\n%s %s", r.by, r.by.requestID, r.Method, r.URL))}
}

// do has plan stage its writes, and what they did, unless they are done.
func (o *once) do(t *txn, plan func() (done, error)) error {
	if o.key == "" {
		_, err := plan()
		return err
	}
	if o.before = t.read(o.key); o.before != nil {
		return nil
	}
	d, err := plan()
	if err == nil && len(t.writes) > 0 && !t.s.room.full.Load() { // a full store takes nothing but deletes
		d.At = t.now
		t.set(o.key, marshal(d))
	}
	return err
}

// answered returns what the request was answered with when it was carried out
// before: the object as it was then, if there was one.
func (s *Server) answered(ctx context.Context, o *once) (code int, revision int64, out *object, err error) {
	var d done
	if err := json.Unmarshal(o.before.value, &d); err != nil {
		return 0, 0, nil, fmt.Errorf("decode %s: %w", o.before.key, err)
	}
	revision = o.before.meta.Revision
	if d.Key == "" {
		return d.Code, revision, nil, nil
	}
	r := store.Range{Prefix: d.Key, Limit: 1, Revision: revision}
	if d.Delete {
		r.Revision--
	}
	p, err := s.store.List(ctx, r)
	switch {
	case errors.Is(err, store.ErrCompacted):
		return 0, 0, nil, api.Errorf(api.Conflict, "this request was carried out at revision %d, and what it was answered with is forgotten: see what there is now", revision)
	case err != nil:
		return 0, 0, nil, err
	case len(p.Entries) == 0 || p.Entries[0].Key != d.Key:
		return 0, 0, nil, fmt.Errorf("the store has no %s at revision %d", d.Key, r.Revision)
	}
	out, err = s.decode(p.Entries[0])
	return d.Code, revision, out, err
}

// forgetDone removes old records, while this server leads, until ctx ends.
func (s *Server) forgetDone(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, forgetEvery)
		snap := s.cache.now.Load()
		if snap == nil || !s.Leads() {
			continue
		}
		for old := range slices.Chunk(oldRecords(snap), forgottenOnce) {
			_, err := s.commit(ctx, caller{Identity: Identity{RoleSystem, "store"}}, func(t *txn) error {
				for _, key := range old {
					if t.read(key) != nil {
						t.remove(key)
					}
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				s.log.Warn("forget old requests", "error", err)
				break
			}
		}
	}
}

// oldRecords returns the keys of records of which no client speaks any more.
func oldRecords(snap *snapshot) (keys []string) {
	before := api.Now().Add(-doneKept)
	snap.each(donePrefix, "", func(o *object) bool {
		var d done
		_ = json.Unmarshal(o.value, &d) // what is damaged is old
		if d.At.Before(before) {
			keys = append(keys, o.key)
		}
		return true
	})
	return keys
}
