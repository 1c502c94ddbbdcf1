// Package keys is what the servers of one cluster share and nobody else may know:
// the authorities that sign certificates, the keys that members gossip with, and
// those that seal secrets.
//
// Invariants:
//   - The store has the set sealed with its root, which never goes into the
//     store: a copy of the store alone opens nothing.
//   - Every server has the whole set in a file of its own, 0600, so that it can
//     prove who it is before it can read the store.
//   - A set is not changed: who rotates makes another, and the store decides
//     which one it is.
package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Set is the keys of a cluster.
type Set struct {
	Root    []byte          `json:"root,omitempty"`
	CA      []pki.Authority `json:"ca"`              // oldest first: the last signs
	Gossip  [][]byte        `json:"gossip"`          // oldest first: the last is spoken, all are understood
	Fresh   []byte          `json:"fresh,omitempty"` // to gossip with: understood by all before anybody speaks it
	Secrets Ring            `json:"secrets"`
}

// New makes the keys of a cluster.
func New(cluster string) (*Set, error) {
	a, err := pki.NewAuthority(cluster, nil)
	if err != nil {
		return nil, err
	}
	return &Set{Root: random(), CA: []pki.Authority{a}, Gossip: [][]byte{random()}, Secrets: NewRing()}, nil
}

// Load reads what Save wrote. A missing file is an error that matches
// os.ErrNotExist.
func Load(path string) (*Set, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's keys: %w", err)
	}
	s, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: restore it from a backup", path, err)
	}
	return s, nil
}

// Save writes the set to path, 0600.
func (s *Set) Save(path string) error {
	if err := pki.WriteFile(path, s.Encode()); err != nil {
		return fmt.Errorf("write the cluster's keys: %w", err)
	}
	return nil
}

// Encode is the whole set, root included, as Parse reads it.
func (s *Set) Encode() []byte {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // bytes and text
	}
	return append(b, '\n')
}

// Parse reads a whole set. Its errors repeat nothing of it.
func Parse(b []byte) (*Set, error) {
	var s Set
	if json.Unmarshal(b, &s) != nil {
		return nil, errors.New("it does not hold a cluster's keys")
	}
	return &s, s.check()
}

func (s *Set) check() error {
	switch {
	case len(s.Root) != keySize:
		return errors.New("it has no root key")
	case len(s.Gossip) == 0:
		return errors.New("it has no key to gossip with")
	}
	for _, k := range s.GossipKeys() {
		if len(k) != keySize {
			return errors.New("a key to gossip with is damaged")
		}
	}
	if _, err := pki.OpenCA(s.CA); err != nil {
		return err
	}
	return s.Secrets.check()
}

// sealedFor is the context that a sealed set opens in.
const sealedFor = "clusterd keys"

// Seal returns the set for the store: readable with its root alone.
func (s *Set) Seal() []byte {
	open := *s
	open.Root = nil
	b, err := json.Marshal(open)
	if err != nil {
		panic(err) // bytes and text
	}
	return encrypt(s.Root, b, sealedFor)
}

// Open reads what Seal wrote.
func Open(root, sealed []byte) (*Set, error) {
	if len(root) != keySize {
		return nil, errors.New("the cluster's root key is not known here")
	}
	b, err := decrypt(root, sealed, sealedFor)
	if err != nil {
		return nil, errors.New("the keys in the store are not sealed with the root key of this server: it belongs to another cluster, or its keys are from another backup than the store")
	}
	var s Set
	if json.Unmarshal(b, &s) != nil {
		return nil, errors.New("the keys in the store are damaged")
	}
	s.Root = bytes.Clone(root)
	return &s, s.check()
}
