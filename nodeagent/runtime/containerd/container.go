//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/api/types/runc/options"
	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/journal"
)

// Create stores the container and its snapshot; its task comes with Start.
func (r *Runtime) Create(ctx context.Context, c runtime.Container) error {
	defer r.pods.hold(c.Pod)()
	if _, err := r.load(ctx, c.ID); !errors.Is(err, runtime.ErrNotFound) {
		return err // nil when it is there already
	}
	image, err := r.image(ctx, c.Image)
	if err != nil {
		return fmt.Errorf("create container %s: %w", c.ID, err)
	}
	if err := r.forget(ctx, c.Pod, c.ID); err != nil { // of a life cut short by a crash
		return fmt.Errorf("create container %s: %w", c.ID, err)
	}
	err = r.newContainer(ctx, c, image)
	if errdefs.IsNotFound(err) { // the image is here, and not unpacked
		if err = image.Unpack(ctx, snapshotter); err == nil {
			err = r.newContainer(ctx, c, image)
		}
	}
	if noSuchUser(err) {
		who := "the image runs as a user"
		if c.Security.User != "" {
			who = "user " + c.Security.User + " is one"
		}
		err = fmt.Errorf("%w: %s that is not in the image's /etc/passwd or /etc/group", runtime.ErrCannotStart, who)
	}
	if err != nil {
		return fmt.Errorf("create container %s: %w", c.ID, err)
	}
	return nil
}

// noSuchUser is whether the image lacks the user it is to run as, or the files
// that list users.
func noSuchUser(err error) bool {
	return errors.Is(err, oci.ErrNoUsersFound) || errors.Is(err, oci.ErrNoGroupsFound) ||
		errors.Is(err, os.ErrNotExist) && (strings.Contains(err.Error(), "etc/passwd") || strings.Contains(err.Error(), "etc/group"))
}

func (r *Runtime) newContainer(ctx context.Context, c runtime.Container, image client.Image) error {
	labels := maps.Clone(c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[podLabel], labels[digestLabel] = c.Pod, image.Target().Digest.String()
	_, err := r.client.NewContainer(ctx, c.ID,
		client.WithImage(image),
		client.WithSnapshotter(snapshotter),
		client.WithNewSnapshot(c.ID, image),
		client.WithRuntime(r.config.Shim, &options.Options{BinaryName: r.config.Runc, Root: filepath.Join(r.config.RunDir, "runc")}),
		client.WithNewSpec(r.spec(c, image)...),
		client.WithContainerLabels(labels),
	)
	if err != nil {
		err = errors.Join(err, r.removeSnapshot(ctx, c.ID))
	}
	return err
}

// Start makes the container's task and starts it.
func (r *Runtime) Start(ctx context.Context, id string) (runtime.Status, error) {
	c, err := r.load(ctx, id)
	if err != nil {
		return runtime.Status{}, fmt.Errorf("start %w", err)
	}
	pod, err := podOf(ctx, c)
	if err != nil {
		return runtime.Status{}, fmt.Errorf("start container %s: %w", id, err)
	}
	defer r.pods.hold(pod)()
	if err := r.start(ctx, c); err != nil {
		return runtime.Status{}, fmt.Errorf("start container %s: %w", id, err)
	}
	return r.Status(ctx, id)
}

func (r *Runtime) start(ctx context.Context, c client.Container) error {
	record, err := journal.Load(r.config.journal(), c.ID())
	if err != nil || record != nil {
		return err // it has been started
	}
	t, err := c.NewTask(ctx, cio.NullIO)
	if errdefs.IsAlreadyExists(err) {
		// Someone died between making and starting it: it is as good as none.
		if t, err = task(ctx, c); err == nil && t != nil {
			err = discard(ctx, t)
		}
		if err == nil {
			t, err = c.NewTask(ctx, cio.NullIO)
		}
	}
	if err != nil {
		return startError(err)
	}
	if err := t.Start(ctx); err != nil {
		return errors.Join(startError(err), discard(context.WithoutCancel(ctx), t))
	}
	return nil
}

// discard kills and deletes a task.
func discard(ctx context.Context, t client.Task) error {
	if _, err := t.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func podOf(ctx context.Context, c client.Container) (string, error) {
	info, err := c.Info(ctx, client.WithoutRefreshedMetadata)
	return info.Labels[podLabel], err
}

// hopeless are the beginnings of the part of runc's messages that a user can
// read and that no other try will change.
var hopeless = []string{
	`exec: "`,
	"exec format error",
	"container init was OOM-killed",
	"chdir to cwd",
	"unable to find user",
	"unable to find group",
	"environment variable value can't contain null",
}

// startError finds the readable core of a failure and whether it is for ever.
func startError(err error) error {
	for _, begin := range hopeless {
		if i := strings.Index(err.Error(), begin); i >= 0 {
			reason := strings.TrimSuffix(strings.TrimSpace(err.Error()[i:]), ": unknown")
			return fmt.Errorf("%w: %s", runtime.ErrCannotStart, reason)
		}
	}
	return err
}

// Signal sends a signal to the first process; SIGKILL takes the others with
// it, for they live in its process namespace.
func (r *Runtime) Signal(ctx context.Context, id, name string) error {
	number, err := signalNumber(name)
	if err != nil {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	c, err := r.load(ctx, id)
	if err != nil {
		return fmt.Errorf("signal %w", err)
	}
	t, err := task(ctx, c)
	if err != nil || t == nil {
		return err
	}
	if err := t.Kill(ctx, number); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// signalNumber reads SIGTERM, TERM, 15 and SIGRTMIN+3.
func signalNumber(name string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	full := "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if n, ok := strings.CutPrefix(full, "SIGRTMIN"); ok {
		if n == "" {
			return 34, nil
		}
		if d, err := strconv.Atoi(strings.TrimPrefix(n, "+")); err == nil && d >= 0 && d <= 30 {
			return syscall.Signal(34 + d), nil
		}
	}
	if n := unix.SignalNum(full); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("no signal is called %q: want a name such as SIGTERM", name)
}

// Remove kills what still runs and forgets the container. Its log stays.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	c, err := r.load(ctx, id)
	if errors.Is(err, runtime.ErrNotFound) {
		return r.forget(ctx, "", id)
	}
	if err != nil {
		return fmt.Errorf("remove %w", err)
	}
	pod, err := podOf(ctx, c)
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	defer r.pods.hold(pod)()
	t, err := task(ctx, c)
	if err == nil && t != nil {
		err = discard(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := c.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := r.forget(ctx, pod, id); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// forget removes what a container leaves besides its record in containerd.
func (r *Runtime) forget(ctx context.Context, pod, id string) error {
	if pod != "" {
		r.removeCgroup(filepath.Join(pod, id))
		r.removeCgroup(pod)
	}
	r.unknown.Delete(id)
	return errors.Join(r.removeSnapshot(ctx, id), journal.Remove(r.config.journal(), id))
}

func (r *Runtime) removeSnapshot(ctx context.Context, id string) error {
	if err := r.client.SnapshotService(snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

// removeCgroup removes an empty cgroup from every hierarchy. runc makes a pod's
// on the way to its containers' and leaves it. One that is not empty has
// other containers of the pod in it and stays.
func (r *Runtime) removeCgroup(name string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, hierarchy := range append(dirs, "/sys/fs/cgroup") {
		_ = os.Remove(filepath.Join(hierarchy, r.config.Cgroup, name))
	}
}
