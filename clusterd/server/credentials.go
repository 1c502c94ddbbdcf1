package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Files of the data directory that people and programs beside the server read.
const (
	AdminTokenFile = "admin.token" // a bearer token that may do everything, 0600
	CACertFile     = "ca.crt"      // what clients verify the server with
)

const (
	keysFile    = "keys.json" // what the servers share, 0600
	identityDir = "identity"
	storeDir    = "store"
	spoolDir    = "spool" // image uploads on their way
)

// credentials are what a server proves itself and admits others with.
type credentials struct {
	dir      string
	identity *pki.Identity
	hosts    []string // in the certificate
	now      atomic.Pointer[shared]
}

// shared is the cluster's keys, opened.
type shared struct {
	set *keys.Set
	ca  *pki.CA
}

// openCredentials reads them from dir. The first start makes them, or takes
// those of the cluster it has joined.
func openCredentials(dir, name string, hosts []string, joined *keys.Set) (*credentials, error) {
	path := filepath.Join(dir, keysFile)
	set, err := keys.Load(path)
	if errors.Is(err, os.ErrNotExist) {
		for _, sign := range []string{storeDir, placeFile} {
			if _, serr := os.Stat(filepath.Join(dir, sign)); serr == nil {
				return nil, fmt.Errorf("%s has a store but no keys: restore %s from a backup; new ones would lock every node out", dir, path)
			}
		}
		if set = joined; set == nil { // it founds a cluster
			if err = pki.WriteFile(filepath.Join(dir, tokenDueFile), nil); err != nil {
				return nil, err
			}
			set, err = keys.New(name)
		}
		if set != nil {
			err = set.Save(path)
		}
	}
	if err != nil {
		return nil, err
	}
	c := &credentials{dir: dir, hosts: hosts}
	ca, err := pki.OpenCA(set.CA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// A new certificate with every start: addresses may have changed.
	if c.identity, err = ca.NewIdentity(pki.ID{Role: pki.Server, Name: name}, hosts...); err != nil {
		return nil, err
	}
	if err := c.identity.Save(filepath.Join(dir, identityDir)); err != nil {
		return nil, err
	}
	c.now.Store(&shared{set, ca})
	return c, c.publish(ca)
}

// publish writes what clients verify the server with.
func (c *credentials) publish(ca *pki.CA) error {
	path := filepath.Join(c.dir, CACertFile)
	if err := pki.WriteFile(path, ca.PEM()); err != nil {
		return fmt.Errorf("write the CA's certificate: %w", err)
	}
	// It is public, and users who may not read the directory's secrets need it.
	return os.Chmod(path, 0o644)
}

// adopt takes over the keys as the store has them now, on disk first.
func (c *credentials) adopt(set *keys.Set) error {
	before := c.now.Load()
	if string(before.set.Encode()) == string(set.Encode()) {
		return nil
	}
	ca, err := pki.OpenCA(set.CA)
	if err != nil {
		return err
	}
	if err := set.Save(filepath.Join(c.dir, keysFile)); err != nil {
		return err
	}
	c.now.Store(&shared{set, ca})
	if slices.Equal(before.set.CA, set.CA) {
		return nil
	}
	return errors.Join(c.publish(ca), c.reissue())
}

// ids says which of the keys that members share the server has.
func (c *credentials) ids() api.KeyIDs {
	now := c.now.Load()
	return api.KeyIDs{Authorities: pki.AuthorityIDs(now.ca.PEM()), Gossip: pki.KeyIDs(now.set.GossipKeys())}
}

func (c *credentials) reissue() error { return c.now.Load().ca.Reissue(c.identity, c.hosts...) }

// followKeys keeps the server's keys those of the cluster.
func (s *Server) followKeys(ctx context.Context) error {
	for set := range s.api.Keys(ctx) {
		if err := s.creds.adopt(set); err != nil {
			s.log.Error("take over the cluster's keys", "error", err)
		}
		if err := s.gossip.Keys(set.GossipKeys()); err != nil {
			s.log.Error("take over the keys to gossip with", "error", err)
		}
	}
	return nil
}

// renew replaces the server's own certificate well before it ends.
func (s *Server) renew(ctx context.Context) error {
	return s.creds.identity.Keep(ctx,
		func(context.Context) error { return s.creds.reissue() },
		func(err error) { s.log.Warn("certificate", "error", err) })
}

// issuer lets machines in, for the API.
type issuer struct{ *credentials }

func (i issuer) Issue(csr []byte, role, name string) ([]byte, error) {
	return i.now.Load().ca.Issue(csr, pki.ID{Role: pki.Role(role), Name: name})
}
func (i issuer) CA() []byte           { return i.now.Load().ca.PEM() }
func (i issuer) GossipKeys() [][]byte { return i.now.Load().set.GossipKeys() }
