package server

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestAuditLogIsBounded: it is its owner's, each line is whole JSON, and what a
// full file had is kept beside the new one, as far as there is room.
func TestAuditLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "audit.log")
	a := openAudit(path, "s1", hclog.NewNullLogger())
	a.file.MaxSize = 1
	reason := strings.Repeat("x", 1<<18)
	for range 9 {
		a.Record(apiserver.AuditEntry{At: api.Now(), Who: "user:ci", Verb: api.VerbWrite, Outcome: apiserver.OutcomeDone, Reason: reason})
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit*.log"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	lines := 0
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 || fi.Size() > 1<<20 {
			t.Errorf("%s: %v, %v", f, fi, err)
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var e struct{ Who, Verb, Outcome, Server string }
			if err := json.Unmarshal(line, &e); err != nil || e.Who != "user:ci" || e.Verb != "write" || e.Outcome != "done" || e.Server != "s1" {
				t.Errorf("%+v: %v", e, err)
			}
			lines++
		}
	}
	if lines != 9 {
		t.Errorf("%d lines of 9", lines)
	}
}

// TestAuditLogThatCannotBeWritten is said once, and once that it can be again.
func TestAuditLogThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the directory's place
		t.Fatal(err)
	}
	var said bytes.Buffer
	a := openAudit(filepath.Join(dir, "audit.log"), "s1", hclog.New(&hclog.LoggerOptions{Output: &said}))
	a.Record(apiserver.AuditEntry{})
	a.Record(apiserver.AuditEntry{})
	if n := strings.Count(said.String(), "not on record"); n != 1 {
		t.Errorf("said %d times: %s", n, &said)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	a.Record(apiserver.AuditEntry{})
	if !strings.Contains(said.String(), "on record again") {
		t.Errorf("said %s", &said)
	}
	a.Close()
}

func TestAuditLogIsOn(t *testing.T) {
	for set, want := range map[string]string{"": "/d/audit.log", AuditOff: "", "/var/log/a": "/var/log/a"} {
		cfg, err := Config{DataDir: "/d", Name: "s1", AuditLog: set}.withDefaults()
		if err != nil || cfg.AuditLog != want {
			t.Errorf("%q: %q, %v, want %q", set, cfg.AuditLog, err, want)
		}
	}
	if openAudit("", "s1", hclog.NewNullLogger()) != nil {
		t.Error("a log of nothing")
	}
}
