//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/testbuild"
)

// host is a machine made of a network namespace, with this test's control
// plane at the other end of its wire.
type host struct {
	*testing.T
	name   string // of the namespace
	dir    string
	run    string
	server string // host:port
	token  string
	client *client.Client
	agent  *exec.Cmd
}

// newHost plugs a host in, or skips the test where there can be none.
func newHost(t *testing.T) *host {
	if os.Geteuid() != 0 {
		t.Skip("a real node needs root: run as root, such as by sudo make test-machine")
	}
	for _, program := range []string{"runc", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("a real node needs %s: make deps", program)
		}
	}
	pid := os.Getpid()
	h := &host{T: t, name: fmt.Sprintf("na-%d", pid), dir: t.TempDir(), run: fmt.Sprintf("/run/na-%d", pid)}
	net := fmt.Sprintf("10.253.%d.%d", pid/64%256, pid%64*4)
	at := func(n int) string {
		last := net[strings.LastIndex(net, ".")+1:]
		base, _ := strconv.Atoi(last)
		return strings.TrimSuffix(net, last) + strconv.Itoa(base+n)
	}
	t.Cleanup(h.demolish)
	wire := fmt.Sprintf("na%d", pid)
	for _, args := range []string{
		"netns add " + h.name,
		"link add " + wire + " type veth peer name eth0 netns " + h.name,
		"addr add " + at(1) + "/30 dev " + wire,
		"link set " + wire + " up",
		"-n " + h.name + " addr add " + at(2) + "/30 dev eth0",
		"-n " + h.name + " link set eth0 up",
		"-n " + h.name + " link set lo up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	h.control(at(1))
	if err := testbuild.Programs(h.dir, "nodeagent/clusterd-shim"); err != nil {
		t.Fatal(err)
	}
	return h
}

// control starts the control plane.
func (h *host) control(ip string) {
	dir := filepath.Join(h.dir, "server")
	srv, err := server.Open(h.Context(), server.Config{Name: "s1", DataDir: dir, Listen: ip + ":0", Gossip: ip + ":0", Advertise: ip, InMemory: true})
	if err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	h.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.Error(err)
		}
	})
	h.server = srv.Addr()
	admin := ""
	h.await("the server is ready", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, server.AdminTokenFile))
		admin = strings.TrimSpace(string(b))
		return admin != ""
	})
	roots, err := pki.LoadRoots(filepath.Join(dir, server.CACertFile))
	if err != nil {
		h.Fatal(err)
	}
	if h.client, err = client.New(client.Config{Addresses: []string{"https://" + h.server}, Token: admin, TLS: roots}); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(h.client.Close)
	ca, err := os.ReadFile(filepath.Join(dir, server.CACertFile))
	if err != nil {
		h.Fatal(err)
	}
	pin, err := pki.PinOf(ca)
	if err != nil {
		h.Fatal(err)
	}
	token := pki.NewJoinToken(pin)
	h.token = token.Reveal()
	_, err = client.Of(h.client, api.Tokens).Create(h.Context(), &api.Token{Meta: api.Meta{Name: token.ID}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: token.Hash()}})
	if err != nil {
		h.Fatal(err)
	}
}

// start starts nodeagent: this test program, which is it when told so.
func (h *host) start() {
	h.Helper()
	h.agent = exec.Command("nsenter", "--net=/run/netns/"+h.name, os.Args[0], "run", "--name", "w1", "--server", h.server,
		"--data-dir", h.dir+"/data", "--run-dir", h.run, "--cgroup", "/"+h.name, "--shim", h.dir+"/clusterd-shim", "--labels", "zone=a")
	h.agent.Env = append(os.Environ(), "CLUSTERD_JOIN_TOKEN="+h.token)
	log, err := os.OpenFile(h.dir+"/nodeagent.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.Fatal(err)
	}
	defer log.Close()
	h.agent.Stdout, h.agent.Stderr = log, log
	if err := h.agent.Start(); err != nil {
		h.Fatal(err)
	}
}

// kill ends nodeagent without a word; its children die with it.
func (h *host) kill() {
	if h.agent != nil {
		_ = h.agent.Process.Kill()
		_ = h.agent.Wait()
		h.agent = nil
	}
}

