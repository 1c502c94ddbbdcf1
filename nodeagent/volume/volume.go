// Package volume keeps the storage of one node's pods: volumes, which outlive
// them, scratch space, which does not, and directories of the node that a
// namespace may show its pods.
//
// A volume is an ext4 filesystem in a file of the node's disk, mounted through
// a loop device: its size is enforced by there being no more of it. The file's
// blocks are reserved when it is made, so a full disk is told then, and not by
// a write that fails later.
//
// Invariants: a volume is mounted at most once on the node, and its pods share
// that mount; what an earlier agent mounted is adopted, and what a reboot took
// away is mounted again; data is removed only for a volume that was deleted;
// no path of a pod leads through a symbolic link of the node.
package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Config says where a node keeps its storage.
type Config struct {
	DataDir string // the files with the filesystems; survives a reboot
	RunDir  string // where they are mounted; may vanish with a reboot
	// Lookup asks the cluster about a volume.
	Lookup func(ctx context.Context, namespace, name string) (*api.Volume, error)
	Log    hclog.Logger
}

// Store is the storage of one node. Use Open.
type Store struct {
	cfg Config
	log hclog.Logger
	mu  sync.Mutex // of volumes; what is a pod's own has one caller
}

// Open takes over what an earlier agent left.
func Open(cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	s := &Store{cfg: cfg, log: cfg.Log.Named("volume")}
	for _, dir := range []string{s.volumes(), s.scratch(), s.points(), s.pods()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Store) volumes() string { return filepath.Join(s.cfg.DataDir, "volumes") } // by UID
func (s *Store) scratch() string { return filepath.Join(s.cfg.DataDir, "scratch") } // by pod UID
func (s *Store) points() string  { return filepath.Join(s.cfg.RunDir, "volumes") }  // by UID
func (s *Store) pods() string    { return filepath.Join(s.cfg.RunDir, "pods") }     // by pod UID

func (s *Store) image(uid string) string { return filepath.Join(s.volumes(), uid, "image") }
func (s *Store) point(uid string) string { return filepath.Join(s.points(), uid) }

// label says whose data a directory has, for when the cluster does not answer.
type label struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// find returns the UID of a volume, and the size it should have; 0 is as it is.
func (s *Store) find(ctx context.Context, namespace, name string) (uid string, size int64, err error) {
	v, err := s.cfg.Lookup(ctx, namespace, name)
	switch {
	case err == nil && v.Meta.Deleting():
		return "", 0, fmt.Errorf("volume %s is being deleted", name)
	case err == nil:
		return v.Meta.UID, v.Effective.Size.Bytes(), nil
	case api.Is(err, api.NotFound) || api.Is(err, api.Denied):
		return "", 0, fmt.Errorf("volume %s is not on this node: %w", name, err)
	}
	// The cluster does not answer: what is here is enough.
	entries, readErr := os.ReadDir(s.volumes())
	if readErr != nil {
		return "", 0, readErr
	}
	for _, e := range entries {
		var of label
		b, err := os.ReadFile(filepath.Join(s.volumes(), e.Name(), "volume.json"))
		if err == nil && json.Unmarshal(b, &of) == nil && of == (label{namespace, name}) {
			return e.Name(), 0, nil
		}
	}
	return "", 0, fmt.Errorf("volume %s: %w", name, err)
}

// use mounts a volume, and makes it first where it is new.
func (s *Store) use(ctx context.Context, namespace, name string) (uid string, err error) {
	uid, size, err := s.find(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ensure(uid, label{namespace, name}, size); err != nil {
		return "", fmt.Errorf("volume %s: %w", name, err)
	}
	return uid, nil
}

func (s *Store) ensure(uid string, of label, size int64) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	image := s.image(uid)
	has, err := sizeOf(image)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(image), 0o700); err != nil {
			return err
		}
		b, err := json.Marshal(of)
		if err == nil {
			err = os.WriteFile(filepath.Join(filepath.Dir(image), "volume.json"), b, 0o600)
		}
		if err != nil {
			return err
		}
		if err := create(image, size); err != nil {
			return err
		}
		has = size
		s.log.Info("made a volume", "volume", of.Namespace+"/"+of.Name, "uid", uid, "bytes", size)
	} else if err != nil {
		return err
	}
	if !isMountPoint(s.point(uid)) && size > has {
		if err := growOffline(image, size); err != nil {
			return err
		}
	}
	return mountImage(image, s.point(uid))
}

func checkUID(uid string) error {
	if uid == "" || uid != filepath.Base(uid) || strings.HasPrefix(uid, ".") {
		return fmt.Errorf("%q is not a UID", uid)
	}
	return nil
}

