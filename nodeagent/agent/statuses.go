package agent

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// statuses carries the statuses of the node's pods to the API. Those that come
// while a write is under way go together with the next: a node that starts many
// pods at once makes few transactions, and a single one waits for nobody.
type statuses struct {
	client *client.Client
	wake   chan struct{}

	mu      sync.Mutex
	waiting []*statusWrite
}

type statusWrite struct {
	pod    *api.Pod
	done   chan struct{} // closed
	stored *api.Pod
	err    error
}

func newStatuses(c *client.Client) *statuses {
	return &statuses{client: c, wake: make(chan struct{}, 1)}
}

// put returns once the pod's status is written. Of what is stored, only the
// revision is sure to be told.
func (s *statuses) put(ctx context.Context, p *api.Pod) (*api.Pod, error) {
	w := &statusWrite{pod: p, done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	select {
	case <-w.done:
		return w.stored, w.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

const (
	statusTimeout = 10 * time.Second
	mostStatuses  = 100 // in one transaction
)

// run writes what waits, one transaction at a time, until ctx ends.
func (s *statuses) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		for ws := s.take(); len(ws) > 0 && ctx.Err() == nil; ws = s.take() {
			s.write(ctx, ws)
		}
	}
}

func (s *statuses) take() []*statusWrite {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), mostStatuses)
	ws := s.waiting[:n:n]
	s.waiting = s.waiting[n:]
	return ws
}

// write writes statuses together. When one is refused none was written, and
// each is to hear what it would alone.
func (s *statuses) write(ctx context.Context, ws []*statusWrite) {
	var revision int64
	var err error
	if len(ws) > 1 {
		revision, err = s.batch(ctx, ws)
	}
	alone := len(ws) == 1 || err != nil && !api.Is(err, api.Unready) && ctx.Err() == nil
	for _, w := range ws {
		switch {
		case alone:
			w.stored, w.err = s.single(ctx, w.pod)
		case err != nil:
			w.err = err
		default:
			w.stored = &api.Pod{Kind: w.pod.Kind, Meta: w.pod.Meta, Status: w.pod.Status}
			w.stored.Meta.Revision = revision
		}
		close(w.done)
	}
}

func (s *statuses) single(ctx context.Context, p *api.Pod) (*api.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return client.Of(s.client, api.Pods).PutStatus(ctx, p)
}

func (s *statuses) batch(ctx context.Context, ws []*statusWrite) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	writes := make([]api.BatchWrite, len(ws))
	for i, w := range ws {
		b, err := json.Marshal(api.Pod{Kind: api.Pods.Name, Meta: w.pod.Meta, Status: w.pod.Status})
		if err != nil {
			panic(err) // every api type marshals
		}
		writes[i].Status = b
	}
	return s.client.Batch(ctx, writes)
}
