package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// users that the packages' maintainer scripts would have made.
const (
	passwd = `root:x:0:0:root:/root:/bin/bash
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
postgres:x:102:102:postgres:/var/lib/postgresql:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`
	group = `root:x:0:
adm:x:4:
www-data:x:33:
postgres:x:102:
nogroup:x:65534:
`
)

// furnish makes a root file system of what the packages hold.
func furnish(root string) error {
	for _, d := range []string{"dev", "etc", "proc", "root", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		return err
	}
	for _, d := range []string{"doc", "man", "locale", "lintian", "info", "bug", "bash-completion", "menu"} {
		if err := os.RemoveAll(filepath.Join(root, "usr/share", d)); err != nil {
			return err
		}
	}
	for path, content := range map[string]string{
		"etc/passwd":        passwd,
		"etc/group":         group,
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil {
			return err
		}
	}
	// The usual tools, by their names, where no package brought one.
	busybox := filepath.Join(root, "usr/bin/busybox")
	applets, err := run("", busybox, "--list")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(applets) {
		taken := false
		for _, d := range []string{"usr/bin", "usr/sbin"} {
			_, err := os.Lstat(filepath.Join(root, d, name))
			taken = taken || err == nil
		}
		if taken {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(root, "usr/bin", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
