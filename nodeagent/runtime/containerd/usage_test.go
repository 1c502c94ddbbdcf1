//go:build linux

package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A machine without what limits need is told so, whichever version its cgroups
// are of.
func TestCheckCgroups(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		lacks string
	}{
		"version 2":                 {files: map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n"}},
		"version 2 without pids":    {files: map[string]string{"cgroup.controllers": "cpuset cpu io memory\n"}, lacks: "missing: pids;"},
		"version 1":                 {files: map[string]string{"cpu/cgroup.procs": "", "memory/cgroup.procs": "", "pids/cgroup.procs": "", "unified/cgroup.controllers": ""}},
		"version 1 without two":     {files: map[string]string{"cpu/cgroup.procs": "", "unified/cgroup.controllers": "memory pids"}, lacks: "missing: memory, pids;"},
		"a directory and no mount":  {files: map[string]string{"cpu/cgroup.procs": "", "memory/cgroup.procs": "", "pids/README": ""}, lacks: "missing: pids;"},
		"nothing is mounted at all": {lacks: "missing: cpu, memory, pids;"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range tc.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := checkCgroups(root)
			if got := err == nil; got != (tc.lacks == "") || err != nil && !strings.Contains(err.Error(), tc.lacks) {
				t.Errorf("got %v", err)
			}
		})
	}
}
