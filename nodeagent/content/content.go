// Package content has what the pods of a node use of configs and secrets.
//
// Invariants: a node only ever has the versions that its own pods use; on disk
// they are encrypted with a key of the node, in a file per pod that goes with
// the pod; what was fetched once is never asked for again, so that a pod starts
// without the control plane, after a reboot, too.
package content

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Values are by config/web or secret/db, and by key.
type Values map[string]map[string]string

// Fetch asks the control plane for a version.
type Fetch func(ctx context.Context, namespace, of, hash string) (map[string]string, error)

// Store keeps the values of the node's pods. Use New.
type Store struct {
	dir   string // "": in memory
	fetch Fetch
	key   func() ([]byte, error)

	mu   sync.Mutex
	pods map[string]Values // by UID
}

// Files of the directory.
const (
	keyFile = "node.key"
	ext     = ".sealed"
)

// New returns the store in dir; with an empty one it ends with the process.
func New(dir string, fetch Fetch) *Store {
	return &Store{dir: dir, fetch: fetch, pods: map[string]Values{},
		key: sync.OnceValues(func() ([]byte, error) { return openKey(filepath.Join(dir, keyFile)) })}
}

// openKey reads the node's key. A node that has none makes it.
func openKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	key = make([]byte, 32)
	rand.Read(key)
	if err := pki.WriteFile(path, key); err != nil {
		return nil, fmt.Errorf("write the node's key: %w", err)
	}
	return key, nil
}

// Of returns all that a pod uses. It asks the control plane for what the node
// does not have.
func (s *Store) Of(ctx context.Context, p *api.Pod) (Values, error) {
	have := maps.Clone(s.Known(p))
	if have == nil {
		have = Values{}
	}
	fetched := false
	for _, of := range slices.Sorted(maps.Keys(p.Spec.Contents)) {
		if have[of] != nil {
			continue
		}
		values, err := s.fetch(ctx, p.Meta.Namespace, of, p.Spec.Contents[of])
		if err != nil {
			return nil, fmt.Errorf("get %s: %w", strings.Replace(of, "/", " ", 1), err)
		}
		if values == nil {
			values = map[string]string{}
		}
		have[of], fetched = values, true
	}
	if !fetched {
		return have, nil
	}
	if err := s.save(p.Meta.UID, have); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[p.Meta.UID] = have
	return have, nil
}

// Known returns what the node has for a pod, without asking anybody.
func (s *Store) Known(p *api.Pod) Values {
	if len(p.Spec.Contents) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	uid := p.Meta.UID
	if have, ok := s.pods[uid]; ok {
		return have
	}
	have, err := s.load(uid)
	if err != nil {
		return nil // it is fetched anew
	}
	s.pods[uid] = have
	return have
}

// Forget removes what the node has for a pod.
func (s *Store) Forget(uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(s.path(uid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) path(uid string) string { return filepath.Join(s.dir, uid+ext) }

func (s *Store) save(uid string, v Values) error {
	if s.dir == "" {
		return nil
	}
	g, err := s.aead()
	if err != nil {
		return err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := pki.WriteFile(s.path(uid), g.Seal(nil, nil, plain, []byte(uid))); err != nil {
		return fmt.Errorf("keep what pod %s uses: %w", uid, err)
	}
	return nil
}

func (s *Store) load(uid string) (Values, error) {
	if s.dir == "" {
		return nil, os.ErrNotExist
	}
	sealed, err := os.ReadFile(s.path(uid))
	if err != nil {
		return nil, err
	}
	g, err := s.aead()
	if err != nil {
		return nil, err
	}
	plain, err := g.Open(nil, nil, sealed, []byte(uid))
	if err != nil {
		return nil, err
	}
	var v Values
	return v, json.Unmarshal(plain, &v)
}

// aead is AES-256-GCM with the node's key; it puts a random nonce first.
func (s *Store) aead() (cipher.AEAD, error) {
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(b)
}
