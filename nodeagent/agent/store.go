package agent

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Dir keeps pods' records as files of a directory.
type Dir string

const recordExt = ".json"

func (d Dir) path(uid string) string { return filepath.Join(string(d), uid+recordExt) }

// Load returns every record, by pod UID.
func (d Dir) Load() (map[string][]byte, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), recordExt)
		if !ok || strings.HasPrefix(uid, ".") {
			continue // half a file of an agent that was killed
		}
		b, err := os.ReadFile(d.path(uid))
		if err != nil {
			return out, err
		}
		out[uid] = b
	}
	return out, nil
}

// Save replaces a record, at once and for good.
func (d Dir) Save(uid string, record []byte) error { return pki.WriteFile(d.path(uid), record) }

// Delete removes a record.
func (d Dir) Delete(uid string) error {
	if err := os.Remove(d.path(uid)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Memory keeps records as long as the process lives: for nodes that are not machines.
type Memory struct {
	mu      sync.Mutex
	records map[string][]byte
}

// Load returns every record, by pod UID.
func (m *Memory) Load() (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.records), nil
}

// Save replaces a record.
func (m *Memory) Save(uid string, record []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = map[string][]byte{}
	}
	m.records[uid] = record
	return nil
}

// Delete removes a record.
func (m *Memory) Delete(uid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, uid)
	return nil
}
