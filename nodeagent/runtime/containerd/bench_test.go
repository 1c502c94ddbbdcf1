//go:build linux

package containerd_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// BenchmarkPodStart is our way to a running container in a sandbox of its
// own: limits, log, journal, seccomp and all.
func BenchmarkPodStart(b *testing.B) {
	m := open(b)
	logs := b.TempDir()
	n := 0
	for b.Loop() {
		n++
		b.StopTimer()
		pod := fmt.Sprintf("bench-%d", n)
		sandbox := m.sandbox(b, pod)
		b.StartTimer()
		c := runtime.Container{
			ID: pod + "-main", Pod: pod, Image: toolboxImage, Args: []string{"forever"}, Sandbox: sandbox,
			CPU: 500, CPULimit: 500, MemoryLimit: 64 << 20, PIDLimit: 100, LogPath: filepath.Join(logs, pod),
		}
		if err := m.runtime.Create(b.Context(), c); err != nil {
			b.Fatal(err)
		}
		if _, err := m.runtime.Start(b.Context(), c.ID); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := m.runtime.Remove(b.Context(), c.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkBareContainerd is the floor: the same container by containerd's own
// client, with the same shim, runc, namespaces, limits and seccomp profile.
func BenchmarkBareContainerd(b *testing.B) {
	m := open(b)
	c := bareClient(b, m)
	image, err := c.GetImage(b.Context(), toolboxImage)
	if err != nil {
		b.Fatal(err)
	}
	logs := b.TempDir()
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprintf("bare-%d", n)
		b.StopTimer()
		sandbox := m.sandbox(b, id)
		b.StartTimer()
		container, err := c.NewContainer(b.Context(), id,
			client.WithImage(image),
			client.WithSnapshotter("overlayfs"),
			client.WithNewSnapshot(id, image),
			client.WithRuntime(m.config.Shim, &options.Options{Root: m.config.RunDir + "/bare"}),
			client.WithNewSpec(
				oci.WithImageConfigArgs(image, []string{"forever"}),
				oci.WithCgroup(m.config.Cgroup+"/"+id),
				oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: sandbox.Net}),
				oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: sandbox.IPC}),
				oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.UTSNamespace, Path: sandbox.UTS}),
				oci.WithCPUCFS(50_000, 100_000), oci.WithMemoryLimit(64<<20), oci.WithPidsLimit(100),
				seccomp.WithDefaultProfile(),
			),
		)
		if err != nil {
			b.Fatal(err)
		}
		task, err := container.NewTask(b.Context(), cio.LogFile(filepath.Join(logs, id)))
		if err != nil {
			b.Fatal(err)
		}
		if err := task.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := task.Delete(b.Context(), client.WithProcessKill); err != nil {
			b.Fatal(err)
		}
		if err := container.Delete(b.Context(), client.WithSnapshotCleanup); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// bareClient speaks to our daemon without any of our code.
func bareClient(tb testing.TB, m *machine) *client.Client {
	tb.Helper()
	c, err := client.New(m.config.Address, client.WithDefaultNamespace("clusterd"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// makeTask does the first half of a start.
func makeTask(tb testing.TB, m *machine, id string) {
	tb.Helper()
	container, err := bareClient(tb, m).LoadContainer(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := container.NewTask(tb.Context(), cio.NullIO); err != nil {
		tb.Fatal(err)
	}
}
