package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// Role is what a certificate's holder is to the cluster.
type Role string

// The roles a certificate can carry.
const (
	Server Role = "server"
	Node   Role = "node"
)

// ServerName is a DNS name in every server's certificate. Members check it
// instead of an address: a server is whoever the CA calls one, wherever it is
// reached.
const ServerName = "server.clusterd.internal"

// ID is who a certificate speaks for: the CN "node:w1".
type ID struct {
	Role Role
	Name string
}

func (id ID) String() string { return string(id.Role) + ":" + id.Name }

// Validate reports a role that does not exist or a name that could be
// mistaken for another.
func (id ID) Validate() error {
	switch id.Role {
	case Server, Node:
	default:
		return fmt.Errorf("identity %s: no role %q: want server or node", id, id.Role)
	}
	if id.Name == "" || len(id.Name) > 63 || strings.ContainsFunc(id.Name, func(r rune) bool {
		return r != '-' && r != '.' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}) {
		return fmt.Errorf("identity %s: the name must be 1 to 63 of a-z, 0-9, '-' and '.'", id)
	}
	return nil
}

func idOf(c *x509.Certificate) (ID, bool) {
	role, name, ok := strings.Cut(c.Subject.CommonName, ":")
	id := ID{Role(role), name}
	return id, ok && id.Validate() == nil
}

// Issued is when c was signed. Certificates are backdated, see clockSkew.
func Issued(c *x509.Certificate) time.Time {
	// A tenth of the life, so an eleventh of the whole, unless that is more.
	return c.NotBefore.Add(min(clockSkew, c.NotAfter.Sub(c.NotBefore)/11))
}

// Peer says who is at the other end of a connection that Identity.ServerTLS
// accepted. It is false without a client certificate that was verified.
func Peer(cs *tls.ConnectionState) (role Role, name string, ok bool) {
	if cs == nil || len(cs.VerifiedChains) == 0 {
		return "", "", false
	}
	id, ok := idOf(cs.VerifiedChains[0][0])
	if !ok {
		return "", "", false
	}
	return id.Role, id.Name, true
}
