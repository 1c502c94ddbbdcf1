package command

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// place is one end of a copy: a path here, or in a container of a pod.
type place struct{ pod, path string }

func (c *cli) copy() *cobra.Command {
	var container string
	cmd := &cobra.Command{
		Use:   "cp <from> <to>",
		Short: "Copy files into a container, or out of it",
		Long: `Copies a file, or a directory with all below, from this machine into a
container, or the other way. The end in a container is written pod/<name>:<path>
or app/<name>:<path>. The container must have tar.`,
		Example: `  clusterd cp pod/web-x7k2pa-1:/etc/nginx/nginx.conf .
  clusterd cp ./dump.sql app/db:/tmp/dump.sql`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parsePlace(args[0]), parsePlace(args[1])
			if (from.pod == "") == (to.pod == "") {
				return errors.New("one end is on this machine and one in a container: write that as pod/<name>:<path>")
			}
			if from.path == "" || to.path == "" {
				return errors.New("both ends need a path")
			}
			cp := copier{cli: c, container: container}
			if from.pod != "" {
				return cp.out(cmd.Context(), from, to.path)
			}
			return cp.in(cmd.Context(), from.path, to)
		},
	}
	cmd.Flags().StringVarP(&container, "container", "c", "", "the container; the main one when unset")
	return cmd
}

// parsePlace reads pod/<name>:<path>, app/<name>:<path>, or a path of this machine.
func parsePlace(word string) place {
	pod, in, ok := strings.Cut(word, ":")
	kind, name, named := strings.Cut(pod, "/")
	if ok && named && !strings.Contains(name, "/") && (kind == "pod" || kind == "app" || kind == "pods" || kind == "apps") {
		return place{pod, in}
	}
	return place{path: word}
}

type copier struct {
	*cli
	container string
}

// tar runs tar in the container. What feed writes is its input, and out gets its output.
func (c copier) tar(ctx context.Context, pod string, args []string, feed func(io.Writer) error, out io.Writer) error {
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if pod, err = c.podOf(ctx, pod); err != nil {
		return err
	}
	q := url.Values{"command": append([]string{"tar"}, args...), "stdin": {fmt.Sprint(feed != nil)}}
	if c.container != "" {
		q.Set("container", c.container)
	}
	conn, err := c.stream(ctx, cl, pod, "exec", q)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	frames := tunnel.NewFrames(conn)
	fed := make(chan error, 1)
	go func() {
		var err error
		if feed != nil {
			err = feed(frames.Writer(tunnel.FrameStdin))
		}
		frames.Write(tunnel.FrameCloseStdin, nil)
		fed <- err
	}()
	err = c.show(ctx, cl, frames, pod, "exec", out)
	if code, ok := errors.AsType[exitCode](err); ok {
		err = fmt.Errorf("tar in the container ended with code %d", code)
		if code == 126 || code == 127 {
			err = errors.New("the container has no tar, which copies need")
		}
	}
	conn.Close() // what is not read by now never will be
	return errors.Join(err, <-fed)
}

// in copies from this machine. A directory that exists takes the file under its name.
func (c copier) in(ctx context.Context, from string, to place) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	dir, base := path.Split(to.path)
	if base == "" || base == "." {
		base = filepath.Base(from)
	}
	feed := func(w io.Writer) error {
		t := tar.NewWriter(w)
		if err := pack(t, from, base); err != nil {
			return err
		}
		return t.Close()
	}
	// Nobody's owners and times of this machine are right in there.
	return c.tar(ctx, to.pod, []string{"-xmof", "-", "-C", path.Join("/", dir)}, feed, io.Discard)
}

// pack writes a file or a directory as base.
func pack(t *tar.Writer, from, base string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		switch {
		case info.Mode().Type() == fs.ModeSymlink:
			if link, err = os.Readlink(file); err != nil {
				return err
			}
		case !info.Mode().IsRegular() && !info.IsDir():
			return nil // sockets and devices stay where they are
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = path.Join(base, filepath.ToSlash(below))
		h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
		if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
}

// out copies to this machine. A directory that exists takes the file under its name.
func (c copier) out(ctx context.Context, from place, to string) error {
	dir, base := path.Split(path.Clean(path.Join("/", from.path)))
	if base == "" {
		return errors.New("not the whole container: name a file or directory in it")
	}
	parent, name := filepath.Split(to)
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		parent, name = to, base
	}
	if parent == "" {
		parent = "."
	}
	// A container's archive is not to be trusted: nothing of it leaves parent.
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(root, tar.NewReader(r), base, name)
		if err == nil {
			_, err = io.Copy(io.Discard, r) // the padding of its end
		}
		r.CloseWithError(err)
		unpacked <- err
	}()
	err = c.tar(ctx, from.pod, []string{"-cf", "-", "-C", dir, "--", base}, nil, w)
	w.CloseWithError(err)
	if uerr := <-unpacked; err == nil {
		err = uerr
	}
	return err
}

// unpack writes the entries below base as name.
func unpack(root *os.Root, t *tar.Reader, base, name string) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		rest, ok := strings.CutPrefix(path.Clean(h.Name), base)
		if !ok || rest != "" && rest[0] != '/' {
			return fmt.Errorf("the container sent %q, which was not asked for", h.Name)
		}
		file := filepath.FromSlash(name + rest)
		switch mode := h.FileInfo().Mode(); h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(file, mode.Perm()|0o700)
		case tar.TypeSymlink:
			if err = root.Remove(file); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = root.Symlink(h.Linkname, file)
			}
		case tar.TypeReg:
			err = unpackFile(root, t, file, mode.Perm())
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, r io.Reader, file string, perm fs.FileMode) error {
	f, err := root.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
