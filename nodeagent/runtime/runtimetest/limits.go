package runtimetest

import (
	"errors"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// says runs a container to its end and returns what it printed.
func (s *suite) says(c runtime.Container) string {
	s.Helper()
	s.start(s.create(c))
	s.exit(c.ID)
	return s.log(c.ID, c)
}

// oomOfChild: what ends because one of its processes was killed for want of
// memory ran out of memory, whatever its exit code.
func (s *suite) oomOfChild() {
	c := s.container("oom-child", "exit=1")
	c.MemoryLimit = 32 << 20
	s.start(s.create(c))
	if e := s.exit(c.ID); e.Code != 1 || !e.OOM {
		s.Errorf("exit %+v", e)
	}
}

func (s *suite) pidLimit() {
	c := s.container("fork=64", s.wait(1), "exit=0")
	c.PIDLimit = 16
	if got := s.says(c); !strings.Contains(got, "resource temporarily unavailable") && !strings.Contains(got, "pthread_create") && !strings.Contains(got, "newosproc") {
		s.Errorf("64 children fit into 16 processes: %s", got)
	}
	if e := s.exit(c.ID); e.OOM {
		s.Errorf("exit %+v", e)
	}
}

func (s *suite) user() {
	for user, want := range map[string]string{"": "0:0", "10001": "10001:0", "10001:10002": "10001:10002"} {
		c := s.container("id")
		c.Security.User = user
		if got := s.says(c); got != "stdout: "+want+"\n" {
			s.Errorf("user %q is %s", user, got)
		}
	}
	c := s.container("id")
	c.Security.User = "ghost"
	if err := s.Runtime.Create(s.Context(), c); !errors.Is(err, runtime.ErrCannotStart) || !strings.Contains(err.Error(), "user ghost") {
		s.Errorf("a user that is not in the image: %v", err)
	}
}

func (s *suite) readOnlyRoot() {
	dir := s.TempDir()
	c := s.container("write=/file", "write=/mnt/rw/file", "write=/mnt/ro/file")
	c.Security.ReadOnlyRoot = true
	c.Mounts = []runtime.Mount{{Source: dir, Target: "/mnt/rw"}, {Source: dir, Target: "/mnt/ro", ReadOnly: true}}
	want := "stdout: open /file: read-only file system\nstdout: open /mnt/ro/file: read-only file system\n"
	if got := s.says(c); got != want {
		s.Errorf("got %s", got)
	}
	c = s.container("write=/file", "exit=0")
	if got := s.says(c); got != "" {
		s.Errorf("one that may write: %s", got)
	}
}

// rights: effective and ambient capabilities, no-new-privileges, seccomp, as
// the kernel has them.
func (s *suite) rights() {
	for _, c := range []struct {
		security runtime.Security
		want     string
	}{
		{runtime.Security{}, "a80425fb 0 1 2"},
		{runtime.Security{Capabilities: []string{}}, "0 0 1 2"},
		{runtime.Security{Capabilities: []string{"NET_ADMIN"}}, "1000 0 1 2"},
		{runtime.Security{Capabilities: []string{"NET_ADMIN", "CHOWN"}, Ambient: []string{"NET_ADMIN"}, User: "10001:10001"}, "1000 1000 1 2"},
		{runtime.Security{NewRights: true}, "a80425fb 0 0 2"},
		{runtime.Security{Unconfined: true}, "a80425fb 0 1 0"},
	} {
		spec := s.container("rights")
		spec.Security = c.security
		if got := s.says(spec); got != "stdout: "+c.want+"\n" {
			s.Errorf("%+v: want %s, got %s", c.security, c.want, got)
		}
	}
	spec := s.container("rights")
	spec.Security = runtime.Security{Privileged: true, NewRights: true}
	if got := s.says(spec); !strings.HasSuffix(got, "ff 0 0 0\n") {
		s.Errorf("privileged: %s", got)
	}
}

func (s *suite) devices() {
	for security, want := range map[*runtime.Security]string{
		{}:                                  "stdout: open /dev/net/tun: no such file or directory\n",
		{Devices: []string{"/dev/net/tun"}}: "",
		{Privileged: true}:                  "",
	} {
		c := s.container("open=/dev/net/tun", "exit=0")
		c.Security = *security
		if got := s.says(c); got != want {
			s.Errorf("%+v: %s", security, got)
		}
	}
	c := s.container("exit=0")
	c.Security.Devices = []string{"/dev/absent"}
	if err := s.Runtime.Create(s.Context(), c); !errors.Is(err, runtime.ErrCannotStart) || !strings.HasSuffix(err.Error(), "the node has no device /dev/absent") {
		s.Errorf("a device the node lacks: %v", err)
	}
}
