//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/journal"
)

// patience bounds what others wait for: the last lines of a log whose pipe a
// process outside the container still holds, and the entry of an end.
const patience = 2 * time.Second

// book is what the shim keeps about a container.
type book struct {
	id    string
	dir   string // of the journal; empty for none
	log   *containerLog
	lease string // file that says until when it may run; empty for none

	mu     sync.Mutex
	pid    int    // 0 until it is created
	cgroup string // directory of its memory controller
	record journal.Record
	told   chan struct{} // closed once the end is in the journal
}

func (b *book) started() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.record.StartedAt.IsZero() {
		return nil
	}
	b.record.StartedAt = time.Now()
	return b.save()
}

func (b *book) created(pid int) {
	cgroup := memoryCgroup(pid)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pid, b.cgroup = pid, cgroup
}

func (b *book) oom() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.record.OOMAt = time.Now()
	if err := b.save(); err != nil {
		log.L.WithError(err).WithField("id", b.id).Error("journal")
	}
}

func (b *book) exited(pid, code int, at time.Time) {
	if b.log != nil {
		b.log.drain(patience)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pid != pid {
		return // late news of an earlier try under the same id
	}
	b.pid = 0 // it ends once
	defer close(b.told)
	if b.record.StartedAt.IsZero() {
		return // it was created and undone, which is no life
	}
	b.record.Exit = &journal.Exit{Code: code, At: at}
	// The kernel's notice can come after the end it caused; its count does not.
	if b.record.OOMAt.IsZero() && code != 0 && oomKills(b.cgroup) > 0 {
		b.record.OOMAt = at
	}
	if err := b.save(); err != nil {
		log.L.WithError(err).WithField("id", b.id).Error("journal")
	}
}

func (b *book) save() error {
	if b.dir == "" {
		return nil
	}
	return journal.Save(b.dir, b.id, b.record)
}

// settled waits until the end is in the journal.
func (b *book) settled(ctx context.Context) {
	select {
	case <-b.told:
	case <-ctx.Done():
	case <-time.After(patience + time.Second):
	}
}

// books are those of the containers in this shim.
type books struct {
	mu   sync.Mutex
	open map[string]*book
}

func (s *books) add(b *book) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[b.id] = b
}

func (s *books) get(id string) *book {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[id]
}

func (s *books) drop(id string) {
	s.mu.Lock()
	b := s.open[id]
	delete(s.open, id)
	s.mu.Unlock()
	if b != nil && b.log != nil {
		b.log.close()
	}
}

// publisherWithBooks enters what happens before it is published.
type publisherWithBooks struct {
	shim.Publisher
	books *books
}

func (p publisherWithBooks) Publish(ctx context.Context, topic string, e events.Event) error {
	switch e := e.(type) {
	case *eventsapi.TaskExit:
		if b := p.books.get(e.ContainerID); b != nil && e.ID == e.ContainerID {
			b.exited(int(e.Pid), int(e.ExitStatus), e.ExitedAt.AsTime())
		}
	case *eventsapi.TaskOOM:
		if b := p.books.get(e.ContainerID); b != nil {
			b.oom()
		}
	}
	return p.Publisher.Publish(ctx, topic, e)
}

// reaper is the other life of this program: containerd runs it to clean up
// after a shim that died, which took its containers with it.
type reaper struct{ shim.Shim }

func (r reaper) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return shim.StopStatus{}, err
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	status, err := r.Shim.Stop(ctx, id)
	if err != nil {
		return status, err
	}
	// The dead are cleaned up whether or not there is a book to enter them in.
	if err := errors.Join(enter(bundle, id, status), removeDeadSocket(bundle)); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("note the end of a dead shim's container")
	}
	return status, nil
}

// enter notes an end that the dead shim has not.
func enter(bundle, id string, status shim.StopStatus) error {
	notes, err := annotations(bundle)
	if errors.Is(err, os.ErrNotExist) || err == nil && notes[journal.DirAnnotation] == "" {
		return nil
	}
	if err != nil {
		return err
	}
	dir := notes[journal.DirAnnotation]
	record, err := journal.Load(dir, id)
	if err != nil || record == nil || record.Exit != nil {
		return err
	}
	record.Exit = &journal.Exit{Code: status.ExitStatus, At: status.ExitedAt}
	return journal.Save(dir, id, *record)
}

// removeDeadSocket removes the socket of the shim that served a bundle, unless
// someone, such as the pod's next shim, serves it now.
func removeDeadSocket(bundle string) error {
	b, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var started struct {
		Address string `json:"address"`
	}
	if err == nil {
		err = json.Unmarshal(b, &started)
	}
	if err != nil || started.Address == "" || shim.CanConnect(started.Address) {
		return err
	}
	if err := shim.RemoveSocket(started.Address); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
