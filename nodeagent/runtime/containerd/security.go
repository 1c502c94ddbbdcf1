//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// security says what a container may do. The seccomp profile allows what the
// capabilities need, and so is made after them.
func security(s runtime.Security) (opts []oci.SpecOpts) {
	if s.User != "" {
		opts = append(opts, oci.WithUser(s.User), itsGroups)
	}
	if s.ReadOnlyRoot {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	if s.NewRights {
		opts = append(opts, oci.WithNewPrivileges)
	}
	if s.Privileged {
		return append(opts, oci.WithPrivileged, oci.WithHostDevices, oci.WithAllDevicesAllowed)
	}
	if s.Capabilities != nil {
		opts = append(opts, oci.WithCapabilities(named(s.Capabilities)))
	}
	if len(s.Ambient) > 0 {
		opts = append(opts, ambient(named(s.Ambient)))
	}
	for _, d := range s.Devices {
		opts = append(opts, device(d))
	}
	if !s.Unconfined {
		opts = append(opts, seccomp.WithDefaultProfile())
	}
	return opts
}

// itsGroups gives the process the other groups its user is in.
func itsGroups(ctx context.Context, c oci.Client, of *containers.Container, s *oci.Spec) error {
	return oci.WithAdditionalGIDs(strconv.FormatUint(uint64(s.Process.User.UID), 10))(ctx, c, of, s)
}

// named gives capabilities the names the kernel has for them.
func named(capabilities []string) []string {
	out := make([]string, len(capabilities))
	for i, c := range capabilities {
		out[i] = "CAP_" + c
	}
	return out
}

// ambient keeps capabilities for programs that are run by a user other than
// root. The kernel wants them inheritable, too.
func ambient(capabilities []string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if s.Process.User.UID != 0 {
			s.Process.Capabilities.Inheritable, s.Process.Capabilities.Ambient = capabilities, capabilities
		}
		return nil
	}
}

// device shows a device of the node under its own name.
func device(path string) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, of *containers.Container, s *oci.Spec) error {
		err := oci.WithLinuxDevice(path, "rwm")(ctx, c, of, s)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, oci.ErrNotADevice) {
			return fmt.Errorf("%w: the node has no device %s", runtime.ErrCannotStart, path)
		}
		return err
	}
}
