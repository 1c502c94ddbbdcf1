package machinetest

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestPowerLoss cuts the power of the only server, again and again, under
// writes: its file system is shut down as it is, and what was not synced is
// gone. All that was acknowledged is there when it starts again, and no pod
// noticed.
func TestPowerLoss(t *testing.T) {
	soak(t)
	times, err := strconv.Atoi(os.Getenv("CLUSTERD_CUTS"))
	if err != nil {
		times = 10
	}
	c := upWith(t, "power", 1, 1)
	image := c.ownDisk(t, "s1", 2000)
	c.fleet(t, 30093)
	before := c.pids(t, "steady")
	w := c.write(t)
	for n := range times {
		w.goesOn(t, 100+37*n) // at another moment each time
		cutPower(t, c.disk("s1"))
		c.must(t, "dev", "server", "stop", "1", "--name", c.name)
		for _, args := range [][]string{{"umount", c.disk("s1")}, {"mount", "-o", "loop", image, c.disk("s1")}} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", args, err, out)
			}
		}
		c.must(t, "dev", "server", "start", "1", "--name", c.name)
		w.Turn()
	}
	w.goesOn(t, 100)
	w.end(t)
	c.unharmed(t, before)
	t.Logf("the power was cut %d times", times)
}

// cutPower shuts a file system down without writing anything, not even its
// journal: what was not synced is lost, as when the power goes.
func cutPower(t testing.TB, at string) {
	t.Helper()
	d, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const shutdown, withoutLog = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	how := uint32(withoutLog)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatalf("shut down %s: %v", at, errno)
	}
}

// unharmed fails t if a pod is another than before, or was restarted.
func (c *cluster) unharmed(t testing.TB, before map[string][2]int) {
	t.Helper()
	eventually(t, 10*time.Second, "all pods of before are known", func() bool { return len(c.pids(t, "steady")) == len(before) })
	for name, now := range c.pids(t, "steady") {
		if now != before[name] {
			t.Errorf("%s has process and restarts %v, had %v", name, now, before[name])
		}
	}
}