// powerCut ends everything that runs on the host.
func (h *host) powerCut() {
	h.kill()
	for range 3 { // a shim may be busy replacing what was killed
		for _, pid := range h.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 1 && (strings.HasPrefix(f[1], h.run+"/") || strings.HasPrefix(f[1], h.dir+"/")) {
			_ = unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
	_ = os.RemoveAll(h.run)
}

// processes are those of the host: by its directories and by its cgroup.
func (h *host) processes() (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		cmd, _ := os.ReadFile(d + "/cmdline")
		cgroup, _ := os.ReadFile(d + "/cgroup")
		if pid != os.Getpid() && (strings.Contains(string(cmd), h.run+"/") || strings.Contains(string(cgroup), ":/"+h.name+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// measured asks for the node's numbers, as Prometheus does.
func (h *host) measured(want ...string) {
	h.Helper()
	resp, err := h.client.Do(h.Context(), client.Request{Method: http.MethodGet, Path: "/v1/nodes/w1/metrics"})
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	for _, w := range want {
		if err != nil || !strings.Contains(string(got), w) {
			h.Errorf("no %s in the node's numbers (%v):\n%s", w, err, got)
		}
	}
}

func (h *host) demolish() {
	if h.Failed() {
		log, _ := os.ReadFile(h.dir + "/nodeagent.log")
		h.Logf("nodeagent said:\n%s", log[max(0, len(log)-8000):])
	}
	h.powerCut()
	_ = exec.Command("ip", "netns", "del", h.name).Run()
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/" + h.name)
	for _, c := range append(cgroups, "/sys/fs/cgroup/"+h.name) {
		_ = exec.Command("find", c, "-depth", "-type", "d", "-delete").Run()
	}
}

func (h *host) await(what string, ok func() bool) {
	h.Helper()
	for start := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			h.Fatalf("not within 30s: %s", what)
		}
	}
}

func (h *host) pods() []*api.Pod {
	h.Helper()
	pods, _, err := client.Of(h.client, api.Pods).List(h.Context(), "default", nil)
	if err != nil {
		h.Fatal(err)
	}
	return pods
}

// ready awaits n pods that serve, and returns them.
func (h *host) ready(n, restarts int) []*api.Pod {
	h.Helper()
	var pods []*api.Pod
	h.await(fmt.Sprintf("%d pods serve, after %d restarts in all", n, restarts), func() bool {
		pods = h.pods()
		good, sum := 0, 0
		for _, p := range pods {
			sum += p.Status.Restarts()
			if p.Status.Ready {
				good++
			}
		}
		return good == n && sum == restarts
	})
	return pods
}

func (h *host) verdict(v api.Verdict) {
	h.Helper()
	h.await("the node is "+string(v), func() bool {
		n, err := client.Of(h.client, api.Nodes).Get(h.Context(), "", "w1")
		return err == nil && n.Status.Health.Verdict == v
	})
}

// TestNode is a day of a real node: it joins, runs nginx, loses its agent, a
// process and its power, and is left with nothing.
func TestNode(t *testing.T) {
	archive, err := os.ReadFile("../.cache/images/nginx-1.0.tar")
	if err != nil {
		t.Skipf("needs the example images: make images (%v)", err)
	}
	h := newHost(t)
	h.start()
	h.verdict(api.VerdictReady)
	h.await("the node says what it is", func() bool {
		node, err := client.Of(h.client, api.Nodes).Get(t.Context(), "", "w1")
		return err == nil && node.Meta.Labels["zone"] == "a" && node.Status.BootID != "" && node.Status.Capacity.Pods > 0
	})
	resp, err := h.client.Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/v1/images", Body: archive})
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(resp.Body) // progress, to the end
	resp.Body.Close()
	if err != nil || !strings.Contains(string(said), "on 1 of 1") {
		t.Fatalf("loading the image: %v: %s", err, said)
	}
	two := 2
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{
		Container: api.Container{Image: "nginx:1.0", Memory: "32Mi", Ports: map[string]api.Port{"http": "80"}, Health: &api.Health{HTTP: "/"}},
		Replicas:  &two,
	}}
	if _, err := client.Of(h.client, api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	before := h.ready(2, 0)
	h.measured(`clusterd_node_pods{phase="running"} 2`, "clusterd_node_containers_running 2", "clusterd_node_services_programmed_seconds_count", "clusterd_build_info")

	h.kill()
	h.start()
	h.verdict(api.VerdictReady)
	time.Sleep(2 * time.Second) // would-be restarts
	for i, p := range h.ready(2, 0) {
		if fmt.Sprint(p.Status) != fmt.Sprint(before[i].Status) {
			t.Errorf("after the agent's restart\n%+v\nbefore\n%+v", p.Status, before[i].Status)
		}
	}

	if err := syscall.Kill(before[0].Status.Containers[api.MainContainer].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.ready(2, 1)

	cut := time.Now()
	h.powerCut()
	h.start()
	h.await("two pods serve that began after the power cut", func() bool {
		pods := h.pods()
		return len(pods) == 2 && !slices.ContainsFunc(pods, func(p *api.Pod) bool {
			return !p.Status.Ready || p.Status.Containers[api.MainContainer].StartedAt.Before(cut)
		})
	})
	for i, p := range h.pods() {
		switch {
		case p.Meta.CreatedAt.After(cut):
			t.Logf("%s was replaced: the machine took longer to be back than a dead one is waited for", p.Meta.Name)
		case p.Meta.UID != before[i].Meta.UID || p.Status.IP != before[i].Status.IP || p.Status.Fatal != nil || p.Status.Containers[api.MainContainer].Restarts == 0:
			t.Errorf("after the reboot\n%+v\nbefore\n%+v", p.Status, before[i].Status)
		}
	}

	if err := client.Of(h.client, api.Apps).Delete(t.Context(), "default", "web", ""); err != nil {
		t.Fatal(err)
	}
	h.await("every pod is gone", func() bool { return len(h.pods()) == 0 })
	h.await("no container is left", func() bool {
		shims := 0
		for _, pid := range h.processes() {
			if cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(cmd), "clusterd-shim") {
				shims++
			}
		}
		pins, _ := filepath.Glob(h.run + "/network/sandboxes/*")
		return shims == 0 && len(pins) == 0
	})
}
