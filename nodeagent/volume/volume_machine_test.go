package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// node is a Store with a cluster that knows some volumes.
type node struct {
	*Store
	t       *testing.T
	cfg     Config
	volumes map[string]*api.Volume
	offline bool
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices and mounts need root: run as root, such as by sudo make test")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("this kernel has no loop devices")
	}
	n := &node{t: t, volumes: map[string]*api.Volume{}}
	n.cfg = Config{DataDir: t.TempDir(), RunDir: t.TempDir(), Lookup: func(_ context.Context, _, name string) (*api.Volume, error) {
		if n.offline {
			return nil, api.Errorf(api.Unready, "no server answers")
		}
		if v := n.volumes[name]; v != nil {
			return v, nil
		}
		return nil, api.Errorf(api.NotFound, "no volume %s", name)
	}}
	n.open()
	t.Cleanup(n.reboot)
	return n
}

func (n *node) open() {
	n.t.Helper()
	var err error
	if n.Store, err = Open(n.cfg); err != nil {
		n.t.Fatal(err)
	}
}

// reboot takes all mounts away, and what is in the run directory.
func (n *node) reboot() {
	for _, pattern := range []string{"pods/*/*", "pods/*", "volumes/*"} {
		all, _ := filepath.Glob(filepath.Join(n.cfg.RunDir, pattern))
		for _, point := range all {
			if err := unmount(point, 0); err != nil {
				n.t.Error(err)
			}
		}
	}
}

func (n *node) volume(name string, size api.Memory) *api.Volume {
	v := &api.Volume{Meta: api.Meta{Name: name, Namespace: "default", UID: "uid-" + name}, Effective: api.VolumeSpec{Size: size}}
	n.volumes[name] = v
	return v
}

func pod(uid string, mounts map[string]api.Mount) *api.Pod {
	p := &api.Pod{Meta: api.Meta{Name: uid, Namespace: "default", UID: uid}}
	p.Spec.Mounts = mounts
	return p
}

func (n *node) mount(p *api.Pod) map[string]string {
	n.t.Helper()
	at, err := n.Mount(n.t.Context(), p)
	if err != nil {
		n.t.Fatal(err)
	}
	return at
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestVolumeOutlivesAll: what a pod wrote is there for the next pod, for the
// next agent, after a reboot, and without the control plane.
func TestVolumeOutlivesAll(t *testing.T) {
	n := newNode(t)
	n.volume("data", "16Mi")
	mounts := map[string]api.Mount{"/data": {Volume: "data"}}
	at := n.mount(pod("a", mounts))["volume:data"]
	if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
		t.Errorf("a new volume is not empty: %v %v", entries, err)
	}
	if fi, err := os.Stat(at); err != nil || fi.Mode().Perm() != 0o777 || fi.Mode()&os.ModeSticky == 0 {
		t.Errorf("not every user may make files in it: %v %v", fi.Mode(), err)
	}
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte("kept"), 0o600))
	check := func(what string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(n.mount(pod("b", mounts))["volume:data"], "file")); err != nil || string(b) != "kept" {
			t.Errorf("%s: %q %v", what, b, err)
		}
	}
	n.open()
	check("next agent, beside the first pod")
	must(t, n.Unmount(t.Context(), "a"))
	check("without the first pod")
	must(t, n.Unmount(t.Context(), "b"))
	if isMountPoint(at) {
		t.Error("no pod uses it and it stays mounted")
	}
	check("next pod")
	n.reboot()
	n.open()
	n.offline = true
	check("reboot, offline")
	must(t, n.Unmount(t.Context(), "b"))
	must(t, n.Remove(t.Context(), "uid-data"))
	if _, err := os.Stat(filepath.Join(n.cfg.DataDir, "volumes", "uid-data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	if _, err := n.Mount(t.Context(), pod("c", mounts)); err == nil {
		t.Error("a volume that is gone was mounted")
	}
}

// fill writes until it cannot.
func fill(t *testing.T, dir string) (written int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	must(t, err)
	defer f.Close()
	b := make([]byte, 1<<20)
	for written < 1<<30 {
		k, err := f.Write(b)
		written += int64(k)
		if errors.Is(err, unix.ENOSPC) {
			return written
		}
		must(t, err)
	}
	t.Fatalf("wrote %d MiB", written>>20)
	return 0
}

