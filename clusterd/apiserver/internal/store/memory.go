package store

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
)

// errClosed is what a closed Memory answers.
var errClosed = errors.New("store is closed")

// keepRevisions is how much history Memory keeps before it compacts itself.
const keepRevisions = 20_000

// Memory is a Store that forgets everything when the process ends. It starts
// no goroutines and blocks on channels only, so that it lives in synctest
// bubbles.
type Memory struct {
	mu        sync.Mutex
	revision  int64
	compacted int64 // history at and before this revision is gone
	data      map[string]Entry
	log       []change // ordered by revision, all after compacted
	wake      chan struct{}
	closed    chan struct{}
}

// change is an event with what it replaced, so that older states can be rebuilt.
type change struct {
	Event
	before Entry // Revision 0: the key was absent
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{revision: 1, data: map[string]Entry{}, wake: make(chan struct{}), closed: make(chan struct{})}
}

var _ Store = (*Memory)(nil)

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if err := m.usable(ctx); err != nil {
		return Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.data[key]
	if !ok {
		return Entry{}, ErrNotFound
	}
	return e, nil
}

// Revision implements Store.
func (m *Memory) Revision(ctx context.Context) (int64, error) {
	if err := m.usable(ctx); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision, nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, r Range) (Page, error) {
	if err := m.usable(ctx); err != nil {
		return Page{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at, data := m.revision, m.data
	if r.Revision != 0 && r.Revision < m.revision {
		if r.Revision < m.compacted {
			return Page{}, ErrCompacted
		}
		at, data = r.Revision, m.rewind(r.Revision)
	}
	var found []Entry
	for key, e := range data {
		if strings.HasPrefix(key, r.Prefix) && key > r.After {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	if r.Limit > 0 && len(found) > r.Limit {
		return Page{found[:r.Limit:r.Limit], at, true}, nil
	}
	return Page{found, at, false}, nil
}

// rewind returns the entries as they were at revision. The caller holds mu.
func (m *Memory) rewind(revision int64) map[string]Entry {
	data := maps.Clone(m.data)
	for _, c := range slices.Backward(m.log) {
		if c.Revision <= revision {
			break
		}
		if c.before.Revision == 0 {
			delete(data, c.Key)
		} else {
			data[c.Key] = c.before
		}
	}
	return data
}

// Commit implements Store.
func (m *Memory) Commit(ctx context.Context, t Txn) (int64, error) {
	if err := m.usable(ctx); err != nil {
		return 0, err
	}
	if err := t.check(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var failed []Compare
	for _, c := range t.If {
		if have := m.data[c.Key].Revision; have != c.Revision {
			failed = append(failed, Compare{c.Key, have})
		}
	}
	if failed != nil {
		return 0, &ConflictError{failed, m.revision}
	}
	next := m.revision + 1
	for _, op := range t.Then {
		before := m.data[op.Key]
		ev := Event{Entry{op.Key, slices.Clone(op.Value), next}, op.Delete}
		switch {
		case !op.Delete:
			m.data[op.Key] = ev.Entry
		case before.Revision == 0:
			continue
		default:
			ev.Value = nil
			delete(m.data, op.Key)
		}
		m.log = append(m.log, change{ev, before})
		m.revision = next
	}
	if m.revision == next {
		close(m.wake)
		m.wake = make(chan struct{})
		if len(m.log) > 2*keepRevisions {
			m.compact(m.log[len(m.log)-keepRevisions].Revision)
		}
	}
	return m.revision, nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix string, from int64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for {
			if err := m.usable(ctx); err != nil {
				if ctx.Err() == nil {
					yield(Batch{}, err)
				}
				return
			}
			m.mu.Lock()
			if from < m.compacted {
				m.mu.Unlock()
				yield(Batch{}, ErrCompacted)
				return
			}
			start := sort.Search(len(m.log), func(i int) bool { return m.log[i].Revision > from })
			b := Batch{Revision: max(from, m.revision)}
			for _, c := range m.log[start:] {
				if strings.HasPrefix(c.Key, prefix) {
					b.Events = append(b.Events, c.Event)
				}
			}
			wake := m.wake
			m.mu.Unlock()
			if b.Revision > from {
				from = b.Revision
				if !yield(b, nil) {
					return
				}
				continue
			}
			select {
			case <-ctx.Done():
			case <-m.closed:
			case <-wake:
			}
		}
	}
}

// Compact implements Store.
func (m *Memory) Compact(ctx context.Context, revision int64) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if revision <= m.compacted {
		return ErrCompacted
	}
	m.compact(min(revision, m.revision))
	return nil
}

// compact drops the log up to and including revision, which stays readable. The caller holds mu.
func (m *Memory) compact(revision int64) {
	i := 0
	for i < len(m.log) && m.log[i].Revision <= revision {
		i++
	}
	m.log, m.compacted = slices.Clone(m.log[i:]), revision
}

// Leading implements Store: the only member leads.
func (m *Memory) Leading(ctx context.Context) iter.Seq[bool] {
	return func(yield func(bool) bool) {
		if !yield(true) {
			return
		}
		select {
		case <-ctx.Done():
		case <-m.closed:
		}
	}
}

// Stopped implements Store.
func (m *Memory) Stopped() <-chan struct{} { return m.closed }

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	return nil
}

func (m *Memory) usable(ctx context.Context) error {
	select {
	case <-m.closed:
		return errClosed
	default:
		return ctx.Err()
	}
}

// check refuses what an implementation could not do.
func (t Txn) check() error {
	if len(t.If) > MaxOps || len(t.Then) > MaxOps {
		return errors.New("transaction has more than 1000 compares or changes")
	}
	seen := make(map[string]bool, len(t.Then))
	for _, op := range t.Then {
		if seen[op.Key] {
			return errors.New("transaction changes " + op.Key + " twice")
		}
		seen[op.Key] = true
	}
	return nil
}
