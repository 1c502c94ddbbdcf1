//go:build linux

package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// TestHostile: a container that ignores its end, leaves zombies, forks as often
// as it can and writes lines without end disturbs no neighbour, is killed at
// once, and leaves nothing behind.
func TestHostile(t *testing.T) {
	p := newPod(t)
	neighbour := p.container("neighbour", "forever")
	p.start(neighbour)
	bad := p.container("bad", "ignore-term", "zombies=8", "long=8000000", "fork=500", "flood=20000", "forever")
	bad.CPU, bad.CPULimit, bad.MemoryLimit, bad.PIDLimit = 100, 500, 128<<20, 64
	p.start(bad)
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var out, said bytes.Buffer
		code, err := p.m.runtime.Exec(ctx, neighbour.ID, []string{"/toolbox", "print=well"}, false, runtime.ExecIO{Stdout: &out, Stderr: &said})
		cancel()
		if err != nil || code != 0 || out.String() != "well\n" {
			t.Errorf("the neighbour: %d %v %s%s", code, err, out.String(), said.String())
		}
	}
	// Whether a command still finds a place among those that come and go is chance;
	// one that finds none is told so.
	var err error
	for until := time.Now().Add(15 * time.Second); err == nil && time.Now().Before(until); { // it may not be done with its lines yet
		_, err = p.m.runtime.Exec(t.Context(), bad.ID, []string{"/toolbox", "print=in"}, false, runtime.ExecIO{})
	}
	if err != nil && (!errors.Is(err, runtime.ErrCannotStart) || !strings.Contains(err.Error(), "of the 64 processes and threads it may have (limits.pids)")) {
		t.Errorf("a command in a full container: %v", err)
	}
	if err := p.m.runtime.Signal(t.Context(), bad.ID, "SIGTERM"); err != nil {
		t.Error(err)
	}
	if err := p.m.runtime.Signal(t.Context(), bad.ID, "SIGKILL"); err != nil {
		t.Error(err)
	}
	if e := p.exit(bad.ID); e.Code != 137 {
		t.Errorf("it ended with %+v", e)
	}
	begin := time.Now()
	if err := p.m.runtime.Remove(t.Context(), bad.ID); err != nil || time.Since(begin) > 10*time.Second {
		t.Errorf("removed after %s: %v", time.Since(begin), err)
	}
	if _, err := p.m.runtime.Status(t.Context(), bad.ID); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if st, err := p.m.runtime.Status(t.Context(), neighbour.ID); err != nil || st.State != runtime.Running {
		t.Errorf("the neighbour is %+v: %v", st, err)
	}
}