// Resize makes the filesystem of a volume that is here as large as it should
// be. It returns how large it is, 0 if it is not here. One that cannot grow
// while it is in use grows when no pod uses it.
func (s *Store) Resize(_ context.Context, v *api.Volume) (size int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkUID(v.Meta.UID); err != nil {
		return 0, err
	}
	image, want := s.image(v.Meta.UID), v.Effective.Size.Bytes()
	has, err := sizeOf(image)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil || want <= has {
		return has, err
	}
	if isMountPoint(s.point(v.Meta.UID)) {
		err = growOnline(image, s.point(v.Meta.UID), want)
	} else {
		err = growOffline(image, want)
	}
	if err != nil {
		return has, err
	}
	s.log.Info("a volume grew", "ref", v.Ref(), "bytes", want)
	return want, nil
}

// Remove removes the data of a deleted volume.
func (s *Store) Remove(_ context.Context, uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkUID(uid); err != nil {
		return err
	}
	if err := unmount(s.point(uid), 0); err != nil {
		return fmt.Errorf("volume %s: %w", uid, err)
	}
	for _, name := range []string{"image", "image.new", "volume.json"} {
		if err := os.Remove(filepath.Join(s.volumes(), uid, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.volumes(), uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Mount makes ready what a pod mounts, and returns where each is, by
// api.Mount.Source. It may be called again at any time.
func (s *Store) Mount(ctx context.Context, p *api.Pod) (map[string]string, error) {
	if err := checkUID(p.Meta.UID); err != nil {
		return nil, err
	}
	at, dir := map[string]string{}, filepath.Join(s.pods(), p.Meta.UID)
	var err error
	p.Spec.EachMount(func(_, target string, m api.Mount) {
		source := m.Source(target)
		if _, done := at[source]; done || err != nil {
			return
		}
		if err = os.MkdirAll(dir, 0o711); err != nil {
			return
		}
		sum := sha256.Sum256([]byte(source))
		name := hex.EncodeToString(sum[:8])
		point := filepath.Join(dir, name)
		switch {
		case m.Volume != "":
			var uid string
			if uid, err = s.use(ctx, p.Meta.Namespace, m.Volume); err == nil {
				point = s.point(uid)
				err = os.MkdirAll(filepath.Join(dir, claim+uid), 0o700)
			}
		case m.Host != "":
			err = mountHost(m.Host, point)
		default:
			err = s.mountScratch(p.Meta.UID, name, target, m.Scratch.Bytes(), point)
		}
		at[source] = point
	})
	return at, err
}

// claim begins the name of what says that a pod uses a volume: a directory, as
// all is that a pod has here, so that nothing here is ever removed but empty
// directories.
const claim = "volume-"

func (s *Store) mountScratch(uid, name, target string, size int64, point string) error {
	image := filepath.Join(s.scratch(), uid, name)
	err := os.MkdirAll(filepath.Dir(image), 0o700)
	if err == nil {
		if _, err = sizeOf(image); errors.Is(err, fs.ErrNotExist) {
			err = create(image, size)
		}
	}
	if err == nil {
		err = mountImage(image, point)
	}
	if err != nil {
		return fmt.Errorf("scratch space at %s: %w", target, err)
	}
	return nil
}

// Full reports whether a place takes nothing more. Who finds it so mostly asked
// for more than what is left: up to a MiB, or a hundredth of what is large.
func (s *Store) Full(place string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(place, &st); err != nil {
		return false
	}
	const piece, most = 1 << 20, 64 << 20
	block := uint64(st.Bsize)
	return st.Bavail*block < max(piece, min(st.Blocks*block/100, most)) || st.Files > 0 && st.Ffree*100 < st.Files
}

// Unmount lets go of what a pod, whose processes are gone, had mounted, and
// removes its scratch space. A pod that had nothing is not an error.
func (s *Store) Unmount(_ context.Context, uid string) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	dir := filepath.Join(s.pods(), uid)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var used []string
	for _, e := range entries {
		if of, ok := strings.CutPrefix(e.Name(), claim); ok {
			used = append(used, of)
		}
		// Whatever still holds it is not the pod's, and must not keep it from ending.
		if err := unmount(filepath.Join(dir, e.Name()), unix.MNT_DETACH); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.rest(used)
	return os.RemoveAll(filepath.Join(s.scratch(), uid))
}

// rest unmounts volumes that no pod uses any more: nothing is left to be
// written, and they can grow. One that is held stays mounted, which does no
// harm.
func (s *Store) rest(uids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, uid := range uids {
		if claims, _ := filepath.Glob(filepath.Join(s.pods(), "*", claim+uid)); len(claims) > 0 {
			continue
		}
		if err := unmount(s.point(uid), 0); err != nil {
			s.log.Debug("a volume that no pod uses stays mounted", "uid", uid, "error", err)
		}
	}
}

// List returns the UIDs of pods that have something here.
func (s *Store) List(context.Context) ([]string, error) {
	var uids []string
	for _, dir := range []string{s.pods(), s.scratch()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			uids = append(uids, e.Name())
		}
	}
	return uids, nil
}
