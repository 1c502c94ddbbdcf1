// Package seal keeps secrets unreadable where they lie.
//
// Each version of a secret is encrypted (AES-256-GCM) with a key of its own,
// which is encrypted with a key of the ring. The ring is a file of the server,
// 0600, that never goes into the store: a copy of the store alone says nothing.
//
// Invariants: an envelope opens only under the name it was sealed for, so that
// none can take another's place; it says which key of the ring it needs; a key
// is in the file before anything is sealed with it; a version's name is made
// with a key, so that it does not tell whether a guess at the values is right.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Ring is the keys of a server. The newest seals, all open.
type Ring struct {
	path string // "": in memory

	mu sync.RWMutex
	kept
}

// kept is what the file holds.
type kept struct {
	Hash []byte `json:"hash"` // names versions; never changes, or names would
	Keys []key  `json:"keys"` // newest last
}

type key struct {
	ID        string    `json:"id"`
	Secret    []byte    `json:"secret"`
	CreatedAt time.Time `json:"created_at"`
}

// keySize is that of AES-256.
const keySize = 32

// Open reads the ring at path, and makes one where there is none. An empty path
// is a ring that lives as long as the process.
func Open(path string) (*Ring, error) {
	r := &Ring{path: path}
	if path != "" {
		b, err := os.ReadFile(path)
		if err == nil {
			return r, r.read(b)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read the secrets' keys: %w", err)
		}
	}
	r.Hash = random()
	r.Keys = []key{newKey()}
	return r, r.save(r.kept)
}

func (r *Ring) read(b []byte) error {
	if json.Unmarshal(b, &r.kept) != nil || len(r.Hash) != keySize || len(r.Keys) == 0 {
		return fmt.Errorf("%s holds no keys: restore it from a backup", r.path)
	}
	for _, k := range r.Keys {
		if len(k.Secret) != keySize || k.ID == "" {
			return fmt.Errorf("%s is damaged: restore it from a backup", r.path)
		}
	}
	return nil
}

func (r *Ring) save(k kept) error {
	if r.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(k, "", "  ")
	if err == nil {
		err = pki.WriteFile(r.path, b)
	}
	if err != nil {
		return fmt.Errorf("write the secrets' keys: %w", err)
	}
	return nil
}

func random() []byte {
	b := make([]byte, keySize)
	rand.Read(b)
	return b
}

func newKey() key {
	return key{ID: strings.ToLower(rand.Text()[:8]), Secret: random(), CreatedAt: time.Now().UTC().Truncate(time.Second)}
}

// Add makes a new key, which seals from now on, and returns its id.
func (r *Ring) Add() (id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := newKey()
	next := kept{r.Hash, append(slices.Clone(r.Keys), k)}
	if err := r.save(next); err != nil {
		return "", err
	}
	r.kept = next
	return k.ID, nil
}

// Current is the id of the key that seals.
func (r *Ring) Current() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.Keys[len(r.Keys)-1].ID
}

// Older lists the ids of the keys before the current one.
func (r *Ring) Older() (ids []string) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range r.Keys[:len(r.Keys)-1] {
		ids = append(ids, k.ID)
	}
	return ids
}

// Forget removes all keys but the current one and those in use.
func (r *Ring) Forget(inUse func(id string) bool) (ids []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := kept{Hash: r.Hash}
	for i, k := range r.Keys {
		if i == len(r.Keys)-1 || inUse(k.ID) {
			next.Keys = append(next.Keys, k)
		} else {
			ids = append(ids, k.ID)
		}
	}
	if err := r.save(next); err != nil {
		return nil, err
	}
	r.kept = next
	return ids, nil
}

// Name names the values of a secret: the same values have the same name, and
// without the ring a name tells nothing.
func (r *Ring) Name(of string, values map[string]string) string {
	b, err := json.Marshal(values) // keys in order
	if err != nil {
		panic(err) // text
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	m := hmac.New(sha256.New, r.Hash)
	m.Write([]byte(of + "\x00"))
	m.Write(b)
	return hex.EncodeToString(m.Sum(nil)[:8])
}

// envelope is a sealed version.
type envelope struct {
	Key  string `json:"key"`  // of the ring
	Own  []byte `json:"own"`  // its own key, sealed with that
	Data []byte `json:"data"` // sealed with its own key
}

// Seal encrypts plain so that it opens only for name.
func (r *Ring) Seal(name string, plain []byte) []byte {
	own := random()
	return r.wrap(name, own, encrypt(own, plain, name))
}

func (r *Ring) wrap(name string, own, data []byte) []byte {
	r.mu.RLock()
	k := r.Keys[len(r.Keys)-1]
	r.mu.RUnlock()
	b, err := json.Marshal(envelope{k.ID, encrypt(k.Secret, own, k.ID+"\x00"+name), data})
	if err != nil {
		panic(err) // bytes
	}
	return b
}

// Open decrypts what was sealed for name.
func (r *Ring) Open(name string, sealed []byte) ([]byte, error) {
	e, own, err := r.unwrap(name, sealed)
	if err != nil {
		return nil, err
	}
	plain, err := decrypt(own, e.Data, name)
	if err != nil {
		return nil, fmt.Errorf("%s: the sealed values are damaged, or another's", name)
	}
	return plain, nil
}

// Reseal seals the key of an envelope anew, with the ring's current one.
func (r *Ring) Reseal(name string, sealed []byte) ([]byte, error) {
	e, own, err := r.unwrap(name, sealed)
	if err != nil {
		return nil, err
	}
	return r.wrap(name, own, e.Data), nil
}

// KeyOf returns the id of the key that an envelope needs.
func KeyOf(sealed []byte) string {
	var e envelope
	if json.Unmarshal(sealed, &e) != nil {
		return ""
	}
	return e.Key
}

func (r *Ring) unwrap(name string, sealed []byte) (e envelope, own []byte, err error) {
	if err := json.Unmarshal(sealed, &e); err != nil {
		return e, nil, fmt.Errorf("%s: the sealed values are damaged", name)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	i := slices.IndexFunc(r.Keys, func(k key) bool { return k.ID == e.Key })
	if i < 0 {
		return e, nil, fmt.Errorf("%s is sealed with key %s, which this server does not have: restore it from a backup of %s", name, e.Key, r.path)
	}
	if own, err = decrypt(r.Keys[i].Secret, e.Own, e.Key+"\x00"+name); err != nil {
		return e, nil, fmt.Errorf("%s: the sealed values are damaged, or another's", name)
	}
	return e, own, nil
}

// encrypt returns nonce and ciphertext; it opens only with the same context.
func encrypt(key, plain []byte, context string) []byte {
	return aead(key).Seal(nil, nil, plain, []byte(context))
}

func decrypt(key, sealed []byte, context string) ([]byte, error) {
	return aead(key).Open(nil, nil, sealed, []byte(context))
}

// aead is AES-256-GCM that puts a random nonce before what it seals.
func aead(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // a key of another size
	}
	g, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		panic(err)
	}
	return g
}
