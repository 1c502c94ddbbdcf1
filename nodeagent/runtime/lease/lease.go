// Package lease is the file that says until when a node may run pods that may
// run elsewhere afterwards. The agent writes it; whoever holds the containers
// ends them once it has passed, whatever the agent does.
//
// Invariants: times are counted since boot by a clock that nobody sets and
// that goes on while the machine is suspended; a file of another boot, or none,
// is no lease; a lease that was missed once never comes back: the next one has
// another era.
package lease

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// Lease is what the file says.
type Lease struct {
	Boot  string        `json:"boot"`
	Era   int64         `json:"era"`   // since when it was held without a gap: the clock's nanoseconds
	Until time.Duration `json:"until"` // by the clock
}

// Clock is time since boot.
type Clock func() time.Duration

// BootID tells this boot from others.
func BootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// Read returns the lease of the file, of this boot.
func Read(path string) (Lease, error) {
	var l Lease
	b, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return Lease{}, fmt.Errorf("%s: %w", path, err)
	}
	if l.Boot != BootID() {
		return Lease{}, fmt.Errorf("%s is of an earlier boot", path)
	}
	return l, nil
}

// Write replaces the file.
func Write(path string, l Lease) error {
	l.Boot = BootID()
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Left returns for how long the lease of the file still lasts. What cannot be
// read is none.
func Left(path string, clock Clock) time.Duration {
	l, err := Read(path)
	if err != nil {
		return 0
	}
	return max(0, l.Until-clock())
}

// Look is how often a watchman looks at the clock: a timer alone would sleep
// through a suspension of the machine.
const Look = 500 * time.Millisecond
