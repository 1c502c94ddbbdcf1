package command

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestTables prints the objects of each golden as a list of their kind.
func TestTables(t *testing.T) {
	goldens(t, "tables", func(t *testing.T, name string, in []byte) string {
		kind, err := api.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(in, &list); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		for _, q := range []query{{output: "table", ns: "shop"}, {output: "wide", ns: "shop"}, {output: "table"}} {
			q.kind = kind
			table, err := tableOf(q, list.Items)
			if err != nil {
				t.Fatal(err)
			}
			if err := table.print(&b); err != nil {
				t.Fatal(err)
			}
			b.WriteByte('\n')
		}
		return b.String()
	})
}

// TestSpecReadsLikeHCL renders the specs of the goldens.
func TestSpecReadsLikeHCL(t *testing.T) {
	goldens(t, "hcl", func(_ *testing.T, _ string, in []byte) string {
		return strings.Join(hcl(in), "\n") + "\n"
	})
}

func TestRollouts(t *testing.T) {
	goldens(t, "rollouts", func(t *testing.T, _ string, in []byte) string {
		var r api.Rollout
		if err := json.Unmarshal(in, &r); err != nil {
			t.Fatal(err)
		}
		return strings.Join(rolloutLines(r), "\n") + "\n"
	})
}

// goldens runs render on each NAME.json of testdata/<archive>.txtar and
// compares with NAME.txt beside it.
func goldens(t *testing.T, archive string, render func(t *testing.T, name string, in []byte) string) {
	path := filepath.Join("testdata", archive+".txtar")
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, f := range a.Files {
		want[f.Name] = string(f.Data)
	}
	out := &txtar.Archive{Comment: a.Comment}
	for _, f := range a.Files {
		name, ok := strings.CutSuffix(f.Name, ".json")
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			got := render(t, name, f.Data)
			out.Files = append(out.Files, f, txtar.File{Name: name + ".txt", Data: []byte(got)})
			if !*update && got != want[name+".txt"] {
				t.Errorf("got\n%s\nwant\n%s\n(-update rewrites it)", got, want[name+".txt"])
			}
		})
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