// TestSizeIsEnforced: of a volume, which grows, and of scratch space, which two
// containers of a pod share by its path and which ends with the pod.
func TestSizeIsEnforced(t *testing.T) {
	n := newNode(t)
	v := n.volume("data", "16Mi")
	p := pod("a", map[string]api.Mount{"/data": {Volume: "data"}, "/tmp": {Scratch: "8Mi"}})
	p.Spec.Sidecars = map[string]api.Container{"log": {Mounts: map[string]api.Mount{"/tmp": {Scratch: "8Mi"}, "/other": {Scratch: "8Mi"}}}}
	at := n.mount(p)
	if len(at) != 3 {
		t.Errorf("mounted %v", at)
	}
	for source, most := range map[string]int64{"volume:data": 16 << 20, "scratch:/tmp": 8 << 20} {
		if got := fill(t, at[source]); got > most || got < most/4 {
			t.Errorf("%s takes %d KiB", source, got>>10)
		}
	}
	v.Effective.Size = "48Mi"
	size, err := n.Resize(t.Context(), v)
	switch {
	case mayResize():
		if err != nil || size != 48<<20 {
			t.Errorf("while it is used: %d %v", size, err)
		}
	case err == nil || !strings.Contains(err.Error(), "once no pod uses it") || size != 16<<20:
		t.Errorf("while it is used: %d %v", size, err)
	}
	must(t, n.Unmount(t.Context(), "a"))
	if left, _ := filepath.Glob(filepath.Join(n.cfg.DataDir, "scratch", "*")); len(left) > 0 {
		t.Errorf("scratch space is left: %v", left)
	}
	if uids, err := n.List(t.Context()); err != nil || len(uids) > 0 {
		t.Errorf("left: %v %v", uids, err)
	}
	if size, err := n.Resize(t.Context(), v); err != nil || size != 48<<20 {
		t.Errorf("grown: %d %v", size, err)
	}
	at = n.mount(p)
	if got := fill(t, at["volume:data"]); got < 32<<20 {
		t.Errorf("the grown volume takes %d MiB", got>>20)
	}
}

// TestDiskFull: there is no such space, and that is said as it is.
func TestDiskFull(t *testing.T) {
	n := newNode(t)
	var st unix.Statfs_t
	must(t, unix.Statfs(n.cfg.DataDir, &st))
	more := api.Memory(fmt.Sprintf("%dMi", (int64(st.Blocks)*st.Bsize>>20)+1024))
	n.volume("data", more)
	for _, m := range []api.Mount{{Volume: "data"}, {Scratch: more}} {
		if _, err := n.Mount(t.Context(), pod("a", map[string]api.Mount{"/data": m})); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(n.cfg.DataDir, "*", "*", "*image*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	must(t, n.Unmount(t.Context(), "a"))
}

// TestHostPath: a directory is shown as it is, and no symbolic link of the
// node, at the end of the path or on its way, leads anywhere else.
func TestHostPath(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "allowed", "logs"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "allowed", "logs", "file"), []byte("x"), 0o600))
	must(t, os.Symlink("/etc", filepath.Join(dir, "allowed", "etc")))
	must(t, os.Symlink(filepath.Join(dir, "allowed"), filepath.Join(dir, "link")))
	host := func(path string) (string, error) {
		at, err := n.Mount(t.Context(), pod("a", map[string]api.Mount{"/host": {Host: path}}))
		return at["host:"+path], err
	}
	at, err := host(dir + "/allowed/logs")
	must(t, err)
	if _, err := os.Stat(filepath.Join(at, "file")); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{
		"/allowed/etc": "symbolic link", "/allowed/etc/ssl": "symbolic link", "/link/logs": "symbolic link",
		"/allowed/none": "does not exist", "/allowed/logs/file": "not a directory",
	} {
		if _, err := host(dir + path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// A pod's end takes away the view, and nothing that is seen.
	must(t, n.Unmount(t.Context(), "a"))
	if _, err := os.Stat(filepath.Join(dir, "allowed", "logs", "file")); err != nil {
		t.Error(err)
	}
	if _, err := n.Mount(t.Context(), pod("../evil", nil)); err == nil {
		t.Error("a UID led out of the directory")
	}
}
