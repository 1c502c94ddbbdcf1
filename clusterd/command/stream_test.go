package command

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// start runs a command until the test ends, and returns the lines it prints.
func start(t *testing.T, args ...string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	run := &cli{in: strings.NewReader(""), out: w, err: w}
	root := run.root()
	root.SetArgs(args)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(root.ExecuteContext(ctx))
	}()
	t.Cleanup(func() {
		cancel()
		r.Close()
		<-done
	})
	return bufio.NewScanner(r)
}

// testPortForward: what goes in at the local port comes back from the pod, to
// its end; a second connection works as the first did.
func testPortForward(t *testing.T, c *testcluster.Cluster) {
	front := &api.Service{Meta: api.Meta{Name: "front", Namespace: api.DefaultNamespace}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 8080, Target: "80"}}}}
	if _, err := client.Of(c.Client(), api.Services).Create(t.Context(), front); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ok(t, "delete", "service", "front") })
	lines := start(t, "port-forward", "app/web", "0:80")
	if !lines.Scan() {
		t.Fatal(lines.Err())
	}
	address, _, ok := strings.Cut(lines.Text(), " -> app/web port 80")
	if !ok {
		t.Fatalf("printed %q", lines.Text())
	}
	for _, text := range []string{"hello", strings.Repeat("0123456789", 50_000)} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(conn, text)
			conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || string(got) != text {
			t.Errorf("%d bytes came back of %d (%v)", len(got), len(text), err)
		}
	}
	service := start(t, "port-forward", "service/front", "0:8080")
	if !service.Scan() || !strings.HasSuffix(service.Text(), " -> app/web port 80") {
		t.Errorf("of a service it prints %q (%v)", service.Text(), service.Err())
	}
	refused(t, "service front has no port 80; it has 8080", "port-forward", "service/front", "80")
	refused(t, "is no port", "port-forward", "app/web", "80:x")
	refused(t, "app/default/nope", "port-forward", "app/nope", "80")
	refused(t, "want pod/<name> or app/<name>", "port-forward", "node/w1", "80")
}

// testEndOfARight: what is open ends with the right to it, and says why: that the
// token was revoked, or what its role gives no more.
func testEndOfARight(t *testing.T, c *testcluster.Cluster) {
	ok(t, "role", "set", "narrow", "--rule", "read apps,pods in default")
	for _, role := range []string{"kept", "narrowed"} {
		ok(t, "role", "set", role, "--rule", "read apps,pods in default", "--rule", "logs,exec,connect pods in default")
	}
	type running struct {
		*bufio.Scanner
		what, want string
	}
	var all []running
	pod := "pod/" + podNames(t)[0]
	for _, of := range []struct{ role, logs, exec, connect string }{
		{"kept", "it was revoked", "it was revoked", "it was revoked"},
		{"narrowed", "token narrowed may not read the logs of pods in default", "token narrowed may not run commands in pods in default", "token narrowed may not connect to ports of pods in default"},
	} {
		t.Setenv("CLUSTERD_TOKEN", strings.TrimSpace(ok(t, "token", "create", of.role, "--role", of.role)))
		for _, cmd := range []struct {
			want string
			args []string
			idle bool // it prints nothing, or nobody connects
		}{
			{of.logs, []string{"logs", "-f", "--tail", "0", pod}, true},
			{of.logs, []string{"logs", "-f", "app/web"}, false},
			{of.logs, []string{"logs", "-f", pod}, false},
			{of.exec, []string{"exec", pod, "--", "/toolbox", "print=runs", "forever"}, false},
			{of.connect, []string{"port-forward", "app/web", "0:80"}, false},
			{of.connect, []string{"port-forward", pod, "0:80"}, true},
		} {
			r := running{start(t, cmd.args...), strings.Join(cmd.args, " "), cmd.want}
			all = append(all, r)
			if cmd.idle && cmd.args[0] == "logs" {
				continue
			}
			if !r.Scan() {
				t.Fatalf("%s: %v", r.what, r.Err())
			}
			if address, _, is := strings.Cut(r.Text(), " -> "); is && !cmd.idle {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				fmt.Fprintln(conn, "hello")
				if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
					t.Fatalf("%q came back (%v)", line, err)
				}
			}
		}
		t.Setenv("CLUSTERD_TOKEN", c.Token())
	}
	ok(t, "delete", "token", "kept")
	ok(t, "role", "set", "narrowed", "--rule", "read apps,pods in default")
	for _, r := range all {
		for r.Scan() {
		}
		if err := r.Err(); err == nil || !strings.Contains(message(err), r.want) {
			t.Errorf("%s ended with %v, want %s", r.what, err, r.want)
		}
	}
	t.Setenv("CLUSTERD_TOKEN", strings.TrimSpace(ok(t, "token", "create", "narrow", "--role", "narrow")))
	refused(t, "token narrow may not connect to ports of pods in default", "port-forward", "app/web", "0:80")
	if r := clusterd("", "logs", "app/web"); r.code != 1 || strings.Count(r.err, "may not read the logs") != 1 {
		t.Errorf("logs of two pods: %+v", r)
	}
}

