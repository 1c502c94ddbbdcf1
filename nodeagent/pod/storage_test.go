package pod

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// TestTroubleHasNoPlanSign: what users read of a step that went wrong is no
// line of a plan.
func TestTroubleHasNoPlanSign(t *testing.T) {
	for _, s := range []step{{Do: addSandbox}, {Do: start, Container: "main"}, {Do: signal, Container: "main"}, {Do: drain}} {
		var f facts
		f.trouble(fmt.Errorf("%s: scratch space at /big: %w", s, syscall.ENOSPC), time.Unix(1, 0))
		if c := f.Trouble[0]; c < 'a' || c > 'z' {
			t.Errorf("trouble of %q reads %q", s, f.Trouble)
		}
		if f.Full.IsZero() {
			t.Errorf("%q is no full disk", f.Trouble)
		}
	}
}
