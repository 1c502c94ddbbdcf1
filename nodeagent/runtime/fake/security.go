package fake

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// devices are what the fake's node has.
var devices = []string{"/dev/fuse", "/dev/kvm", "/dev/net/tun"}

// refuses says why a container with these rights cannot be of the image, or "".
func refuses(s runtime.Security, i Image) string {
	name, _, _ := strings.Cut(s.User, ":")
	if _, err := strconv.Atoi(name); err != nil && name != "" && len(i.Users) > 0 && !slices.Contains(i.Users, name) {
		return fmt.Sprintf("user %s is one that is not in the image's /etc/passwd or /etc/group", s.User)
	}
	for _, d := range s.Devices {
		if !slices.Contains(devices, d) {
			return "the node has no device " + d
		}
	}
	return ""
}

// allowed is what a container prints that tries something.
func (c *container) allowed(verb, value string) string {
	s := c.spec.Security
	switch verb {
	case "id":
		user, group, _ := strings.Cut(s.User, ":")
		return fmt.Sprintf("%d:%d", number(user), number(group))
	case "rights":
		return rights(s)
	case "write":
		if c.readOnly(value) {
			return "open " + value + ": read-only file system"
		}
	case "open":
		if !s.Privileged && !slices.Contains(s.Devices, value) {
			return "open " + value + ": no such file or directory"
		}
	case "fork":
		if n := int64(number(value)); c.spec.PIDLimit > 0 && n >= c.spec.PIDLimit {
			return "fork/exec: resource temporarily unavailable"
		}
	}
	return ""
}

// number reads what may be no number as 0: the fake's only name is root.
func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// readOnly is whether the mount that has a path, or else the root, cannot be
// written to.
func (c *container) readOnly(path string) bool {
	longest, ro := "", c.spec.Security.ReadOnlyRoot
	for _, m := range c.spec.Mounts {
		if (path == m.Target || strings.HasPrefix(path, m.Target+"/")) && len(m.Target) > len(longest) {
			longest, ro = m.Target, m.ReadOnly
		}
	}
	return ro
}

// numbers are the kernel's, by bit.
var numbers = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
	SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
	MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// usual are the fourteen that a container has that says nothing else.
var usual = bits(strings.Fields("AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"))

func bits(capabilities []string) (b uint64) {
	for _, c := range capabilities {
		if i := slices.Index(numbers, c); i >= 0 {
			b |= 1 << i
		}
	}
	return b
}

// rights is what /proc/self/status says.
func rights(s runtime.Security) string {
	has, ambient, bound, seccomp := usual, uint64(0), 1, 2
	if s.Capabilities != nil {
		has = bits(s.Capabilities)
	}
	if user, _, _ := strings.Cut(s.User, ":"); number(user) != 0 {
		ambient = bits(s.Ambient)
		has = ambient
	}
	if s.Privileged {
		has = bits(numbers)
	}
	if s.NewRights {
		bound = 0
	}
	if s.Unconfined || s.Privileged {
		seccomp = 0
	}
	return fmt.Sprintf("%x %x %d %d", has, ambient, bound, seccomp)
}
