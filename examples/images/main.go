// Command images builds the example images out of Debian's packages: the real
// nginx, as two versions that differ in their page, and the real PostgreSQL.
//
//	go run ./examples/images -out .cache/images nginx postgres
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

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// recipe is how to make the images of one program.
type recipe struct {
	packages []string
	furnish  func(root string) error // what the packages' scripts would have done
	tags     []string
	change   func(root, tag string) error // what a tag differs in; may be nil
	config   v1.Config
}

var recipes = map[string]recipe{"nginx": nginx, "postgres": postgres}

func main() {
	out := flag.String("out", ".cache/images", "directory for the images and for what they are made of")
	flag.Parse()
	for _, name := range flag.Args() {
		r, ok := recipes[name]
		err := fmt.Errorf("there is no recipe: want nginx or postgres")
		if ok {
			err = r.build(*out, name)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "images: %s: %s\n", name, err)
			os.Exit(1)
		}
	}
}

// build makes the images of a recipe, unless they are there.
func (r recipe) build(out, name string) error {
	missing := false
	for _, tag := range r.tags {
		_, err := os.Stat(tarOf(out, name, tag))
		missing = missing || err != nil
	}
	if !missing {
		fmt.Printf("images: %s is there; delete %s to build it anew\n", name, out)
		return nil
	}
	root, err := os.MkdirTemp("", "rootfs-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	fmt.Println("images: fetching", name, "and what it needs from Debian's packages")
	if err := unpack(filepath.Join(out, "debs"), root, append(r.packages, "bash", "busybox-static")...); err != nil {
		return err
	}
	if err := furnish(root); err != nil {
		return err
	}
	if err := r.furnish(root); err != nil {
		return err
	}
	for _, tag := range r.tags {
		if r.change != nil {
			if err := r.change(root, tag); err != nil {
				return err
			}
		}
		if err := writeImage(root, "docker.io/library/"+name+":"+tag, tarOf(out, name, tag), r.config); err != nil {
			return fmt.Errorf("%s: %w", tag, err)
		}
		fmt.Println("images: built", tarOf(out, name, tag))
	}
	return nil
}

func tarOf(out, name, tag string) string { return filepath.Join(out, name+"-"+tag+".tar") }
