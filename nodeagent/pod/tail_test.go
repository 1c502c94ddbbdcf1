package pod

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// TestLastWordsDoNotSteerATerminal: they end up in describe and in Terraform.
func TestLastWordsDoNotSteerATerminal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := logfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"\x1b[1;31merror:\x1b[0m grün", "\x1b]0;title\x07bye\r", "a\tb\u009b2Jc"} {
		w.Print("stderr", text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := tail(path); !slices.Equal(got, []string{"error: grün", "bye", "a\tb2Jc"}) {
		t.Errorf("%q", got)
	}
}
