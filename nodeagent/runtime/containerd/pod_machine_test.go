//go:build linux

package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// pod is a sandbox and its containers, removed at the end of a test.
type pod struct {
	t       *testing.T
	m       *machine
	uid     string
	sandbox runtime.Sandbox
	logs    string
}

func newPod(t *testing.T) *pod {
	m := open(t)
	p := &pod{t: t, m: m, uid: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), logs: t.TempDir()}
	p.sandbox = m.sandbox(t, p.uid)
	t.Cleanup(func() {
		all, err := m.runtime.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, st := range all {
			if err := m.runtime.Remove(context.Background(), st.ID); err != nil {
				t.Error(err)
			}
		}
		for _, l := range m.leaks() {
			t.Errorf("left behind: %s", l)
		}
	})
	return p
}

func (p *pod) container(name string, script ...string) runtime.Container {
	return runtime.Container{
		ID: p.uid + "-" + name, Pod: p.uid, Image: toolboxImage, Args: script, Sandbox: p.sandbox,
		LogPath: filepath.Join(p.logs, name+".log"),
	}
}

func (p *pod) start(c runtime.Container) runtime.Status {
	p.t.Helper()
	if err := p.m.runtime.Create(p.t.Context(), c); err != nil {
		p.t.Fatal(err)
	}
	st, err := p.m.runtime.Start(p.t.Context(), c.ID)
	if err != nil {
		p.t.Fatal(err)
	}
	return st
}

