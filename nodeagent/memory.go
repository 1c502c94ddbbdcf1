//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// inMemory makes dir a place whose files are never on a disk, for the secrets
// of pods. A restarted agent finds it as it was.
func inMemory(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount("secrets", dir, "tmpfs", flags, "mode=0711,noswap")
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.4
		err = unix.Mount("secrets", dir, "tmpfs", flags, "mode=0711")
	}
	if err != nil {
		return fmt.Errorf("mount memory at %s: %w", dir, err)
	}
	return nil
}
