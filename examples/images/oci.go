package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeImage packs root as an image called ref, into an OCI layout tar at path.
func writeImage(root, ref, path string, config v1.Config) error {
	rootfs, err := os.CreateTemp("", "layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(rootfs.Name())
	if err := errors.Join(pack(root, rootfs), rootfs.Close()); err != nil {
		return err
	}
	layer, err := tarball.LayerFromFile(rootfs.Name(), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return err
	}
	img, err := image(layer, config)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "oci-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          ref,
		"org.opencontainers.image.ref.name": ref,
	})); err != nil {
		return err
	}
	// Under another name until it is whole: a file that is there is done.
	part, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer os.Remove(part.Name())
	if err := errors.Join(pack(dir, part), part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), path)
}

// image is the layer with how to run it.
func image(layer v1.Layer, config v1.Config) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layer)
	if err != nil {
		return nil, err
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", runtime.GOARCH
	f.Config = config
	return mutate.ConfigFile(img, f)
}

// pack writes the tree below dir as a tar that depends on names, modes and
// contents alone: sorted, without times, owned by root.
func pack(dir string, w io.Writer) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		target := ""
		if fi.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(fi, target)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		clean := tar.Header{Typeflag: h.Typeflag, Name: filepath.ToSlash(name), Linkname: target, Mode: h.Mode, Size: h.Size, ModTime: time.Unix(0, 0)}
		if fi.IsDir() {
			clean.Name += "/"
		}
		if err := out.WriteHeader(&clean); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !fi.Mode().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, bytes.NewReader(b))
		return err
	})
	return errors.Join(err, out.Close())
}
