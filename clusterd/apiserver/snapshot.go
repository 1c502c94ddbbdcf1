package apiserver

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A snapshot is a tar of two files: what it is, and the store. With a
// passphrase it has all it takes to restore a cluster, keys included; without
// one, a server's keys.json is needed as well.
const (
	snapshotHeader = "snapshot.json"
	snapshotStore  = "store.db"
)

// Snapshot says what a snapshot is.
type Snapshot struct {
	Server    string    `json:"server"` // that took it
	CreatedAt time.Time `json:"created_at"`
	Revision  int64     `json:"revision"`
	Keys      int       `json:"keys"` // how many the store has
	Size      int64     `json:"size"` // of the store, in bytes
	SHA256    string    `json:"sha256"`
	// Sealed is what the servers share, sealed with its root; Root is the root,
	// wrapped with a passphrase, if there was one.
	Sealed []byte        `json:"sealed"`
	Root   *keys.Wrapped `json:"root,omitempty"`
}

// serveSnapshot answers POST /v1/snapshot.
func (s *Server) serveSnapshot(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, ask{verb: api.VerbSnapshot, kind: s.kinds["servers"]}); err != nil {
		return err
	}
	req, err := decodeBody[api.SnapshotRequest](w, r, 4<<10, strict)
	if err != nil {
		return err
	}
	r.stand() // it takes as long as its bytes
	begun := false
	err = s.Snapshot(r.Context(), req.Passphrase, func() io.Writer {
		begun = true
		s.auditNow(r)
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Cache-Control", "no-store")
		return w
	})
	if begun && err != nil {
		s.log.Warn("a snapshot broke off", "error", err)
		panic(http.ErrAbortHandler) // half a file must not look like a whole one
	}
	return err
}

// Snapshot writes a snapshot to what begin returns, once there is one.
func (s *Server) Snapshot(ctx context.Context, passphrase string, begin func() io.Writer) error {
	etcd, ok := s.store.(interface {
		Snapshot(context.Context, io.Writer) error
	})
	if at := s.cfg.External; at != nil {
		return api.Errorf(api.Conflict, "the state of this cluster is in an etcd of its own, below %s, with perhaps more: save it there, with etcdctl snapshot save, and keep the keys.json of a server with it", at.Prefix)
	}
	if !ok {
		return api.Errorf(api.Conflict, "this server keeps its state in memory: there is nothing to save")
	}
	f, err := s.spoolFile()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	if err := etcd.Snapshot(ctx, io.MultiWriter(f, sum)); err != nil {
		return err
	}
	head := Snapshot{Server: s.cfg.Name, CreatedAt: api.Now(), SHA256: hex.EncodeToString(sum.Sum(nil))}
	if head.Revision, head.Keys, err = store.Inspect(f.Name()); err != nil {
		return err
	}
	if head.Size, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	snap, err := s.cache.latest(ctx)
	if err != nil {
		return err
	}
	set, err := s.openKeys(snap.get(keysKey))
	if err != nil {
		return err
	}
	head.Sealed = set.Seal()
	if passphrase != "" {
		wrapped := keys.Wrap(passphrase, set.Root)
		head.Root = &wrapped
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out := tar.NewWriter(begin())
	b, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		size int64
		from io.Reader
	}{{snapshotHeader, int64(len(b)), bytes.NewReader(b)}, {snapshotStore, head.Size, f}} {
		if err := out.WriteHeader(&tar.Header{Name: part.name, Mode: 0o600, Size: part.size, ModTime: head.CreatedAt}); err != nil {
			return err
		}
		if _, err := io.Copy(out, part.from); err != nil {
			return err
		}
	}
	return out.Close()
}

// OpenSnapshot reads and checks a snapshot. Its store is left in the file
// called db, unless that is empty.
func OpenSnapshot(path, db string) (head Snapshot, err error) {
	f, err := os.Open(path)
	if err != nil {
		return head, err
	}
	defer f.Close()
	in := tar.NewReader(f)
	next := func(name string) error {
		h, err := in.Next()
		if err == nil && h.Name != name {
			err = fmt.Errorf("%s comes first", h.Name)
		}
		if err != nil {
			return fmt.Errorf("%s is not a snapshot of clusterd, or is cut off: looking for its %s: %w", path, name, err)
		}
		return nil
	}
	if err := next(snapshotHeader); err != nil {
		return head, err
	}
	if err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(&head); err != nil {
		return head, fmt.Errorf("%s: its %s is damaged: %w", path, snapshotHeader, err)
	}
	if err := next(snapshotStore); err != nil {
		return head, err
	}
	out := io.Discard
	if db != "" {
		o, err := os.OpenFile(db, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return head, err
		}
		defer func() { err = errors.Join(err, o.Close()) }()
		out = o
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), in)
	if err != nil || n != head.Size || hex.EncodeToString(sum.Sum(nil)) != head.SHA256 {
		return head, fmt.Errorf("%s is damaged: its store has %d of %d bytes, or another hash than when it was saved (%v)", path, n, head.Size, err)
	}
	return head, nil
}

// RestoreStore makes the data of a new store from that of a snapshot.
func RestoreStore(db string, c EtcdConfig) error { return store.Restore(db, c) }

// RecoverStore makes the member whose data c has the only one of its store.
func RecoverStore(ctx context.Context, c EtcdConfig, log hclog.Logger) error {
	return store.Recover(ctx, c, log)
}
