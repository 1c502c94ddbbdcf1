package pod

import (
	"cmp"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// limits are the most a container may use. One without limits, of a server that
// knew none, is held to what it reserves of memory, and no fork bomb leaves it.
func limits(c api.Container) api.Limits {
	l := api.Deref(c.Limits)
	l.Memory = cmp.Or(l.Memory, c.Memory)
	if l.PIDs == nil {
		n := api.DefaultPIDs
		l.PIDs = &n
	}
	return l
}

// security is what a container may do on the node. What is beyond the usual
// was allowed when the pod was written.
func security(s *api.Security) runtime.Security {
	if s == nil {
		return runtime.Security{}
	}
	out := runtime.Security{
		User: s.User, ReadOnlyRoot: api.Deref(s.ReadOnlyRoot), NewRights: s.NoNewPrivileges != nil && !*s.NoNewPrivileges,
		Unconfined: s.Seccomp == "unconfined", Devices: s.Devices, Privileged: api.Deref(s.Privileged),
	}
	if len(s.Add) > 0 || len(s.Drop) > 0 {
		out.Capabilities = append([]string{}, s.Capabilities()...)
	}
	for _, c := range s.Add {
		out.Ambient = append(out.Ambient, strings.TrimPrefix(c, "CAP_"))
	}
	return out
}
