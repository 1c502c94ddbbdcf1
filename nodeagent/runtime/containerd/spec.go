//go:build linux

package containerd

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/journal"
)

// groupAnnotation makes containers with the same value share a shim.
const groupAnnotation = "io.containerd.runc.v2.group"

// Open files: what servers expect to find, and how far they may raise it. Our
// own limit bounds both, as that of whoever started us.
const (
	openFiles    = 65_536
	maxOpenFiles = 1_048_576
)

// cpuPeriod is over what time the CPU limit is kept, in microseconds.
const cpuPeriod = 100_000

// spec turns a container into an OCI spec. containerd's default gives it
// no-new-privileges and the fourteen usual capabilities; the seccomp profile
// depends on the capabilities, so what concerns security comes last.
func (r *Runtime) spec(c runtime.Container, image client.Image) []oci.SpecOpts {
	opts := []oci.SpecOpts{
		oci.WithDefaultSpec(),
		oci.WithDefaultUnixDevices,
		oci.WithoutRunMount, // it would hide the image's own /run
	}
	if len(c.Command) > 0 {
		opts = append(opts, oci.WithImageConfig(image), oci.WithProcessArgs(slices.Concat(c.Command, c.Args)...))
	} else {
		opts = append(opts, oci.WithImageConfigArgs(image, c.Args))
	}
	if c.Sandbox.Hostname != "" {
		opts = append(opts, oci.WithEnv([]string{"HOSTNAME=" + c.Sandbox.Hostname}))
		if c.Sandbox.UTS == "" {
			opts = append(opts, oci.WithHostname(c.Sandbox.Hostname))
		}
	}
	opts = append(opts,
		oci.WithEnv(c.Env),
		oci.WithMounts(mounts(c.Mounts)),
		oci.WithRlimit(fileLimit()),
		oci.WithCgroup(path.Join(r.config.Cgroup, c.Pod, c.ID)),
		oci.WithAnnotations(map[string]string{
			groupAnnotation:       c.Pod,
			journal.DirAnnotation: r.config.journal(),
			journal.LogAnnotation: c.LogPath, journal.LeaseAnnotation: c.Lease,
		}),
	)
	for kind, file := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: c.Sandbox.Net,
		specs.IPCNamespace:     c.Sandbox.IPC,
		specs.UTSNamespace:     c.Sandbox.UTS,
	} {
		if file != "" {
			opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: file}))
		}
	}
	return slices.Concat(opts, []oci.SpecOpts{limits(c)}, security(c.Security), []oci.SpecOpts{owned(c.Mounts)})
}

// owned gives the container's user the sources of mounts that are to be its own.
func owned(mounts []runtime.Mount) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		for _, m := range mounts {
			if !m.Owned {
				continue
			}
			if err := os.Lchown(m.Source, int(s.Process.User.UID), int(s.Process.User.GID)); err != nil {
				return fmt.Errorf("own %s: %w", m.Target, err)
			}
		}
		return nil
	}
}

func fileLimit() *specs.POSIXRlimit {
	var own unix.Rlimit
	hard := uint64(openFiles)
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) == nil {
		hard = min(maxOpenFiles, own.Max)
	}
	return &specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: min(openFiles, hard), Hard: hard}
}

func mounts(all []runtime.Mount) []specs.Mount {
	var out []specs.Mount
	for _, m := range all {
		options := []string{"rbind", "rprivate", "rw"}
		if m.ReadOnly {
			options[2] = "ro"
		}
		out = append(out, specs.Mount{Type: "bind", Source: m.Source, Destination: m.Target, Options: options})
	}
	return out
}

// limits sets CPU share and quota, memory without swap, and processes.
func limits(c runtime.Container) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		if s.Linux.Resources == nil {
			s.Linux.Resources = &specs.LinuxResources{}
		}
		res := s.Linux.Resources
		if c.CPU > 0 || c.CPULimit > 0 {
			res.CPU = &specs.LinuxCPU{}
		}
		if c.CPU > 0 {
			shares := uint64(max(2, c.CPU*1024/1000))
			res.CPU.Shares = &shares
		}
		if c.CPULimit > 0 {
			quota, period := max(1000, c.CPULimit*cpuPeriod/1000), uint64(cpuPeriod)
			res.CPU.Quota, res.CPU.Period = &quota, &period
		}
		if c.MemoryLimit > 0 {
			limit := c.MemoryLimit
			res.Memory = &specs.LinuxMemory{Limit: &limit}
			if swaps() {
				res.Memory.Swap = &limit // of memory and swap together: no swap
			}
		}
		if c.PIDLimit > 0 {
			n := c.PIDLimit
			res.Pids = &specs.LinuxPids{Limit: &n}
		}
		return nil
	}
}

// swaps is whether the machine swaps and the kernel can say who may. Limiting
// what does not exist is an error to runc.
func swaps() bool {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil || strings.Count(string(b), "\n") < 2 {
		return false
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		return true // version 2
	}
	_, err = os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}
