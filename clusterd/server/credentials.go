package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Files of the data directory that people and programs beside the server read.
const (
	AdminTokenFile = "admin.token" // a bearer token that may do everything, 0600
	CACertFile     = "ca.crt"      // what clients verify the server with
)

const (
	caDir         = "ca"
	identityDir   = "identity"
	gossipKeyFile = "gossip.key"
	storeDir      = "store"
	spoolDir      = "spool"        // image uploads on their way
	secretsFile   = "secrets.keys" // what seals secrets in the store
)

// credentials are what a server proves itself and admits others with.
type credentials struct {
	ca        *pki.CA
	identity  *pki.Identity
	gossipKey []byte
	hosts     []string // in the certificate
}

// openCredentials reads them from dir. The first start makes them.
func openCredentials(dir, name string, hosts []string) (*credentials, error) {
	ca, err := pki.LoadCA(filepath.Join(dir, caDir))
	if errors.Is(err, os.ErrNotExist) {
		if _, serr := os.Stat(filepath.Join(dir, storeDir)); serr == nil {
			return nil, fmt.Errorf("%s has a store but no CA: restore %s from a backup; a new one would lock every node out", dir, filepath.Join(dir, caDir))
		}
		if ca, err = pki.NewCA(name); err == nil {
			err = ca.Save(filepath.Join(dir, caDir))
		}
	}
	if err != nil {
		return nil, err
	}
	if err := pki.WriteFile(filepath.Join(dir, CACertFile), ca.PEM()); err != nil {
		return nil, fmt.Errorf("write the CA's certificate: %w", err)
	}
	// It is public, and users who may not read the directory's secrets need it.
	if err := os.Chmod(filepath.Join(dir, CACertFile), 0o644); err != nil {
		return nil, err
	}
	key, err := gossipKey(filepath.Join(dir, gossipKeyFile))
	if err != nil {
		return nil, err
	}
	// A new certificate with every start: addresses may have changed.
	id, err := ca.NewIdentity(pki.ID{Role: pki.Server, Name: name}, hosts...)
	if err != nil {
		return nil, err
	}
	if err := id.Save(filepath.Join(dir, identityDir)); err != nil {
		return nil, err
	}
	return &credentials{ca: ca, identity: id, gossipKey: key, hosts: hosts}, nil
}

func gossipKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) != 32:
		return nil, fmt.Errorf("%s has %d bytes: want 32; restore it from a backup", path, len(key))
	case err == nil:
		return key, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read the gossip key: %w", err)
	}
	key = make([]byte, 32)
	rand.Read(key)
	if err := pki.WriteFile(path, key); err != nil {
		return nil, fmt.Errorf("write the gossip key: %w", err)
	}
	return key, nil
}
