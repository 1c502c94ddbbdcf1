//go:build linux

// Package containerd runs containers by a containerd daemon, ours (see package
// daemon) or the machine's, and by clusterd-shim, which keeps the logs and the
// journal of how containers ended.
//
// Invariants: containerd's namespace "clusterd" is ours alone; a container's
// id is the id of its snapshot, its task and its cgroup too, so that whatever
// was left half done is found again by name; the journal, not containerd, says
// whether a container ever ran and how it ended; one pod's containers are
// changed one at a time, for they share a shim and a cgroup.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/clusterd/terraform-provider-clusterd/internal/registry"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Config says where things are. Paths must be absolute.
type Config struct {
	Address string // containerd's socket
	DataDir string // the journal; survives a reboot
	RunDir  string // what does not
	Cgroup  string // the parent of all pods' cgroups, such as /clusterd/w1
	Shim    string // the clusterd-shim program
	Runc    string // the runc program; empty looks for it in PATH
}

const (
	namespace   = "clusterd"
	snapshotter = "overlayfs"

	podLabel    = "clusterd.io/pod"
	digestLabel = "clusterd.io/image"
)

// Runtime implements runtime.Runtime.
type Runtime struct {
	config     Config
	client     *client.Client
	registries *registry.Client
	pods       locks
	images     sync.Map // digest → runtime.Image without its reference
	unknown    sync.Map // ids of containers whose end nobody will ever know
}

var _ runtime.Runtime = (*Runtime)(nil)

// Open returns a runtime on a daemon that may not serve yet.
func Open(c Config) (*Runtime, error) {
	if c.Runc == "" {
		c.Runc = "runc"
	}
	var err error
	if c.Runc, err = exec.LookPath(c.Runc); err != nil {
		return nil, fmt.Errorf("%w: install it, as by apt-get install runc", err)
	}
	if err := checkCgroups(cgroupRoot); err != nil {
		return nil, err
	}
	if _, err := os.Stat(c.Shim); err != nil {
		return nil, fmt.Errorf("shim: %w: clusterd-shim belongs next to nodeagent", err)
	}
	// Reading an image's users mounts its files for a moment; what a killed agent
	// left mounted is found here, and so are the pipes of its execs.
	tmp := filepath.Join(c.RunDir, "mounts")
	if err := errors.Join(os.RemoveAll(c.pipes()), os.MkdirAll(tmp, 0o700), os.MkdirAll(c.journal(), 0o700), mount.SetTempMountLocation(tmp)); err != nil {
		return nil, err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		return nil, err
	}
	registries, err := registry.New() // it keeps the library's log quiet
	if err != nil {
		return nil, err
	}
	cl, err := client.New(c.Address, client.WithDefaultNamespace(namespace), client.WithTimeout(time.Second))
	if err != nil {
		return nil, err
	}
	return &Runtime{config: c, client: cl, registries: registries}, nil
}

func (c Config) journal() string { return filepath.Join(c.DataDir, "journal") }
func (c Config) pipes() string   { return filepath.Join(c.RunDir, "exec") }

// Close lets go of the daemon; containers go on.
func (r *Runtime) Close() error { return r.client.Close() }

// load finds a container of ours, or says runtime.ErrNotFound.
func (r *Runtime) load(ctx context.Context, id string) (client.Container, error) {
	c, err := r.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	return c, nil
}

// task finds a container's task; nil says there is none.
func task(ctx context.Context, c client.Container) (client.Task, error) {
	t, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("task of container %s: %w", c.ID(), err)
	}
	return t, nil
}

// locks are one lock per name.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	wanted int
}

// hold takes the lock of a name and returns what lets go of it.
func (l *locks) hold(name string) func() {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{}
		l.held[name] = k
	}
	k.wanted++
	l.mu.Unlock()
	k.Lock()
	return func() {
		k.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.wanted--; k.wanted == 0 {
			delete(l.held, name)
		}
	}
}
