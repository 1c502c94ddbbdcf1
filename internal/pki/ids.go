package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
)

// idLength is how much of a hash names a key, in hex digits.
const idLength = 8

// AuthorityIDs names the authorities of a PEM text, in its order, separated by
// commas: by the beginnings of their pins.
func AuthorityIDs(bundle []byte) string {
	var ids []string
	for _, der := range certs(bundle) {
		if c, err := x509.ParseCertificate(der); err == nil {
			ids = append(ids, pin(c)[:idLength])
		}
	}
	return strings.Join(ids, ",")
}

// KeyIDs names secret keys, in their order, separated by commas. It tells
// nothing of them: they are random, and the hash is cut off.
func KeyIDs(secrets [][]byte) string {
	ids := make([]string, len(secrets))
	for i, k := range secrets {
		sum := sha256.Sum256(k)
		ids[i] = hex.EncodeToString(sum[:])[:idLength]
	}
	return strings.Join(ids, ",")
}
