package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	joinPrefix = "CJ1"
	userPrefix = "ct"

	idBytes     = 6  // enough that made-up ids do not clash; not secret
	secretBytes = 24 // 192 bits: no slow hash is needed to keep it from being guessed
)

// JoinToken lets a machine into the cluster: it says which CA to trust and
// proves that the holder was invited. Its form is CJ1.<pin>.<id>.<secret>.
type JoinToken struct {
	Pin    string // hex SHA-256 of the CA's public key
	ID     string // name of the Token object
	Secret string
}

// NewJoinToken makes a token with a fresh id and secret for the CA with that
// pin.
func NewJoinToken(pin string) JoinToken {
	return JoinToken{Pin: pin, ID: "t" + randomHex(idBytes), Secret: randomHex(secretBytes)}
}

// ParseJoinToken reads a token as a person pasted it. Its errors never repeat
// the secret.
func ParseJoinToken(s string) (JoinToken, error) {
	s = strings.TrimSpace(s)
	parts := strings.Split(s, ".")
	switch {
	case s == "":
		return JoinToken{}, errors.New("join token: it is empty; a server makes one with: clusterd token create --role node")
	case strings.HasPrefix(s, userPrefix+"_"):
		return JoinToken{}, errors.New("join token: this is a user token (ct_…); joining needs one that starts with CJ1.")
	case parts[0] != joinPrefix:
		return JoinToken{}, errors.New("join token: it does not start with CJ1.")
	case len(parts) != 4:
		return JoinToken{}, fmt.Errorf("join token: want 4 parts, CJ1.<pin>.<id>.<secret>, have %d: was it cut when copied?", len(parts))
	}
	t := JoinToken{Pin: parts[1], ID: parts[2], Secret: parts[3]}
	if err := isHex("pin", t.Pin, sha256.Size); err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	if err := checkID(t.ID); err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	if err := isHex("secret", t.Secret, secretBytes); err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	return t, nil
}

// Reveal is the whole token, for the person who is to use it.
func (t JoinToken) Reveal() string {
	return strings.Join([]string{joinPrefix, t.Pin, t.ID, t.Secret}, ".")
}

// String is safe to print: it leaves the secret out. Reveal has it.
func (t JoinToken) String() string { return joinPrefix + "." + t.Pin + "." + t.ID + ".***" }

// Hash is what the server keeps of the token.
func (t JoinToken) Hash() string { return Hash(t.Secret) }

// UserToken is a person's or a program's bearer token: ct_<id>_<secret>.
type UserToken struct {
	ID     string // name of the Token object
	Secret string
}

// NewUserToken makes a token with a fresh id and secret.
func NewUserToken() UserToken {
	return UserToken{ID: "t" + randomHex(idBytes), Secret: randomHex(secretBytes)}
}

// ParseUserToken reads a token as a person pasted it. Its errors never repeat
// the secret.
func ParseUserToken(s string) (UserToken, error) {
	s = strings.TrimSpace(s)
	parts := strings.Split(s, "_")
	switch {
	case s == "":
		return UserToken{}, errors.New("token: it is empty; set CLUSTERD_TOKEN, or read the admin token from <data-dir>/admin.token on the first server")
	case strings.HasPrefix(s, joinPrefix+"."):
		return UserToken{}, errors.New("token: this is a join token (CJ1.…); the API needs one that starts with ct_")
	case parts[0] != userPrefix:
		return UserToken{}, errors.New("token: it does not start with ct_")
	case len(parts) != 3:
		return UserToken{}, fmt.Errorf("token: want 3 parts, ct_<id>_<secret>, have %d: was it cut when copied?", len(parts))
	}
	t := UserToken{ID: parts[1], Secret: parts[2]}
	if err := checkID(t.ID); err != nil {
		return UserToken{}, fmt.Errorf("token: %w", err)
	}
	if err := CheckSecret(t.Secret); err != nil {
		return UserToken{}, fmt.Errorf("token: its secret %w: was it cut or changed when copied?", err)
	}
	return t, nil
}

// Bounds of a user token's secret. Those made here are hex; others are made by
// password generators.
const (
	leastSecret = 40 // random letters and digits: 206 bits
	mostSecret  = 128
)

// CheckSecret says why s cannot be the secret of a user's token. That it is
// random is for who makes it to see to.
func CheckSecret(s string) error {
	strange := strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
	if strange || len(s) < leastSecret || len(s) > mostSecret {
		return fmt.Errorf("must be %d to %d letters and digits", leastSecret, mostSecret)
	}
	return nil
}

// Reveal is the whole token, for the person who is to use it.
func (t UserToken) Reveal() string { return userPrefix + "_" + t.ID + "_" + t.Secret }

// String is safe to print: it leaves the secret out. Reveal has it.
func (t UserToken) String() string { return userPrefix + "_" + t.ID + "_***" }

// Hash is what the server keeps of the token.
func (t UserToken) Hash() string { return Hash(t.Secret) }

// Hash is the stored form of a token's secret: hex of its SHA-256. Secrets are
// random and long, so nothing slower is needed.
func Hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// HashMatches compares a stored hash with that of secret in constant time.
func HashMatches(stored, secret string) bool {
	return subtle.ConstantTimeCompare([]byte(stored), []byte(Hash(secret))) == 1
}

// checkID wants the name of a Token object: that is what an id is.
func checkID(s string) error {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' || strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}) {
		return errors.New("its id must be the name of a token: lower-case letters, digits and dashes, starting with a letter")
	}
	return nil
}

func isHex(part, s string, size int) error {
	// Only lower case, so that a token has one spelling.
	strange := strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
	switch {
	case len(s) != 2*size:
		return fmt.Errorf("its %s must be %d characters of 0-9 and a-f, this one has %d: was it cut when copied?", part, 2*size, len(s))
	case strange:
		return fmt.Errorf("its %s must be %d characters of 0-9 and a-f, in lower case: was it changed when copied?", part, 2*size)
	}
	return nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}
