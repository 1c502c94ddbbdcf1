package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
)

// A Server that is deleted leaves a note of who did it. The server of that name
// reads it as its last, or when it is started once more: it would register anew
// otherwise, had it missed its own end. The note goes when one of the name joins.

const removedPrefix = root + ".removed/"

func removedKey(name string) string { return removedPrefix + name }

// removedLevel is from which level of the cluster on notes are left: a server
// of before would let one of the name join, and leave the note to it.
const removedLevel = 2

// RemovedError says that this server is none of its cluster any more.
type RemovedError struct {
	By string    `json:"by,omitempty"` // who deleted it; empty if nobody said so
	At time.Time `json:"at,omitzero"`
}

func (e *RemovedError) Error() string {
	if e.By == "" {
		return "this server was removed from the cluster"
	}
	return fmt.Sprintf("this server was removed from the cluster by %s on %s", e.By, stamp(e.At))
}

// noteRemoval leaves the note to a server that goes by this transaction.
func (t *txn) noteRemoval(name string) error {
	at, err := levelOf(t.snap)
	if err == nil && at.Level >= removedLevel {
		t.set(removedKey(name), marshal(RemovedError{t.by.String(), t.now}))
	}
	return err
}

func openRemoval(note []byte) *RemovedError {
	e := &RemovedError{}
	if json.Unmarshal(note, e) != nil {
		return &RemovedError{}
	}
	return e
}

// checkRemoved refuses to start a server that was deleted.
func (s *Server) checkRemoved(ctx context.Context) error {
	e, err := s.store.Get(ctx, removedKey(s.cfg.Name))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether this server was removed: %w", err)
	}
	return openRemoval(e.Value)
}

// stopped says why the store ended by itself.
func (s *Server) stopped() error {
	if s.membership() == nil {
		return errors.New("the store ended by itself: its log says why")
	}
	if snap := s.cache.now.Load(); snap != nil {
		if note := snap.get(removedKey(s.cfg.Name)); note != nil {
			return openRemoval(note.value)
		}
	}
	return &RemovedError{}
}
