package runtimetest

import (
	"errors"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// usage: what a container uses is measured while it runs, and not after.
func (s *suite) usage() {
	const memory = 24 << 20
	c := s.container("use=200,25165824", "print=busy", "forever")
	s.start(s.create(c))
	s.printed(c, "busy")
	before, err := s.Runtime.Usage(s.Context(), c.ID)
	if err != nil {
		s.Fatal(err)
	}
	time.Sleep(20 * s.Beat)
	after, err := s.Runtime.Usage(s.Context(), c.ID)
	if err != nil {
		s.Fatal(err)
	}
	if used := after.CPU - before.CPU; used <= 0 || used > 20*s.Beat*10 {
		s.Errorf("used %s of a processor in %s", used, 20*s.Beat)
	}
	if after.Memory < memory || after.Memory > 4*memory {
		s.Errorf("uses %d bytes of memory, and holds %d", after.Memory, memory)
	}
	if err := s.Runtime.Signal(s.Context(), c.ID, "SIGKILL"); err != nil {
		s.Fatal(err)
	}
	s.exit(c.ID)
	if _, err := s.Runtime.Usage(s.Context(), c.ID); !errors.Is(err, runtime.ErrNotRunning) {
		s.Errorf("of one that has ended: %v", err)
	}
	if _, err := s.Runtime.Usage(s.Context(), "absent"); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("of an absent one: %v", err)
	}
}