// TestFollowTellsTheLastEvents: what happened long ago is not told before what
// is waited for, but that there is more.
func TestFollowTellsTheLastEvents(t *testing.T) {
	ring := api.Events{Spec: api.EventsSpec{Subject: api.Apps.Ref("shop", "web")}}
	for i := range recent + 5 {
		at := time.Unix(int64(i), 0)
		ring.Spec.Entries = append(ring.Spec.Entries, api.Event{Reason: "scaled", Message: fmt.Sprintf("to %d.", i), First: at, Last: at, Count: 1})
	}
	raw, err := json.Marshal(ring)
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	p := &eventPrinter{out: &out, err: &said, most: recent, shown: map[string]shownEvent{}}
	if err := p.print([]json.RawMessage{raw}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != recent || strings.Contains(out.String(), "to 4.") || !strings.Contains(out.String(), "to 24.") || !strings.HasPrefix(said.String(), "5 older events") {
		t.Errorf("%d lines, and %q:\n%s", n, said.String(), out.String())
	}
}

func testEvents(t *testing.T) {
	if out := ok(t, "events"); !strings.Contains(out, "app/default/web") || !strings.Contains(out, "rollout_complete") {
		t.Errorf("events: %s", out)
	}
	if out := ok(t, "events", "app/web"); strings.Contains(out, "pod/default/") || !strings.Contains(out, "rollout_started") {
		t.Errorf("events of the app: %s", out)
	}
	if out := ok(t, "events", "app/nope"); out != "" {
		t.Errorf("events of nothing: %s", out)
	}
	lines := start(t, "events", "-f", "app/web")
	for lines.Scan() {
		if strings.Contains(lines.Text(), "rollout_complete") {
			return
		}
	}
	t.Errorf("no rollout_complete: %v", lines.Err())
}

// TestCopyKeepsWhatWasPacked: a directory comes out as it went in.
func TestCopyKeepsWhatWasPacked(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "a", "b"), 0o750); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"x.txt": 0o644, "a/run": 0o755, "a/b/y": 0o600} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("run", filepath.Join(from, "a", "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := pack(w, from, "site"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	root, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unpack(root, tar.NewReader(&b), "site", "copy"); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"x.txt": 0o644, "a/run": 0o755, "a/b/y": 0o600} {
		got, err := os.ReadFile(filepath.Join(to, "copy", name))
		info, _ := os.Stat(filepath.Join(to, "copy", name))
		if err != nil || string(got) != name || info.Mode() != mode {
			t.Errorf("%s: %q %v (%v)", name, got, info, err)
		}
	}
	if link, err := os.Readlink(filepath.Join(to, "copy", "a", "link")); err != nil || link != "run" {
		t.Errorf("link to %q (%v)", link, err)
	}
}

// TestCopyTrustsNoContainer: nothing a container sends leaves the directory.
func TestCopyTrustsNoContainer(t *testing.T) {
	for name, send := range map[string][]tar.Header{
		"another name":        {{Name: "other", Typeflag: tar.TypeReg}},
		"a longer name":       {{Name: "sited", Typeflag: tar.TypeReg}},
		"a path upwards":      {{Name: "site/../../escaped", Typeflag: tar.TypeReg}},
		"an absolute path":    {{Name: "/escaped", Typeflag: tar.TypeReg}},
		"a link, and through": {{Name: "site", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "site/escaped", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			to := filepath.Join(dir, "to")
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range send {
				h.Mode = 0o644
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			root, err := os.OpenRoot(to)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := unpack(root, tar.NewReader(&b), "site", "copy"); err == nil {
				t.Error("was unpacked")
			}
			if _, err := os.Lstat(filepath.Join(dir, "escaped")); err == nil {
				t.Error("left the directory")
			}
		})
	}
}

// testImages: what is on the nodes is listed; what a pod needs stays.
func testImages(t *testing.T) {
	const nginx = "docker.io/library/nginx:1.27"
	if out := ok(t, "image", "list"); !strings.Contains(out, nginx) || !strings.Contains(out, "w1,w2") {
		t.Errorf("image list: %s", out)
	}
	if r := clusterd("", "image", "rm", "nginx:1.27"); r.code != 1 || !strings.Contains(r.err, "in use by a pod") || !strings.Contains(r.err, "gone from 0 of 2") {
		t.Errorf("image rm of what is needed: %+v", r)
	}
	if out := ok(t, "image", "rm", "nobody:1"); !strings.Contains(out, "no connected node has it") {
		t.Errorf("image rm of nothing: %s", out)
	}
	if r := clusterd("", "image", "rm", "nobody:1"); strings.Contains(r.err, "loading") || !strings.Contains(r.err, "removing") {
		t.Errorf("image rm says: %s", r.err)
	}
	refused(t, "not an image reference", "image", "rm", "No!")
}
