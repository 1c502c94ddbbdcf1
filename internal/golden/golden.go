// Package golden tests plans by text files: what is given, and the plan that is
// made of it, in a txtar archive each.
//
// Invariants: an archive has the part "plan", and the others are what is given;
// with -update a test writes the plan that is made, and never anything else.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Plans runs plan on the parts of every archive in dir, each as a test of the
// file's name, and compares.
func Plans(t *testing.T, dir string, plan func(t *testing.T, given map[string][]byte) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no archives in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			given := map[string][]byte{}
			for _, f := range a.Files {
				given[f.Name] = f.Data
			}
			got, want := plan(t, given), string(given["plan"])
			switch {
			case !*update && got != want:
				t.Errorf("%splan is\n%s\nwant (go test -update rewrites it)\n%s", a.Comment, got, want)
			case *update && got != want:
				a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool { return f.Name == "plan" })
				a.Files = append(a.Files, txtar.File{Name: "plan", Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
