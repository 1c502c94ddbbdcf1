//go:build unix

package server

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What root writes into the directory of a server that runs as somebody else
// is that one's.
func TestOwnerIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: files of somebody else")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4712); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "store", "member", "db")
	if err := os.MkdirAll(filepath.Dir(deep), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(deep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keepOwner(dir); err != nil {
		t.Fatal(err)
	}
	for path := deep; path != filepath.Dir(dir); path = filepath.Dir(path) {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 4711 || st.Gid != 4712 {
			t.Errorf("%s is of %d:%d", path, st.Uid, st.Gid)
		}
	}
}
