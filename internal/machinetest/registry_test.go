package machinetest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// registry has one image for the nodes of a cluster, each of which finds it on
// itself: who has no TLS must be at home.
type registry struct {
	image  string            // as nodes call it
	parts  map[string][]byte // by digest
	digest string            // of the image
	kind   string
	gone   atomic.Bool // the image is not there any more
	closed atomic.Bool // to strangers
}

// registry serves the image of an OCI layout tar until the test ends.
func (c *cluster) registry(t *testing.T, layout string) *registry {
	t.Helper()
	const address = "127.0.0.1:5000"
	r := &registry{image: address + "/team/" + strings.TrimSuffix(layout, ".tar") + ":1", parts: map[string][]byte{}}
	r.read(t, filepath.Join(c.root, ".cache/images", layout))
	for _, n := range c.nodes(t) {
		s := httptest.NewUnstartedServer(r)
		s.Listener.Close()
		s.Listener = listenIn(t, filepath.Join("/run/clusterd/dev", c.name, "netns", n.Meta.Name), address)
		s.Start()
		t.Cleanup(s.Close)
	}
	return r
}

func (r *registry) read(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		var b []byte
		if err == nil {
			b, err = io.ReadAll(tr)
		}
		if err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
		if digest, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && digest != "" {
			r.parts["sha256:"+digest] = b
		}
		if h.Name == "index.json" {
			var index struct {
				Manifests []struct{ Digest, MediaType string }
			}
			if err := json.Unmarshal(b, &index); err != nil || len(index.Manifests) != 1 {
				t.Fatalf("%s has no single image: %v\n%s", path, err, b)
			}
			r.digest, r.kind = index.Manifests[0].Digest, index.Manifests[0].MediaType
		}
	}
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	_, digest, _ := strings.Cut(req.URL.Path, "/blobs/")
	if _, tag, ok := strings.Cut(req.URL.Path, "/manifests/"); ok {
		digest = tag
		if !strings.HasPrefix(tag, "sha256:") {
			digest = r.digest
		}
		w.Header().Set("Content-Type", r.kind)
		w.Header().Set("Docker-Content-Digest", digest)
	}
	b, ok := r.parts[digest]
	switch _, _, known := req.BasicAuth(); {
	case r.closed.Load() && !known:
		w.Header().Set("WWW-Authenticate", `Basic realm="team"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	case !ok || r.gone.Load():
		http.Error(w, `{"errors":[{"code":"NOT_FOUND"}]}`, http.StatusNotFound)
	default:
		w.Write(b)
	}
}

// listenIn listens in a network namespace, where the socket stays. The thread
// that makes it goes home: it may be the one the process goes by, and whoever
// takes the namespace away ends the processes in it.
func listenIn(t *testing.T, space, address string) net.Listener {
	t.Helper()
	type made struct {
		net.Listener
		error
	}
	out := make(chan made)
	go func() {
		runtime.LockOSThread()
		l, err := listenThere(space, address)
		if err == nil {
			runtime.UnlockOSThread()
		}
		out <- made{l, err}
	}()
	m := <-out
	if m.error != nil {
		t.Fatalf("listen on %s in %s: %v", address, space, m.error)
	}
	return m.Listener
}

func listenThere(space, address string) (net.Listener, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open(space)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	return l, errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}
