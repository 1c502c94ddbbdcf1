package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// library matches the packages an executable may need at run time; others that
// are depended on (debconf, iproute2, …) serve an installed system only.
var library = regexp.MustCompile(`^(lib[a-z0-9]|zlib1g)`)

// needless matches libraries of features that the images do not use: the
// compiler that PostgreSQL can have expressions compiled by is as large as all
// the rest.
var needless = regexp.MustCompile(`^libllvm`)

// unpack downloads packages and the libraries they need into debs, and unpacks
// them into root.
func unpack(debs, root string, packages ...string) error {
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	all, err := closure(packages)
	if err != nil {
		return err
	}
	// The directories that are links on today's Debian, before packages make them.
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", d), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return err
		}
	}
	files, err := download(debs, all)
	if err != nil {
		return err
	}
	for _, deb := range files {
		// With tar told to keep the links above.
		cmd := exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink --no-same-owner -C "$1"`, deb, root)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	return nil
}

// closure is packages with the libraries they need, and those need.
func closure(packages []string) ([]string, error) {
	all := slices.Clone(packages)
	for asked := 0; asked < len(all); { // one question for many: apt reads its lists for each
		args := []string{"depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}
		out, err := run("", "apt-cache", append(args, all[asked:]...)...)
		if err != nil {
			return nil, fmt.Errorf("%w: is the package list there? run apt-get update", err)
		}
		asked = len(all)
		for line := range strings.Lines(out) {
			_, dep, ok := strings.Cut(strings.TrimSpace(line), "Depends: ")
			if ok && library.MatchString(dep) && !needless.MatchString(dep) && !strings.Contains(dep, ":") && !slices.Contains(all, dep) {
				all = append(all, dep)
			}
		}
	}
	return all, nil
}

// download returns the paths of packages' files, and fetches those that are
// not there.
func download(debs string, names []string) (files []string, err error) {
	find := func(name string) string {
		found, _ := filepath.Glob(filepath.Join(debs, name+"_*.deb"))
		if len(found) == 0 {
			return ""
		}
		return found[len(found)-1]
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return find(name) != "" })
	if len(missing) > 0 {
		if _, err := run(debs, "apt-get", append([]string{"download", "-q"}, missing...)...); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		deb := find(name)
		if deb == "" {
			return nil, fmt.Errorf("apt-get download %s left no file in %s", name, debs)
		}
		files = append(files, deb)
	}
	return files, nil
}

func run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}
