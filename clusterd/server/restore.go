package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Snapshot says what a snapshot is.
type Snapshot = apiserver.Snapshot

// OpenSnapshot reads and checks a snapshot, and leaves its store in the file
// called db, unless that is empty.
func OpenSnapshot(path, db string) (Snapshot, error) { return apiserver.OpenSnapshot(path, db) }

// aloneFile in the data directory says that the store has no other member any
// more: the next start forgets the servers of before.
const aloneFile = "alone"

// RestoreConfig says from what to restore, and as whom.
type RestoreConfig struct {
	Config            // Name, DataDir, Advertise and Peer as the server will have them
	Snapshot   string // the file
	Passphrase string // it was saved with; or else:
	KeysFile   string // keys.json of a server of the cluster
}

// Restore fills an empty data directory from a snapshot. A server started on it
// is the cluster of then, with itself as the only server. Who owns the directory
// owns all of it then, too.
func Restore(c RestoreConfig) (head Snapshot, err error) {
	cfg, err := c.withDefaults()
	if err != nil {
		return head, err
	}
	if err := onlyInside(cfg.DataDir, "restore that, with etcdutl snapshot restore --bump-revision 1000000000 --mark-compacted"); err != nil {
		return head, err
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, storeDir)); err == nil {
		return head, fmt.Errorf("%s has a store already: move it away first, or give another --data-dir", cfg.DataDir)
	}
	// All that can be wrong with what was given, before a directory is made.
	if head, err = OpenSnapshot(c.Snapshot, ""); err != nil {
		return head, err
	}
	root, err := c.root(head)
	if err != nil {
		return head, err
	}
	set, err := keys.Open(root, head.Sealed)
	if err != nil {
		return head, fmt.Errorf("open the keys of the snapshot: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Log}
	if _, err := s.locate(cfg.Listen); err != nil {
		return head, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return head, err
	}
	db := filepath.Join(cfg.DataDir, "restore.db")
	defer os.Remove(db)
	os.Remove(db) // of an attempt that was cut short
	if head, err = OpenSnapshot(c.Snapshot, db); err != nil {
		return head, err
	}
	if err := apiserver.RestoreStore(db, *s.storeConfig(nil)); err != nil {
		return head, err
	}
	return head, errors.Join(set.Save(filepath.Join(cfg.DataDir, keysFile)), alone(cfg.DataDir),
		pki.WriteFile(filepath.Join(cfg.DataDir, tokenDueFile), nil), keepOwner(cfg.DataDir))
}

// root is the key that opens the snapshot's keys.
func (c RestoreConfig) root(head Snapshot) ([]byte, error) {
	switch {
	case c.KeysFile != "":
		set, err := keys.Load(c.KeysFile)
		if err != nil {
			return nil, err
		}
		return set.Root, nil
	case head.Root == nil:
		return nil, errors.New("the snapshot was saved without a passphrase, so it has no root key: give --keys with the keys.json of a server of that cluster")
	case c.Passphrase == "":
		return nil, errors.New("the snapshot's keys are wrapped: give --passphrase-file with the passphrase it was saved with, or --keys with the keys.json of a server")
	}
	return head.Root.Unwrap(c.Passphrase)
}

// Recover makes a server whose cluster has lost its majority for good a cluster
// of one, with all that this server knows. The server must not run.
func Recover(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if err := onlyInside(cfg.DataDir, "what to do about its members, its own guide says"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, storeDir)); err != nil {
		return fmt.Errorf("%s has no store of a server: %w", cfg.DataDir, err)
	}
	s := &Server{cfg: cfg, log: cfg.Log}
	if _, err := s.locate(cfg.Listen); err != nil {
		return err
	}
	err = apiserver.RecoverStore(ctx, *s.storeConfig(nil), cfg.Log.Named("etcd"))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the server still runs, or something else has its port: stop it first, as by systemctl stop clusterd: %w", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(alone(cfg.DataDir), keepOwner(cfg.DataDir))
}

// alone notes that the next start has to forget the other servers, and that they
// had removed this one.
func alone(dir string) error {
	if err := os.Remove(filepath.Join(dir, removedFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return pki.WriteFile(filepath.Join(dir, aloneFile), nil)
}
