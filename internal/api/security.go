package api

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Security is what a container may do on its node. What is more than usual
// must be allowed by the namespace's powers.
type Security struct {
	User            string   `json:"user,omitempty" doc:"Name or number of the user, and of the group after a colon, such as 10001:10001; by default the image's."`
	ReadOnlyRoot    *bool    `json:"read_only_root,omitempty" doc:"The container's own files cannot be changed; mounts can. Default: false."`
	Add             []string `json:"add,omitempty" doc:"Capabilities beyond the usual ones, such as NET_ADMIN; the namespace must allow them."`
	Drop            []string `json:"drop,omitempty" doc:"Capabilities to go without, such as NET_RAW; ALL drops all but those of add."`
	NoNewPrivileges *bool    `json:"no_new_privileges,omitempty" doc:"Programs cannot gain rights by being run, such as by setuid." default:"true"`
	Seccomp         string   `json:"seccomp,omitempty" doc:"System calls it may make: default, or unconfined where the namespace allows privileged." enum:"default,unconfined" default:"default"`
	Devices         []string `json:"devices,omitempty" doc:"Devices of the node, such as /dev/fuse; the namespace must allow them."`
	Privileged      *bool    `json:"privileged,omitempty" doc:"As root of the node; the namespace must allow it. Default: false."`
}

var (
	userRE       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?$`)
	capabilityRE = regexp.MustCompile(`^[A-Z][A-Z_]{1,30}$`)
)

// DefaultCapabilities are what a container has that says nothing else.
var DefaultCapabilities = []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}

func (s Security) validate() error {
	var errs Errors
	if s.User != "" && !userRE.MatchString(s.User) {
		errs.Addf("user", "%q is not a user: want a name or number, and a group after a colon if need be", s.User)
	}
	for field, caps := range map[string][]string{"add": s.Add, "drop": s.Drop} {
		for i, c := range caps {
			if !capabilityRE.MatchString(strings.TrimPrefix(c, "CAP_")) {
				errs.Addf(index(field, i), "%q is not a capability such as NET_ADMIN", c)
			}
			if c == "ALL" && field == "add" {
				errs.Addf(index(field, i), "name each capability, or set privileged")
			}
		}
	}
	if s.Seccomp != "" && s.Seccomp != "default" && s.Seccomp != "unconfined" {
		errs.Addf("seccomp", "%q is unknown: want default or unconfined", s.Seccomp)
	}
	for i, d := range s.Devices {
		if !strings.HasPrefix(d, "/dev/") || path.Clean(d) != d {
			errs.Addf(index("devices", i), "%q is not a device: want a path such as /dev/fuse", d)
		}
	}
	slices.SortStableFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Path, b.Path) })
	return errs.Err()
}

func (s Security) withDefaults() Security {
	s.NoNewPrivileges = or(s.NoNewPrivileges, !Deref(s.Privileged))
	s.Seccomp = cmp.Or(s.Seccomp, "default")
	return s
}

// Capabilities returns what the container may do, without the CAP_.
func (s Security) Capabilities() []string {
	plain := func(caps []string) (out []string) {
		for _, c := range caps {
			out = append(out, strings.TrimPrefix(c, "CAP_"))
		}
		return out
	}
	drop, add := plain(s.Drop), plain(s.Add)
	var out []string
	for _, c := range DefaultCapabilities {
		if !slices.Contains(drop, c) && !slices.Contains(drop, "ALL") {
			out = append(out, c)
		}
	}
	for _, c := range add {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}
