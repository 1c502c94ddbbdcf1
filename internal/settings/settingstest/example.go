// Package settingstest checks the examples of settings that are installed with
// the daemons. In one, "#name = value" is a setting that is commented out, and
// "# text" is text.
package settingstest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var commentedOut = regexp.MustCompile(`(?m)^#([a-z_]+ *=)`)

// Example checks that a file has a line for each flag of cmd but those named,
// and that it can be read, as it stands and with every line put to use.
func Example(t *testing.T, cmd *cobra.Command, path string, but ...string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := commentedOut.ReplaceAll(b, []byte("$1"))
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name := strings.ReplaceAll(f.Name, "-", "_")
		if f.Name != "config" && !slices.Contains(but, f.Name) && !regexp.MustCompile(`(?m)^`+name+` *=`).Match(used) {
			t.Errorf("%s has no line for %s", path, name)
		}
	})
	for _, text := range [][]byte{b, used} {
		copied := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := cmd.ParseFlags([]string{"--config", copied}); err != nil {
			t.Fatal(err)
		}
		if err := cmd.PreRunE(cmd, nil); err != nil {
			t.Error(err)
		}
	}
}
