package keys

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
	"slices"
	"strings"
	"time"
)

// Ring is the keys that keep secrets unreadable where they lie. The newest
// seals, all open. Each version of a secret is encrypted (AES-256-GCM) with a key
// of its own, which is encrypted with a key of the ring.
//
// An envelope opens only under the name it was sealed for, so that none can take
// another's place, and says which key of the ring it needs. A version's name is
// made with a key, so that it does not tell whether a guess at the values is
// right. A Ring is not changed: Add and Forget return another.
type Ring struct {
	Hash []byte `json:"hash"` // names versions; never changes, or names would
	Keys []Key  `json:"keys"` // newest last
}

// Key is one of a ring.
type Key struct {
	ID        string    `json:"id"`
	Secret    []byte    `json:"secret"`
	CreatedAt time.Time `json:"created_at"`
}

// keySize is that of AES-256, in bytes.
const keySize = 32

// NewRing returns a ring with one key.
func NewRing() Ring { return Ring{Hash: random(), Keys: []Key{newKey()}} }

func (r Ring) check() error {
	if len(r.Hash) != keySize || len(r.Keys) == 0 {
		return errors.New("it has no keys for secrets")
	}
	for _, k := range r.Keys {
		if len(k.Secret) != keySize || k.ID == "" {
			return fmt.Errorf("its key %s for secrets is damaged", k.ID)
		}
	}
	return nil
}

func random() []byte {
	b := make([]byte, keySize)
	rand.Read(b)
	return b
}

func newKey() Key {
	return Key{ID: strings.ToLower(rand.Text()[:8]), Secret: random(), CreatedAt: time.Now().UTC().Truncate(time.Second)}
}

// Add returns the ring with a new key, which seals from now on.
func (r Ring) Add() Ring { return Ring{r.Hash, append(slices.Clone(r.Keys), newKey())} }

// Current is the id of the key that seals.
func (r Ring) Current() string { return r.Keys[len(r.Keys)-1].ID }

// Older lists the ids of the keys before the current one.
func (r Ring) Older() (ids []string) {
	for _, k := range r.Keys[:len(r.Keys)-1] {
		ids = append(ids, k.ID)
	}
	return ids
}

// Forget returns the ring without all keys but the current one and those in
// use, and the ids of those it left out.
func (r Ring) Forget(inUse func(id string) bool) (next Ring, ids []string) {
	next.Hash = r.Hash
	for i, k := range r.Keys {
		if i == len(r.Keys)-1 || inUse(k.ID) {
			next.Keys = append(next.Keys, k)
		} else {
			ids = append(ids, k.ID)
		}
	}
	return next, ids
}

// Name names the values of a secret: the same values have the same name, and
// without the ring a name tells nothing.
func (r Ring) Name(of string, values map[string]string) string {
	b, err := json.Marshal(values) // keys in order
	if err != nil {
		panic(err) // text
	}
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
func (r Ring) Seal(name string, plain []byte) []byte {
	own := random()
	return r.wrap(name, own, encrypt(own, plain, name))
}

func (r Ring) wrap(name string, own, data []byte) []byte {
	k := r.Keys[len(r.Keys)-1]
	b, err := json.Marshal(envelope{k.ID, encrypt(k.Secret, own, k.ID+"\x00"+name), data})
	if err != nil {
		panic(err) // bytes
	}
	return b
}

// Open decrypts what was sealed for name.
func (r Ring) Open(name string, sealed []byte) ([]byte, error) {
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
func (r Ring) Reseal(name string, sealed []byte) ([]byte, error) {
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

func (r Ring) unwrap(name string, sealed []byte) (e envelope, own []byte, err error) {
	if err := json.Unmarshal(sealed, &e); err != nil {
		return e, nil, fmt.Errorf("%s: the sealed values are damaged", name)
	}
	i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.ID == e.Key })
	if i < 0 {
		return e, nil, fmt.Errorf("%s is sealed with key %s, which the cluster does not have any more: restore an older backup", name, e.Key)
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
