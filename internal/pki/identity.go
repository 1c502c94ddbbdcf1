package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const identityFile = "identity.pem" // certificate and key together

// Identity is the current certificate of this process, its key, and the CA
// it trusts. TLS configs made from it pick up a renewed certificate at the
// next handshake; connections that stand are not touched.
type Identity struct {
	cur atomic.Pointer[state]

	mu  sync.Mutex // guards dir and the order of replacements
	dir string     // where replacements are saved; "" keeps them in memory
}

// state is replaced as a whole, so no handshake mixes two generations.
type state struct {
	id      ID
	cert    *tls.Certificate
	chain   []byte // PEM of the certificate and what leads to an older authority
	ca      []byte // PEM
	roots   *x509.CertPool
	serving *tls.Config
}

// LoadIdentity reads the identity that Save wrote to dir. Renewals go there
// too. A missing one is an error that matches os.ErrNotExist.
func LoadIdentity(dir string) (*Identity, error) {
	own, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return nil, fmt.Errorf("load the identity: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("load the identity: %w", err)
	}
	key, err := parseKey(own)
	if err != nil {
		return nil, fmt.Errorf("load the identity: %s: %w", filepath.Join(dir, identityFile), err)
	}
	id := &Identity{dir: dir}
	if err := id.install(key, own, ca); err != nil {
		return nil, fmt.Errorf("load the identity: %s: %w", filepath.Join(dir, identityFile), err)
	}
	return id, nil
}

// Save writes the identity to dir (created 0700, files 0600) and makes dir
// the place where renewals go.
func (id *Identity) Save(dir string) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	id.dir = dir
	return id.save(id.cur.Load())
}

func (id *Identity) save(s *state) error {
	keyPEM, err := encodeKey(s.cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(id.dir, caFile), s.ca); err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	if err := WriteFile(filepath.Join(id.dir, identityFile), append(s.chain, keyPEM...)); err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	return nil
}

// Files are the paths of what Save wrote to dir, in the form that programs
// with their own TLS (etcd's peers) ask for. Certificate and key are one file.
func Files(dir string) (cert, key, ca string) {
	own := filepath.Join(dir, identityFile)
	return own, own, filepath.Join(dir, caFile)
}

// ID is who this identity is.
func (id *Identity) ID() ID { return id.cur.Load().id }

// Leaf is the current certificate.
func (id *Identity) Leaf() *x509.Certificate { return id.cur.Load().cert.Leaf }

// CA is the PEM bundle of authorities this identity trusts.
func (id *Identity) CA() []byte { return id.cur.Load().ca }

// ClientTLS is for connections to servers. It accepts exactly what the
// cluster's CA calls a server, whatever address it was dialled by.
func (id *Identity) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return id.cur.Load().cert, nil
		},
		// The stock verification reads RootCAs once; ours reads the roots of
		// the moment, so a CA can be rotated under a running client.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return verifyServer(cs, id.cur.Load().roots) },
	}
}

// ServerTLS is for a listener. Client certificates are optional and verified
// when given; ask Peer who it is.
func (id *Identity) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return id.cur.Load().serving, nil
		},
	}
}

var protocols = []string{"h2", "http/1.1"}

func verifyServer(cs tls.ConnectionState, roots *x509.CertPool) error {
	mid := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		mid.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: mid,
		DNSName:       ServerName,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

// install makes key, cert and ca the current state in memory.
func (id *Identity) install(key *ecdsa.PrivateKey, cert, ca []byte) error {
	leaf, err := parseCert(cert)
	if err != nil {
		return err
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return errors.New("the certificate is for another key")
	}
	who, ok := idOf(leaf)
	if !ok {
		return fmt.Errorf("the certificate names no member: %q", leaf.Subject.CommonName)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("the CA bundle has no certificate in it")
	}
	// The CA travels with the leaf: someone who joins knows it by pin alone
	// and has to see it to check.
	chain := append(certs(cert), certs(ca)...)
	c := &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	var own []byte
	for _, der := range certs(cert) {
		own = append(own, encodeCert(der)...)
	}
	id.cur.Store(&state{id: who, cert: c, chain: own, ca: ca, roots: roots, serving: &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   protocols,
		Certificates: []tls.Certificate{*c},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    roots,
	}})
	return nil
}

// replace takes over the state of fresh, on disk first.
func (id *Identity) replace(fresh *Identity) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	s := fresh.cur.Load()
	if s.id != id.ID() {
		return fmt.Errorf("renew %s: the new certificate is for %s", id.ID(), s.id)
	}
	if id.dir != "" {
		if err := id.save(s); err != nil {
			return err
		}
	}
	id.cur.Store(s)
	return nil
}

// Keep renews the certificate at about two thirds of its life until ctx ends.
// A failed renewal is handed to report and tried again, at first soon, then
// every few minutes: days are left. Keep returns only when ctx is done.
func (id *Identity) Keep(ctx context.Context, renew func(context.Context) error, report func(error)) error {
	const first, most = time.Second, 5 * time.Minute
	wait, failed := time.Until(renewAt(id.Leaf(), mathrand.Float64())), first
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(wait, 0)):
		}
		if err := renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			report(fmt.Errorf("renew the certificate of %s, valid until %s: %w", id.ID(), id.Leaf().NotAfter.Format(time.RFC3339), err))
			wait, failed = failed, min(2*failed, most)
			continue
		}
		wait, failed = time.Until(renewAt(id.Leaf(), mathrand.Float64())), first
	}
}

// renewAt is two thirds of the life of c, plus up to a tenth by jitter [0,1),
// so that nodes that joined together do not renew together.
func renewAt(c *x509.Certificate, jitter float64) time.Time {
	life := c.NotAfter.Sub(c.NotBefore)
	return c.NotBefore.Add(time.Duration(float64(life) * (2.0/3 + 0.1*jitter)))
}

// newRequest makes a key and a certificate request (PEM) for it. The request
// names nobody: the issuer decides who this is.
func newRequest() (*ecdsa.PrivateKey, []byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// LoadRoots returns the TLS config of a client without an identity, which
// verifies servers by the PEM file at path and the address it dialled.
func LoadRoots(path string) (*tls.Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the CA certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read the CA certificate: %s has none in it: want the ca.crt of a server's data directory", path)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}, nil
}