// exit waits for a container's end.
func (p *pod) exit(id string) runtime.Exit {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	events, err := p.m.runtime.Events(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	for {
		st, err := p.m.runtime.Status(ctx, id)
		if err != nil {
			p.t.Fatal(err)
		}
		if st.State == runtime.Exited {
			return st.Exit
		}
		if _, ok := <-events; !ok {
			p.t.Fatalf("%s has not ended", id)
		}
	}
}

func (p *pod) said(c runtime.Container) string {
	p.t.Helper()
	var b strings.Builder
	for l, err := range logfile.Read(p.t.Context(), c.LogPath, logfile.Query{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// run runs a container to its end and returns what it printed.
func (p *pod) run(c runtime.Container) string {
	p.t.Helper()
	p.start(c)
	if e := p.exit(c.ID); e.Code != 0 {
		p.t.Fatalf("%s ended with %+v: %s", c.ID, e, p.said(c))
	}
	return p.said(c)
}

func shims(m *machine) (pids []int) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		var pid int
		if b, err := os.ReadFile(c); err == nil && strings.HasPrefix(string(b), m.config.Shim) {
			fmt.Sscanf(c, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestPodShares: the containers of a pod share network, IPC and UTS
// namespaces and one shim, and outlive the one that came first.
func TestPodShares(t *testing.T) {
	p := newPod(t)
	spaces := []string{"link=/proc/self/ns/net", "link=/proc/self/ns/ipc", "link=/proc/self/ns/uts", "hostname", "env=HOSTNAME"}
	one, two := p.container("one", append(spaces, "forever")...), p.container("two", spaces...)
	p.start(one)
	other := p.run(two)
	if first := p.said(one); first != other || !strings.HasSuffix(other, p.uid+"\n"+p.uid+"\n") {
		t.Errorf("one has\n%s two has\n%s", first, other)
	}
	three := p.container("three", "forever")
	st := p.start(three)
	if n := len(shims(p.m)); n != 1 {
		t.Errorf("%d shims", n)
	}
	for _, id := range []string{one.ID, two.ID} {
		if err := p.m.runtime.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := p.m.runtime.Status(t.Context(), three.ID); err != nil || now.State != runtime.Running || now.PID != st.PID {
		t.Errorf("after the others: %+v %v", now, err)
	}
}

// TestContainerHasNoMoreThanItNeeds reads the process's own account.
func TestContainerHasNoMoreThanItNeeds(t *testing.T) {
	p := newPod(t)
	status := p.run(p.container("main", "file=/proc/self/status", "file=/proc/self/limits"))
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb"} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	for line := range strings.Lines(status) {
		var soft, hard int
		if n, _ := fmt.Sscanf(line, "Max open files %d %d", &soft, &hard); n == 2 && soft < 10_000 {
			t.Errorf("%s", line)
		}
	}
}

func TestFiles(t *testing.T) {
	p := newPod(t)
	dir := t.TempDir()
	for f, text := range map[string]string{"hosts": "10.1.2.3 web\n", "data": ""} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := p.container("main", "file=/etc/hosts", "file=/run/in-image", "write=/etc/hosts", "write=/data")
	c.Mounts = []runtime.Mount{
		{Source: filepath.Join(dir, "hosts"), Target: "/etc/hosts", ReadOnly: true},
		{Source: filepath.Join(dir, "data"), Target: "/data"},
	}
	want := "10.1.2.3 web\nfrom the image\nopen /etc/hosts: read-only file system\n"
	if got := p.run(c); got != want {
		t.Errorf("got %q", got)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "data")); string(b) != "x" {
		t.Errorf("wrote %q", b)
	}
}

func TestCommand(t *testing.T) {
	p := newPod(t)
	c := p.container("main", "print=args", "env=A", "env=PATH")
	c.Command = []string{"/toolbox", "print=command"}
	c.Env = []string{"A=b=c"}
	if got := p.run(c); got != "command\nargs\nb=c\n/usr/bin:/bin\n" {
		t.Errorf("got %q", got)
	}
}

// cgroupFile reads a file of a container's cgroup, of version 1 or 2.
func (p *pod) cgroupFile(c runtime.Container, controller, v1, v2 string) string {
	p.t.Helper()
	path := filepath.Join(p.m.config.Cgroup, c.Pod, c.ID)
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, path, v1))
	if errors.Is(err, os.ErrNotExist) {
		b, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", path, v2))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestLimits(t *testing.T) {
	p := newPod(t)
	c := p.container("main", "wait=100ms", "fork=64", "forever")
	c.CPU, c.CPULimit, c.MemoryLimit, c.PIDLimit = 500, 750, 64<<20, 16
	p.start(c)
	if got := p.cgroupFile(c, "memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory %s", got)
	}
	if got := p.cgroupFile(c, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != "75000" && got != "75000 100000" {
		t.Errorf("cpu quota %s", got)
	}
	if got := p.cgroupFile(c, "cpu", "cpu.shares", "cpu.weight"); got != "512" && got != "20" {
		t.Errorf("cpu share %s", got)
	}
	if got := p.cgroupFile(c, "pids", "pids.max", "pids.max"); got != "16" {
		t.Errorf("pids %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for l := range logfile.Read(ctx, c.LogPath, logfile.Query{Follow: true}) {
		if strings.Contains(l.Text, "resource temporarily unavailable") || strings.Contains(l.Text, "pthread_create") || strings.Contains(l.Text, "newosproc") {
			return
		}
	}
	t.Errorf("64 children fit into 16 processes: %s", p.said(c))
}

// TestFlood: many lines, across rotations, none of them torn, the last there at the end.
func TestFlood(t *testing.T) {
	p := newPod(t)
	const lines = 400_000 // ~ 20 MB with stamps
	c := p.container("main", fmt.Sprintf("flood=%d", lines))
	p.start(c)
	if e := p.exit(c.ID); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
	first, next := -1, 0
	for l, err := range logfile.Read(t.Context(), c.LogPath, logfile.Query{}) {
		var n int
		if _, bad := fmt.Sscanf(l.Text, "line %d", &n); err != nil || bad != nil || first >= 0 && n != next {
			t.Fatalf("after line %d: %+v %v %v", next-1, l, err, bad)
		}
		if first < 0 {
			first = n
		}
		next = n + 1
	}
	if next != lines {
		t.Errorf("ends with line %d", next-1)
	}
	if _, err := os.Stat(c.LogPath + ".1"); err != nil {
		t.Error("not rotated:", err)
	}
}

// TestRestartInPlace: containers of a pod come and go, each the first and last
// of its shim, and none meets the one before it on its way out.
func TestRestartInPlace(t *testing.T) {
	p := newPod(t)
	for i := range 8 {
		c := p.container(fmt.Sprintf("try-%d", i), "exit=1")
		c.LogPath = filepath.Join(p.logs, "same.log")
		p.start(c)
		if e := p.exit(c.ID); e.Code != 1 {
			t.Errorf("try %d: %+v", i, e)
		}
		if err := p.m.runtime.Remove(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// TestShimDies: its containers die with it and it is known.
func TestShimDies(t *testing.T) {
	p := newPod(t)
	c := p.container("main", "forever")
	p.start(c)
	for _, pid := range shims(p.m) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if e := p.exit(c.ID); e.Code != 137 || e.Unknown {
		t.Errorf("%+v", e)
	}
	again := p.container("again", "exit=0")
	p.run(again)
}

// TestPowerCut: everything stops at once and the daemon finds it so.
func TestPowerCut(t *testing.T) {
	p := newPod(t)
	c := p.container("main", "forever")
	st := p.start(c)
	created := p.container("created", "exit=0")
	if err := p.m.runtime.Create(t.Context(), created); err != nil {
		t.Fatal(err)
	}
	p.m.crash(t, p.m.runtime, func() {
		for _, pid := range append(shims(p.m), st.PID) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	})
	if e := p.exit(c.ID); e.Code != 137 && !e.Unknown {
		t.Errorf("%+v", e)
	}
	if st, err := p.m.runtime.Status(t.Context(), created.ID); err != nil || st.State != runtime.Created {
		t.Errorf("never started: %+v %v", st, err)
	}
	if st, err := p.m.runtime.Start(t.Context(), c.ID); err != nil || st.State != runtime.Exited {
		t.Errorf("started again: %+v %v", st, err)
	}
}

// TestReboot: what lives in memory is gone, and with it how things ended.
func TestReboot(t *testing.T) {
	p := newPod(t)
	c := p.container("main", "forever")
	st := p.start(c)
	ended := p.container("ended", "exit=3")
	p.start(ended)
	p.exit(ended.ID)
	p.m.crash(t, p.m.runtime, func() {
		for _, pid := range append(shims(p.m), st.PID) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
		for _, l := range p.m.look() {
			if dir, ok := strings.CutPrefix(l, "mount "); ok {
				if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.RemoveAll(p.m.daemon.RunDir); err != nil {
			t.Fatal(err)
		}
	})
	if e := p.exit(c.ID); !e.Unknown {
		t.Errorf("%+v", e)
	}
	if e := p.exit(ended.ID); e.Code != 3 || e.Unknown {
		t.Errorf("ended before: %+v", e)
	}
	if err := p.m.runtime.Remove(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	p.run(p.container("main", "exit=0"))
}

// TestCrashWithEndedSibling: a daemon that finds one container of a shim ended,
// as an init container is, lets the others be.
func TestCrashWithEndedSibling(t *testing.T) {
	p := newPod(t)
	first := p.container("init", "exit=0")
	p.run(first)
	c := p.container("main", "wait=1s", "print=still here", "forever")
	st := p.start(c)
	ends := p.container("ends", "wait=500ms", "exit=4")
	p.start(ends)
	p.m.crash(t, p.m.runtime, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for range logfile.Read(ctx, c.LogPath, logfile.Query{Follow: true}) {
			return
		}
	})
	if now, err := p.m.runtime.Status(t.Context(), c.ID); err != nil || now.State != runtime.Running || now.PID != st.PID {
		t.Errorf("was %d: %+v %v", st.PID, now, err)
	}
	if e := p.exit(first.ID); e.Code != 0 || e.Unknown {
		t.Errorf("init: %+v", e)
	}
	if e := p.exit(ends.ID); e.Code != 4 {
		t.Errorf("ended meanwhile: %+v", e)
	}
	p.run(p.container("late", "exit=0")) // the shim takes another
	if code, err := p.m.runtime.Exec(t.Context(), c.ID, []string{"/toolbox", "exit=5"}, false, runtime.ExecIO{}); err != nil || code != 5 {
		t.Errorf("exec: %d %v", code, err)
	}
	if err := p.m.runtime.Signal(t.Context(), c.ID, "SIGKILL"); err != nil {
		t.Error(err)
	}
	if e := p.exit(c.ID); e.Code != 137 {
		t.Errorf("main: %+v", e)
	}
}

// TestAgentDiesWhileStarting: a task that was made and never started is made anew.
func TestAgentDiesWhileStarting(t *testing.T) {
	p := newPod(t)
	c := p.container("main", "exit=3")
	if err := p.m.runtime.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	makeTask(t, p.m, c.ID)
	if st, err := p.m.runtime.Status(t.Context(), c.ID); err != nil || st.State != runtime.Created {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := p.m.runtime.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if e := p.exit(c.ID); e.Code != 3 {
		t.Errorf("%+v", e)
	}
}

func TestUserOfImage(t *testing.T) {
	p := newPod(t)
	for user, want := range map[string]string{"1000:1001": "Uid:\t1000\t1000\t1000\t1000", "nobody": ""} {
		ref := "user-" + user[:4] + ":1"
		archive, err := toolboxArchive(p.m.dir+"/toolbox", ref, func(c *v1.Config) { c.User = user })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.m.runtime.Import(t.Context(), bytes.NewReader(archive)); err != nil {
			t.Fatal(err)
		}
		c := p.container(user[:4], "file=/proc/self/status")
		c.Image = ref
		if want == "" {
			if err := p.m.runtime.Create(t.Context(), c); !errors.Is(err, runtime.ErrCannotStart) {
				t.Errorf("%s: %v", user, err)
			}
			continue
		}
		if got := p.run(c); !strings.Contains(got, want+"\n") {
			t.Errorf("%s: %s", user, got)
		}
	}
}

// TestPull takes an image from a registry, by tag and by digest.
func TestPull(t *testing.T) {
	p := newPod(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	image, err := toolbox(p.m.dir+"/toolbox", nil)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	repository := host + "/team/toolbox"
	push(t, server.URL+"/v2/team/toolbox", "9", image)
	got, err := p.m.runtime.Pull(t.Context(), runtime.Fetch{Reference: repository + ":9"})
	if err != nil || got.Reference != repository+":9" {
		t.Fatalf("%+v %v", got, err)
	}
	c := p.container("main", "print=pulled")
	c.Image = repository + "@" + got.Digest
	if said := p.run(c); said != "pulled\n" {
		t.Errorf("said %q", said)
	}
	_, err = p.m.runtime.Pull(t.Context(), runtime.Fetch{Reference: repository + ":none"})
	if !errors.Is(err, runtime.ErrUnavailable) || !strings.HasSuffix(err.Error(), "the registry has no such image") {
		t.Errorf("no tag: %v", err)
	}
}

// TestPrivateRegistry: an image is given to who has the credentials, and the
// registry's no is told from its silence. Progress is told on the way.
func TestPrivateRegistry(t *testing.T) {
	p := newPod(t)
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); r.Method == http.MethodGet || r.Method == http.MethodHead {
			if user != "shop" || password != "sesame" {
				w.Header().Set("WWW-Authenticate", `Basic realm="team"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
				return
			}
			time.Sleep(700 * time.Millisecond) // long enough for a tick
		}
		open.ServeHTTP(w, r)
	}))
	defer server.Close()
	image, err := toolbox(p.m.dir+"/toolbox", func(c *v1.Config) { c.Labels = map[string]string{"private": "yes"} }) // not on the node yet
	if err != nil {
		t.Fatal(err)
	}
	push(t, server.URL+"/v2/team/private", "1", image)
	f := runtime.Fetch{Reference: strings.TrimPrefix(server.URL, "http://") + "/team/private:1"}
	if _, err := p.m.runtime.Pull(t.Context(), f); !errors.Is(err, runtime.ErrRefused) {
		t.Errorf("as anybody: %v", err)
	}
	f.Credentials = runtime.Credentials{Username: "shop", Password: "guess"}
	if _, err := p.m.runtime.Resolve(t.Context(), f); !errors.Is(err, runtime.ErrRefused) {
		t.Errorf("with a wrong password: %v", err)
	}
	f.Credentials.Password = "sesame"
	told := int64(0)
	f.Progress = func(_, total int64) { told = total }
	got, err := p.m.runtime.Pull(t.Context(), f)
	if err != nil || told == 0 {
		t.Errorf("%v, %d bytes told", err, told)
	}
	if digest, err := p.m.runtime.Resolve(t.Context(), f); err != nil || digest != got.Digest {
		t.Errorf("%s is not %s (%v)", digest, got.Digest, err)
	}
}

// push puts an image of one layer into a registry.
func push(t *testing.T, repository, tag string, image v1.Image) {
	t.Helper()
	send := func(method, url, kind string, body io.Reader) {
		request, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", kind)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, url, response.Status)
		}
	}
	blob := func(digest v1.Hash, body io.Reader) {
		send("POST", repository+"/blobs/uploads/?digest="+digest.String(), "application/octet-stream", body)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	blob(digest, layer)
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	blob(manifest.Config.Digest, bytes.NewReader(config))
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	send("PUT", repository+"/manifests/"+tag, string(manifest.MediaType), bytes.NewReader(raw))
}
