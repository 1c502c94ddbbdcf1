//go:build unix

package server

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// keepOwner gives what is in a directory to who owns that: root fills and mends
// the directory of a server that runs as somebody else.
func keepOwner(dir string) error {
	of, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := of.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}
