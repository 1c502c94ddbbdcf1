// Package pki is the cluster's own certificate authority and everything that
// hangs off it: join tokens, user tokens, the identity of a process and its
// renewal.
//
// Invariants:
//   - A certificate's identity (role and name) is what the issuer says it is;
//     nothing but the public key is taken from a certificate request.
//   - A private key never leaves the process that made it, except for its own
//     0600 file.
//   - A certificate and its key live in one file, replaced by rename, so no
//     crash leaves a key that does not belong to its certificate.
//   - Only a server's certificate can serve: a node's is for clients only, so
//     a stolen node key cannot pose as the API.
//   - No secret half of a token is ever stored or printed by this package.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Lifetimes. A certificate lives days because there is no revocation list: a
// node that is no longer wanted simply stops being renewed.
const (
	caLife = 10 * 365 * 24 * time.Hour
	// LeafLife is how long an issued certificate is valid unless CA.Life says
	// otherwise.
	LeafLife = 7 * 24 * time.Hour
	// clockSkew backdates certificates, for peers whose clock is behind ours.
	clockSkew = 5 * time.Minute
)

const caFile = "ca.pem" // certificates only: the bundle peers trust

// Authority is one certificate authority as it is kept, all PEM.
type Authority struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	// Cross is Certificate as the authority before signed it: who still trusts
	// only that one follows it to this.
	Cross string `json:"cross,omitempty"`
}

// CA signs certificates for the members of one cluster: with the newest of its
// authorities, while members trust all of them.
type CA struct {
	// Life of issued certificates; 0 means LeafLife.
	Life time.Duration

	cert  *x509.Certificate
	key   crypto.Signer
	cross []byte // PEM, goes with every certificate; empty with one authority
	all   []byte // PEM of every authority, newest first
}

// NewCA makes a certificate authority for the named cluster, in memory.
func NewCA(cluster string) (*CA, error) {
	a, err := NewAuthority(cluster, nil)
	if err != nil {
		return nil, err
	}
	return OpenCA([]Authority{a})
}

// NewAuthority makes an authority. One that follows another is also signed by
// that.
func NewAuthority(cluster string, before *Authority) (a Authority, err error) {
	key, err := newKey()
	if err != nil {
		return a, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "clusterd CA " + cluster, SerialNumber: newSerial().Text(36)},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1, // the one that replaces it
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return a, fmt.Errorf("sign the CA certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return a, err
	}
	a.Certificate, a.Key = string(encodeCert(der)), string(keyPEM)
	if before == nil {
		return a, nil
	}
	old, err := OpenCA([]Authority{*before})
	if err != nil {
		return a, err
	}
	tmpl.SerialNumber = newSerial()
	tmpl.MaxPathLen, tmpl.MaxPathLenZero = 0, true
	if der, err = x509.CreateCertificate(rand.Reader, tmpl, old.cert, key.Public(), old.key); err != nil {
		return a, fmt.Errorf("sign the CA certificate with the one before: %w", err)
	}
	a.Cross = string(encodeCert(der))
	return a, nil
}

// OpenCA returns the CA with those authorities, oldest first.
func OpenCA(all []Authority) (*CA, error) {
	if len(all) == 0 {
		return nil, errors.New("open the CA: it has no authority")
	}
	ca := &CA{}
	for i := len(all) - 1; i >= 0; i-- {
		cert, err := parseCert([]byte(all[i].Certificate))
		if err != nil {
			return nil, fmt.Errorf("open the CA: %w", err)
		}
		ca.all = append(ca.all, encodeCert(cert.Raw)...)
		if i < len(all)-1 {
			continue
		}
		key, err := parseKey([]byte(all[i].Key))
		if err != nil {
			return nil, fmt.Errorf("open the CA: %w", err)
		}
		if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
			return nil, errors.New("open the CA: its certificate and its key do not belong together")
		}
		ca.cert, ca.key = cert, key
		if len(all) > 1 {
			ca.cross = []byte(all[i].Cross)
		}
	}
	return ca, nil
}

// PEM is the certificates that members and users trust, the newest first.
func (ca *CA) PEM() []byte { return ca.all }

// Made is when the authority that signs was made.
func (ca *CA) Made() time.Time { return ca.cert.NotBefore.Add(clockSkew) }

// Pin identifies the CA by its key, so that a re-issued CA certificate keeps
// join tokens valid: hex of the SHA-256 of its SubjectPublicKeyInfo.
func (ca *CA) Pin() string { return pin(ca.cert) }

func pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Issue signs the public key of csr (PEM) for the identity id. Hosts (IP
// addresses or DNS names) are what a server may be reached by; a node serves
// nobody and has none. Nothing of the request but its key is used. What follows
// the certificate in the answer (PEM) leads from it to an older authority.
func (ca *CA) Issue(csr []byte, id ID, hosts ...string) ([]byte, error) {
	block, _ := pem.Decode(csr)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("csr: not a PEM certificate request")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	if pub, ok := req.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("csr: the key must be ECDSA P-256")
	}
	return ca.sign(req.PublicKey, id, hosts)
}

func (ca *CA) sign(pub crypto.PublicKey, id ID, hosts []string) ([]byte, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	life := ca.Life
	if life == 0 {
		life = LeafLife
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: id.String()},
		NotBefore:    now.Add(-min(clockSkew, life/10)),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	switch id.Role {
	case Server:
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		tmpl.DNSNames = []string{ServerName}
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
			} else {
				tmpl.DNSNames = append(tmpl.DNSNames, h)
			}
		}
	case Node:
		if len(hosts) > 0 {
			return nil, fmt.Errorf("issue a certificate for %s: a node has no hosts to serve", id)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	return append(encodeCert(der), ca.cross...), nil
}

// NewIdentity makes a key and a certificate for it in this process: how a
// server that holds the CA gets its own.
func (ca *CA) NewIdentity(id ID, hosts ...string) (*Identity, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	cert, err := ca.sign(key.Public(), id, hosts)
	if err != nil {
		return nil, err
	}
	out := &Identity{}
	return out, out.install(key, cert, ca.PEM())
}

// Reissue gives id a fresh key and certificate under the same name.
func (ca *CA) Reissue(id *Identity, hosts ...string) error {
	fresh, err := ca.NewIdentity(id.ID(), hosts...)
	if err != nil {
		return err
	}
	return id.replace(fresh)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newSerial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block := findBlock(b, "CERTIFICATE")
	if block == nil {
		return nil, errors.New("no PEM certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

// certs are all certificates of a PEM text, in order, as DER.
func certs(b []byte) (all [][]byte) {
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		if block.Type == "CERTIFICATE" {
			all = append(all, block.Bytes)
		}
	}
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block := findBlock(b, "PRIVATE KEY")
	if block == nil {
		return nil, errors.New("no PEM private key in it")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an ECDSA key, have %T", k)
	}
	return key, nil
}

func findBlock(b []byte, kind string) *pem.Block {
	for {
		block, rest := pem.Decode(bytes.TrimSpace(b))
		if block == nil || block.Type == kind {
			return block
		}
		b = rest
	}
}

// PinOf returns the pin of the CA whose certificate (PEM) is ca.
func PinOf(ca []byte) (string, error) {
	c, err := parseCert(ca)
	if err != nil {
		return "", fmt.Errorf("CA certificate: %w", err)
	}
	return pin(c), nil
}
