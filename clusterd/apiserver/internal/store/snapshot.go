package store

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Snapshot writes the whole store as it is at one revision, followed by its
// SHA-256. Restore reads it.
func (s *Etcd) Snapshot(ctx context.Context, w io.Writer) error {
	r, err := s.kv.Snapshot(ctx)
	if err != nil {
		return wrap("snapshot", err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return wrap("snapshot", err)
	}
	return nil
}

// restoredBump is by how much revisions grow with a restore: no revision that
// was ever told since the snapshot was taken comes again.
const restoredBump = 1_000_000_000

// Restore makes the data of a member that is alone in its cluster from a
// snapshot. Whoever watches from before it is told to list again.
func Restore(path string, c EtcdConfig) error {
	url := "https://" + c.PeerAddress
	err := snapshot.NewV3(zap.New(logCore{log: c.logger()})).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, Name: c.Name, OutputDataDir: c.Dir,
		PeerURLs: []string{url}, InitialCluster: c.Name + "=" + url, InitialClusterToken: embed.NewConfig().InitialClusterToken,
		RevisionBump: restoredBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore the store: %w", err)
	}
	return nil
}

// Inspect returns the revision and the number of keys of a snapshot.
func Inspect(path string) (revision int64, keys int, err error) {
	st, err := snapshot.NewV3(zap.NewNop()).Status(filepath.Clean(path))
	if err != nil {
		return 0, 0, fmt.Errorf("read the snapshot: %w", err)
	}
	return st.Revision, st.TotalKey, nil
}

// Recover makes the member whose data c has the only one of its cluster: what
// is left to do when most members are lost for good. What it had not been told
// yet is lost with them.
func Recover(ctx context.Context, c EtcdConfig, log hclog.Logger) error {
	c.Log, c.alone = log, true
	s, err := OpenEtcd(ctx, c)
	if err != nil {
		return err
	}
	return s.Close()
}
