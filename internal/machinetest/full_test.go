package machinetest

import (
	"testing"
	"time"
)

// TestAllDisksFull: when no server has a byte left none writes, and none
// forgets; with room again they go on where they were.
func TestAllDisksFull(t *testing.T) {
	soak(t)
	c := upWith(t, "full", 1, 3)
	servers := []string{"s1", "s2", "s3"}
	for _, server := range servers {
		c.ownDisk(t, server, 2000)
	}
	c.fleet(t, 30094)
	c.whole(t, 3)
	before := c.pids(t, "steady")
	w := c.write(t)
	w.goesOn(t, 500)
	for _, server := range servers {
		c.fill(t, server)
	}
	eventually(t, 2*time.Minute, "all servers have ended", func() bool {
		return len(processes(t, "clusterd server ", "/"+c.name+"/")) == 0
	})
	w.Turn()
	time.Sleep(10 * time.Second) // of clients that find nobody
	for _, server := range servers {
		c.free(t, server)
	}
	c.must(t, "dev", "up", "--name", c.name, "--nodes", "1")
	w.Turn()
	w.goesOn(t, 200)
	c.whole(t, 3)
	w.end(t)
	c.unharmed(t, before)
}
