package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// Boot is the kernel's clock.
func Boot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}
