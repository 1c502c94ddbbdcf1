//go:build linux

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/testbuild"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/daemon"
)

const toolboxImage = "docker.io/library/toolbox:1"

// TestMain is containerd when started as `… containerd`, as nodeagent is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "containerd" {
		if err := daemon.Main(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "containerd:", err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

// machine is a daemon of our own, with the toolbox image, for all tests.
type machine struct {
	once    sync.Once
	err     error
	dir     string
	daemon  daemon.Config
	config  containerd.Config
	process *exec.Cmd
	runtime *containerd.Runtime
	archive []byte
}

var shared machine

// open returns the machine, or skips the test where there can be none.
func open(tb testing.TB) *machine {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("real containers need root: run as root, such as by sudo make test")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		tb.Skip("real containers need runc: apt-get install runc")
	}
	shared.once.Do(func() { shared.err = shared.start(tb) })
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return &shared
}

func (m *machine) start(tb testing.TB) error {
	var err error
	//nolint:usetesting // it outlives the test that needs it first, and sockets need a short path
	if m.dir, err = os.MkdirTemp("/tmp", "cd"); err != nil {
		return err
	}
	if err := testbuild.Programs(m.dir, "nodeagent/clusterd-shim", "nodeagent/runtime/runtimetest/toolbox"); err != nil {
		return err
	}
	m.daemon = daemon.Config{DataDir: m.dir + "/data/containerd", RunDir: m.dir + "/run"}
	m.config = containerd.Config{
		Address: m.daemon.Address(),
		DataDir: m.dir + "/data",
		RunDir:  m.dir + "/run",
		Cgroup:  fmt.Sprintf("/clusterd-test-%d", os.Getpid()),
		Shim:    m.dir + "/clusterd-shim",
	}
	if err := m.boot(); err != nil {
		return err
	}
	if m.runtime, err = containerd.Open(m.config); err != nil {
		return err
	}
	if m.archive, err = toolboxArchive(m.dir+"/toolbox", toolboxImage, nil); err != nil {
		return err
	}
	_, err = m.runtime.Import(tb.Context(), bytes.NewReader(m.archive))
	return err
}

