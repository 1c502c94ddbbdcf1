package keys

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
)

// Wrapped is a root key that a passphrase opens.
type Wrapped struct {
	Salt       []byte `json:"salt"`
	Iterations int    `json:"iterations"` // of PBKDF2 with SHA-256
	Sealed     []byte `json:"sealed"`
}

// iterations is what OWASP asks for in 2025 of PBKDF2-HMAC-SHA256.
const iterations = 600_000

// Wrap seals a root key with a passphrase.
func Wrap(passphrase string, root []byte) Wrapped {
	w := Wrapped{Salt: random(), Iterations: iterations}
	w.Sealed = encrypt(w.key(passphrase), root, "clusterd root")
	return w
}

// Unwrap returns the root key.
func (w Wrapped) Unwrap(passphrase string) ([]byte, error) {
	if w.Iterations < 1 || w.Iterations > 100*iterations {
		return nil, errors.New("the wrapped root key is damaged")
	}
	root, err := decrypt(w.key(passphrase), w.Sealed, "clusterd root")
	if err != nil {
		return nil, errors.New("the passphrase is not the one that the snapshot was saved with")
	}
	return root, nil
}

func (w Wrapped) key(passphrase string) []byte {
	k, err := pbkdf2.Key(sha256.New, passphrase, w.Salt, w.Iterations, keySize)
	if err != nil {
		panic(err) // only for lengths that cannot be
	}
	return k
}
