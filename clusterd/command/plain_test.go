package command

import (
	"bytes"
	"testing"
)

// TestTerminalIsNotSteered: a message cannot move the cursor, set a title or
// hide what stands above it.
func TestTerminalIsNotSteered(t *testing.T) {
	var out bytes.Buffer
	in := "grün\t\x1b[2J\x1b]0;x\x07\r\u009b1m\n"
	if n, err := (plain{&out}).Write([]byte(in)); err != nil || n != len(in) {
		t.Errorf("wrote %d of %d: %v", n, len(in), err)
	}
	if got := out.String(); got != "grün\t·[2J·]0;x···1m\n" {
		t.Errorf("%q", got)
	}
}
