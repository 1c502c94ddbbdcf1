// Command images builds the example images: the real nginx, as two versions
// that differ in their page, out of Debian's packages.
//
//	go run ./examples/images -out .cache/images
//
// It needs apt-get and dpkg-deb, and neither root nor a registry. Packages are
// unpacked, not installed: no maintainer script runs. What is built is cached;
// the same packages give the same image, byte for byte.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// versions are the tags, and what the page of each looks like.
var versions = []struct{ tag, color string }{
	{"1.0", "#0b7285"},
	{"2.0", "#d9480f"},
}

func main() {
	out := flag.String("out", ".cache/images", "directory for the images and for what they are made of")
	flag.Parse()
	if err := build(*out); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func build(out string) error {
	missing := false
	for _, v := range versions {
		_, err := os.Stat(tarOf(out, v.tag))
		missing = missing || err != nil
	}
	if !missing {
		fmt.Println("images: nginx:1.0 and nginx:2.0 are there; delete", out, "to build them anew")
		return nil
	}
	debs := filepath.Join(out, "debs")
	root, err := os.MkdirTemp("", "rootfs-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	fmt.Println("images: fetching nginx, bash and busybox from Debian's packages")
	if err := unpack(debs, root, "nginx", "nginx-common", "bash", "busybox-static"); err != nil {
		return err
	}
	if err := furnish(root); err != nil {
		return err
	}
	for _, v := range versions {
		if err := page(root, v.tag, v.color); err != nil {
			return err
		}
		if err := writeImage(root, "docker.io/library/nginx:"+v.tag, tarOf(out, v.tag)); err != nil {
			return fmt.Errorf("nginx:%s: %w", v.tag, err)
		}
		fmt.Println("images: built", tarOf(out, v.tag))
	}
	return nil
}

func tarOf(out, tag string) string { return filepath.Join(out, "nginx-"+tag+".tar") }
