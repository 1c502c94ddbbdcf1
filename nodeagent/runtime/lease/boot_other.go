//go:build !linux

package lease

import "time"

// Boot is a clock for what is only simulated here: nodes are Linux machines.
func Boot() time.Duration { return time.Duration(time.Now().UnixNano()) }
