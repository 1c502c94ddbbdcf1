// Package journal is what the shim writes down about a container's life, so
// that it is known whoever was down when it happened: containerd forgets how a
// task ended that nobody asked about before containerd's own restart.
//
// Invariants: the shim writes an event here before it tells anyone; a file is
// replaced whole; a container without a file was never started.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The annotations of a container's spec that tell the shim what to do.
const (
	DirAnnotation = "clusterd.io/journal" // directory of the journal
	LogAnnotation = "clusterd.io/log"     // file for the container's log
	// LeaseAnnotation is the file that says until when the container may run.
	LeaseAnnotation = "clusterd.io/lease"
)

// oomWindow is how long before its end a container's process may have been
// killed for want of memory, for the end to be the consequence.
const oomWindow = 10 * time.Second

// Record is the life of one container.
type Record struct {
	StartedAt time.Time `json:"started_at"`
	Exit      *Exit     `json:"exit,omitempty"`
	OOMAt     time.Time `json:"oom_at,omitzero"` // a process of it was last killed for want of memory
}

// Exit is how it ended.
type Exit struct {
	Code int       `json:"code"`
	At   time.Time `json:"at"`
}

// OOM is whether the container ended because it ran out of memory.
func (r Record) OOM() bool {
	return r.Exit != nil && r.Exit.Code != 0 && !r.OOMAt.IsZero() && r.Exit.At.Sub(r.OOMAt) < oomWindow
}

func path(dir, id string) string { return filepath.Join(dir, id+".json") }

// Load reads a container's record; nil says it was never started.
func Load(dir, id string) (*Record, error) {
	b, err := os.ReadFile(path(dir, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("journal of %s: %w", id, err)
	}
	return &r, nil
}

// Save replaces a container's record. It does not wait for the disk: what a
// power cut takes away is about containers that it ended too.
func Save(dir, id string, r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	next := path(dir, "."+id)
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path(dir, id))
}

// Remove forgets a container.
func Remove(dir, id string) error {
	err := os.Remove(path(dir, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
