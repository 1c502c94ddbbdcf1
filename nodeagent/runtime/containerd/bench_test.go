//go:build linux

package containerd_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// BenchmarkPodStart is our way to a running container in a sandbox of its own
// (limits, log, journal, seccomp and all), one at a time and in a burst of 50,
// each next to its floor in the same run: the same container by containerd's
// own client, with the same shim, runc, namespaces, limits and seccomp profile.
func BenchmarkPodStart(b *testing.B) {
	for _, burst := range []int{1, 50} {
		b.Run(fmt.Sprintf("at-once=%d", burst), func(b *testing.B) {
			m := open(b)
			logs, bare, n := b.TempDir(), bareClient(b, m), 0
			var ours, floor, last, lastFloor []time.Duration // of all pods; of each burst
			for b.Loop() {
				n++
				took := together(b, m, burst, fmt.Sprintf("ours-%d-%d", burst, n), func(id string, sandbox runtime.Sandbox) (func(context.Context) error, error) {
					c := runtime.Container{
						ID: id, Pod: id, Image: toolboxImage, Args: []string{"forever"}, Sandbox: sandbox,
						CPU: 500, CPULimit: 500, MemoryLimit: 64 << 20, PIDLimit: 100, LogPath: filepath.Join(logs, id),
					}
					if err := m.runtime.Create(b.Context(), c); err != nil {
						return nil, err
					}
					_, err := m.runtime.Start(b.Context(), id)
					return func(ctx context.Context) error { return m.runtime.Remove(ctx, id) }, err
				})
				ours, last = append(ours, took...), append(last, slices.Max(took))
				b.StopTimer()
				took = together(b, m, burst, fmt.Sprintf("bare-%d-%d", burst, n), func(id string, sandbox runtime.Sandbox) (func(context.Context) error, error) {
					return startBare(b.Context(), m, bare, id, filepath.Join(logs, id), sandbox)
				})
				floor, lastFloor = append(floor, took...), append(lastFloor, slices.Max(took))
				b.StartTimer()
			}
			if burst > 1 {
				all, bare := quantile(last, 0.5), quantile(lastFloor, 0.5)
				b.ReportMetric(all.Seconds()*1000, "all-ms")
				b.ReportMetric(bare.Seconds()*1000, "all-floor-ms")
				b.ReportMetric(all.Seconds()*1000/float64(burst), "per-pod-ms")
				b.ReportMetric(bare.Seconds()*1000/float64(burst), "per-pod-floor-ms")
			}
			for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99} {
				b.ReportMetric(quantile(ours, q).Seconds()*1000, name+"-ms")
				b.ReportMetric(quantile(floor, q).Seconds()*1000, name+"-floor-ms")
				b.ReportMetric(quantile(ours, q).Seconds()/quantile(floor, q).Seconds(), name+"-ratio")
			}
		})
	}
}

// together starts n containers at once, says how long each took, and removes them.
func together(b *testing.B, m *machine, n int, name string, start func(id string, sandbox runtime.Sandbox) (func(context.Context) error, error)) []time.Duration {
	b.Helper()
	b.StopTimer()
	took, ends, errs := make([]time.Duration, n), make([]func(context.Context) error, n), make([]error, n)
	sandboxes := make([]runtime.Sandbox, n)
	for i := range n {
		sandboxes[i] = m.sandbox(b, fmt.Sprintf("%s-%d", name, i))
	}
	b.StartTimer()
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ends[i], errs[i] = start(fmt.Sprintf("%s-%d", name, i), sandboxes[i])
			took[i] = time.Since(begin)
		})
	}
	wg.Wait()
	b.StopTimer()
	for i := range n {
		if errs[i] == nil {
			errs[i] = ends[i](b.Context())
		}
		if errs[i] != nil {
			b.Fatal(errs[i])
		}
	}
	b.StartTimer()
	return took
}

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

// startBare is a start without any of our code; it returns how to end it.
func startBare(ctx context.Context, m *machine, c *client.Client, id, log string, sandbox runtime.Sandbox) (func(context.Context) error, error) {
	image, err := c.GetImage(ctx, toolboxImage)
	if err != nil {
		return nil, err
	}
	container, err := c.NewContainer(ctx, id,
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
		return nil, err
	}
	task, err := container.NewTask(ctx, cio.LogFile(log))
	if err != nil {
		return nil, err
	}
	end := func(ctx context.Context) error {
		if _, err := task.Delete(ctx, client.WithProcessKill); err != nil {
			return err
		}
		return container.Delete(ctx, client.WithSnapshotCleanup)
	}
	return end, task.Start(ctx)
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