// boot starts the daemon and waits for it.
func (m *machine) boot() error {
	args, err := m.daemon.Prepare()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(m.dir+"/containerd.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.process = exec.Command(os.Args[0], args...)
	m.process.Stdout, m.process.Stderr = log, log
	if err := m.process.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.daemon.Wait(ctx); err != nil {
		b, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w\n%s", err, b)
	}
	return nil
}

// crash kills the daemon, runs during and brings it back.
func (m *machine) crash(t *testing.T, rt runtime.Runtime, during func()) {
	t.Helper()
	m.process.Process.Kill()
	m.process.Wait()
	during()
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := rt.List(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (m *machine) stop() {
	if m.dir == "" {
		return
	}
	if m.runtime != nil {
		// What a failed test has left; no processes of ours outlive us.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		all, _ := m.runtime.List(ctx)
		for _, st := range all {
			m.runtime.Remove(ctx, st.ID)
		}
		m.runtime.Close()
	}
	if m.process != nil && m.process.Process != nil {
		m.process.Process.Signal(syscall.SIGTERM)
		m.process.Wait()
	}
	os.RemoveAll(m.dir)
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + m.config.Cgroup)
	for _, d := range append(dirs, "/sys/fs/cgroup"+m.config.Cgroup) {
		os.Remove(d)
	}
}

// leaks names what is left of containers that are gone.
func (m *machine) leaks() []string {
	var left []string
	// containerd collects the files of removed snapshots at leisure, or when told.
	if err := m.collect(); err != nil {
		left = append(left, err.Error())
	}
	deadline := time.Now().Add(10 * time.Second) // a shim needs a moment to leave
	for len(left) == 0 {
		if left = m.look(); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		left = nil
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

// collect makes the daemon collect its garbage now.
func (m *machine) collect() error {
	c, err := client.New(m.config.Address, client.WithDefaultNamespace("clusterd"))
	if err != nil {
		return err
	}
	defer c.Close()
	l, err := c.LeasesService().Create(context.Background(), leases.WithRandomID())
	if err != nil {
		return err
	}
	return c.LeasesService().Delete(context.Background(), l, leases.SynchronousDelete)
}

func (m *machine) look() []string {
	var left []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], m.dir) && !strings.Contains(f[4], "/ns-") {
			left = append(left, "mount "+f[4])
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + m.config.Cgroup, "/sys/fs/cgroup" + m.config.Cgroup} {
		dirs, _ := filepath.Glob(pattern + "/*")
		for _, d := range dirs {
			if fi, err := os.Stat(d); err == nil && fi.IsDir() {
				left = append(left, "cgroup "+d)
			}
		}
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		if b, err := os.ReadFile(c); err == nil && strings.HasPrefix(string(b), m.config.Shim) {
			left = append(left, "process "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	for _, pattern := range []string{"data/journal/*", "run/runc/*/*", "run/state/*/clusterd/*", "run/exec/*", "run/mounts/*", "run/s/*"} {
		files, _ := filepath.Glob(filepath.Join(m.dir, pattern))
		for _, f := range files {
			left = append(left, "file "+f)
		}
	}
	snapshots, _ := filepath.Glob(m.daemon.DataDir + "/root/io.containerd.snapshotter.v1.overlayfs/snapshots/*/work/work")
	for _, s := range snapshots {
		left = append(left, "snapshot "+s)
	}
	return left
}

// sandbox pins namespaces for a pod, as the agent does.
func (m *machine) sandbox(tb testing.TB, pod string) runtime.Sandbox {
	tb.Helper()
	dir := filepath.Join(m.dir, "ns-"+pod)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	kinds := []string{"net", "ipc", "uts"}
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
				return err
			}
			if err := unix.Sethostname([]byte(pod)); err != nil {
				return err
			}
			for _, k := range kinds {
				if err := os.WriteFile(filepath.Join(dir, k), nil, 0o600); err != nil {
					return err
				}
				if err := unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), k), filepath.Join(dir, k), "", unix.MS_BIND, ""); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, k := range kinds {
			if err := unix.Unmount(filepath.Join(dir, k), unix.MNT_DETACH); err != nil {
				tb.Error(err)
			}
		}
		os.RemoveAll(dir)
	})
	return runtime.Sandbox{
		Net: filepath.Join(dir, "net"), IPC: filepath.Join(dir, "ipc"), UTS: filepath.Join(dir, "uts"), Hostname: pod,
	}
}

// toolbox is an image with the toolbox in it.
func toolbox(program string, change func(*v1.Config)) (v1.Image, error) {
	b, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	files := new(bytes.Buffer)
	w := tar.NewWriter(files)
	for _, f := range []struct {
		name string
		body []byte
	}{{"toolbox", b}, {"run/in-image", []byte("from the image\n")}, {"etc/hosts", nil}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.body)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", goruntime.GOARCH
	config.Config.Entrypoint, config.Config.StopSignal = []string{"/toolbox"}, "SIGTERM"
	config.Config.Env = []string{"PATH=/usr/bin:/bin"}
	if change != nil {
		change(&config.Config)
	}
	return mutate.ConfigFile(image, config)
}

// toolboxArchive is an OCI layout tar of it.
func toolboxArchive(program, name string, change func(*v1.Config)) ([]byte, error) {
	image, err := toolbox(program, change)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "oci")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return nil, err
	}
	if err := l.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})); err != nil {
		return nil, err
	}
	out := new(bytes.Buffer)
	archive := tar.NewWriter(out)
	if err := archive.AddFS(os.DirFS(dir)); err != nil {
		return nil, err
	}
	return out.Bytes(), archive.Close()
}
