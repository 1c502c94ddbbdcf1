package machinetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// web is the workload most tests look at. Each %s is more attributes.
func web(image string, replicas int, more string) string {
	return fmt.Sprintf(`
resource "clusterd_app" "web" {
  name     = "web"
  image    = %q
  replicas = %d
  cpu      = "50m"
  memory   = "48Mi"
  ports    = { http = 80 }
  health   = { http = "/", interval = "500ms" }
  update   = { healthy_for = "1s" }
  %s
}

resource "clusterd_service" "web" {
  name  = "web"
  app   = clusterd_app.web.name
  ports = { http = { port = 80, node_port = 30080 } }
}
`, image, replicas, more)
}

// TestMachine walks one cluster through the life of a workload. The steps
// build on each other, so that the suite stays fast.
func TestMachine(t *testing.T) {
	t.Parallel()
	c := up(t, "machine")
	for _, image := range []string{"nginx-1.0.tar", "nginx-2.0.tar"} {
		path := filepath.Join(c.root, ".cache/images", image)
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs %s: run make images", path)
		}
		c.must(t, "image", "load", path)
	}
	m := c.terraform(t, web("nginx:1.0", 3, ""))

	step := func(name string, f func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, f)
		}
	}
	step("apply", func(t *testing.T) { testApply(t, c, m) })
	step("rolling update", func(t *testing.T) { testRollingUpdate(t, c, m) })
	step("failed update", func(t *testing.T) { testFailedUpdate(t, c, m) })
	step("failed create", func(t *testing.T) { testFailedCreate(t, c) })
	step("process killed", func(t *testing.T) { testProcessKilled(t, c) })
	step("keys", func(t *testing.T) { testKeys(t, c) })
	step("agent killed", func(t *testing.T) { testAgentKilled(t, c) })
	step("server killed", func(t *testing.T) { testServerKilled(t, c) })
	step("sidecar", func(t *testing.T) { testSidecar(t, c) })
	step("strangers", func(t *testing.T) { testStrangers(t, c) })
	step("node dies", func(t *testing.T) { testNodeDies(t, c) })
	step("destroy", func(t *testing.T) {
		m.must(t, "destroy", "-auto-approve", "-no-color")
		if left := c.pods(t, "web"); len(left) > 0 {
			t.Errorf("%d pods are left after destroy", len(left))
		}
	})
}

func (c *cluster) nodePorts(t testing.TB) (urls []string) {
	for _, n := range c.nodes(t) {
		urls = append(urls, "http://"+n.Status.Address+":30080/")
	}
	return urls
}

func testApply(t *testing.T, c *cluster, m *module) {
	m.apply(t)
	m.empty(t)
	pods := c.pods(t, "web")
	on := map[string]bool{}
	for _, p := range pods {
		on[p.Spec.Node] = true
		if !p.Status.Ready || p.Status.Phase != api.PhaseRunning {
			t.Errorf("pod %s is %s, ready %v", p.Meta.Name, p.Status.Phase, p.Status.Ready)
		}
	}
	if len(pods) != 3 || len(on) != 3 {
		t.Errorf("%d pods on %d nodes, want 3 on 3", len(pods), len(on))
	}
	for _, url := range c.nodePorts(t) {
		answered := map[string]bool{}
		for range 60 {
			answered[fetch(t, url)] = true
		}
		if len(answered) != 3 {
			t.Errorf("%s: %d different pages of 3 replicas", url, len(answered))
		}
	}
}

func testRollingUpdate(t *testing.T, c *cluster, m *module) {
	for _, change := range []struct{ hcl, line string }{
		{web("nginx:1.0", 4, ""), "~ replicas"},
		{web("nginx:2.0", 4, ""), "~ image"},
		{web("nginx:2.0", 4, `env = { GREETING = "hello" }`), "+ env"},
		{web("nginx:2.0", 3, `env = { GREETING = "hello" }`), "~ replicas"},
	} {
		m.write(t, change.hcl)
		lines := m.changes(t)
		if len(lines) == 0 || !strings.HasPrefix(lines[0], change.line) {
			t.Errorf("plan shows %q, want just %q", lines, change.line)
		}
		l := startLoad(c.nodePorts(t)...)
		m.apply(t)
		time.Sleep(time.Second) // stragglers of old connections
		l.mustBeClean(t, change.line)
		m.empty(t)
	}
	if page := fetch(t, c.nodePorts(t)[0]); !strings.Contains(page, "2.0") {
		t.Errorf("the page is not that of nginx:2.0:\n%s", page)
	}
}

const settled = `env = { GREETING = "hello" }`

func testFailedUpdate(t *testing.T, c *cluster, m *module) {
	good := web("nginx:2.0", 3, settled)
	for name, bad := range map[string]struct {
		hcl  string
		want []string
	}{
		"exits":           {web("nginx:2.0", 3, settled+"\n  command = [\"bash\", \"-c\", \"echo boom on purpose; exit 7\"]"), []string{"exit", "7", "boom on purpose"}},
		"no such image":   {web("nginx:nope", 3, settled), []string{"nginx:nope"}},
		"no such program": {web("nginx:2.0", 3, settled+"\n  command = [\"/nonexistent\"]"), []string{"/nonexistent"}},
	} {
		t.Run(name, func(t *testing.T) {
			m.write(t, bad.hcl)
			before := m.changes(t)
			l := startLoad(c.nodePorts(t)...)
			start := time.Now()
			out, code := m.run(t, "apply", "-auto-approve", "-input=false", "-no-color")
			took := time.Since(start)
			l.mustBeClean(t, name)
			if code == 0 || took > 40*time.Second {
				t.Errorf("apply ended with %d after %s:\n%s", code, took, out)
			}
			onANode := slices.ContainsFunc(c.nodes(t), func(n *api.Node) bool { return strings.Contains(out, n.Meta.Name) })
			for _, want := range append(bad.want, "web-", "rolled back") {
				if !strings.Contains(out, want) || !onANode {
					t.Errorf("the error does not say %q, or the node:\n%s", want, out)
				}
			}
			described := c.must(t, "describe", "app", "web")
			for _, want := range bad.want {
				if !strings.Contains(described, want) {
					t.Errorf("describe does not say %q:\n%s", want, described)
				}
			}
			if after := m.changes(t); !slices.Equal(after, before) {
				t.Errorf("the next plan shows %q, want the same as before: %q", after, before)
			}
			m.write(t, good)
			m.apply(t)
			m.empty(t)
		})
	}
}

func testFailedCreate(t *testing.T, c *cluster) {
	m := c.terraform(t, `
resource "clusterd_app" "broken" {
  name    = "broken"
  image   = "nginx:1.0"
  command = ["bash", "-c", "echo cannot go on; exit 3"]
  memory  = "32Mi"
}
`)
	out, code := m.run(t, "apply", "-auto-approve", "-input=false", "-no-color")
	if code == 0 || !strings.Contains(out, "cannot go on") {
		t.Fatalf("apply ended with %d:\n%s", code, out)
	}
	if logs := c.must(t, "logs", "app/broken"); !strings.Contains(logs, "cannot go on") {
		t.Errorf("the logs are gone: %q", logs)
	}
	if out, code := m.run(t, "plan", "-detailed-exitcode", "-no-color"); code != 2 || !strings.Contains(out, "must be replaced") {
		t.Errorf("the next plan (exit code %d) shows no replacement:\n%s", code, out)
	}
	m.must(t, "destroy", "-auto-approve", "-no-color")
}

func testProcessKilled(t *testing.T, c *cluster) {
	p := c.pods(t, "web")[0]
	main := p.Status.Containers[api.MainContainer]
	if err := syscall.Kill(main.PID, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", main.PID, err)
	}
	eventually(t, 20*time.Second, "the container runs again and is ready", func() bool {
		i := slices.IndexFunc(c.pods(t, "web"), func(q *api.Pod) bool { return q.Meta.UID == p.Meta.UID })
		if i < 0 {
			return false
		}
		now := c.pods(t, "web")[i]
		again := now.Status.Containers[api.MainContainer]
		return now.Status.Ready && again.Restarts > main.Restarts && again.PID != main.PID && again.Last != nil && again.Last.Code == 137
	})
}

// pids maps each ready pod to the process of its main container, and its restarts.
func (c *cluster) pids(t testing.TB, app string) map[string][2]int {
	out := map[string][2]int{}
	for _, p := range c.pods(t, app) {
		m := p.Status.Containers[api.MainContainer]
		out[p.Meta.Name] = [2]int{m.PID, m.Restarts}
	}
	return out
}

// processes finds those whose command line has all the words.
func processes(t testing.TB, words ...string) (pids []int) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/cmdline")
		line := strings.ReplaceAll(string(b), "\x00", " ")
		if err != nil || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func testAgentKilled(t *testing.T, c *cluster) {
	before := c.pids(t, "web")
	l := startLoad(c.nodePorts(t)...)
	killed := processes(t, "nodeagent run ", "/"+c.name+"/")
	if len(killed) != 3 {
		t.Fatalf("found %d nodeagents, want 3", len(killed))
	}
	for _, pid := range killed {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second)
	c.must(t, "dev", "up", "--name", c.name, "--nodes", "3")
	eventually(t, 30*time.Second, "all nodes are ready", func() bool {
		return !slices.ContainsFunc(c.nodes(t), func(n *api.Node) bool { return n.Status.Health.Verdict != api.VerdictReady })
	})
	l.mustBeClean(t, "agents killed")
	time.Sleep(2 * time.Second) // would-be restarts
	if after := c.pids(t, "web"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("processes and restarts are %v, were %v", after, before)
	}
}

func testServerKilled(t *testing.T, c *cluster) {
	// A prober inside the cluster asks by name, through DNS and the virtual IP.
	m := c.terraform(t, `
resource "clusterd_app" "prober" {
  name    = "prober"
  image   = "nginx:1.0"
  memory  = "32Mi"
  command = ["bash", "-c", <<-EOT
    while :; do
      line=none
      if exec 3<>/dev/tcp/web.default.svc.cluster.local/80; then
        printf 'GET / HTTP/1.0\r\nHost: web\r\n\r\n' >&3
        read -r -t 2 line <&3
        exec 3>&-
      fi
      echo "asked $line"
      sleep 0.2
    done
  EOT
  ]
}
`)
	m.apply(t)

	urls := c.nodePorts(t)
	var acked atomic.Int64
	ended := make(chan struct{})
	go func() { // a burst of acknowledged writes, up to the kill
		defer close(ended)
		for {
			n := acked.Load()
			if c.put(fmt.Sprintf("/v1/namespaces/burst-%d", n), fmt.Sprintf(`{"kind":"Namespace","meta":{"name":"burst-%d"},"spec":{}}`, n)) != nil {
				return
			}
			acked.Add(1)
		}
	}()
	eventually(t, time.Minute, "a burst of writes is under way", func() bool { return acked.Load() > 50 })
	c.must(t, "dev", "server", "stop", "1", "--name", c.name)
	<-ended
	n := acked.Load()
	l := startLoad(urls...)
	time.Sleep(6 * time.Second)
	l.mustBeClean(t, "no control plane")
	c.must(t, "dev", "server", "start", "1", "--name", c.name)
	eventually(t, 30*time.Second, "the API answers", func() bool {
		return !strings.Contains(c.try("get", "namespaces"), "exit status")
	})
	have := map[string]bool{}
	for _, ns := range get(t, c, api.Namespaces) {
		have[ns.Meta.Name] = true
	}
	for i := range n {
		if !have[fmt.Sprintf("burst-%d", i)] {
			t.Errorf("acknowledged write %d of %d is lost", i, n)
		}
	}
	t.Logf("%d acknowledged writes survived kill -9", n)
	var logs string
	eventually(t, 30*time.Second, "the prober's log can be read", func() bool {
		logs = c.try("logs", "app/prober", "--since", "20s")
		return strings.Count(logs, "200 OK") > 30
	})
	for line := range strings.Lines(logs) {
		if strings.Contains(line, "asked") && !strings.Contains(line, "200 OK") {
			t.Errorf("the prober saw: %s", line)
		}
	}
	m.must(t, "destroy", "-auto-approve", "-no-color")
}

func (c *cluster) put(path, body string) error {
	env := c.variables()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "curl", "-sS", "--fail", "--cacert", env["CLUSTERD_CACERT"], "-X", "PUT",
		"-H", "Authorization: Bearer "+env["CLUSTERD_TOKEN"], "-H", "Content-Type: application/json", "-d", body, env["CLUSTERD_ADDR"]+path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func testSidecar(t *testing.T, c *cluster) {
	ask := func(port int, name string) string {
		return fmt.Sprintf(`["bash", "-c", "while :; do if exec 3<>/dev/tcp/127.0.0.1/%d; then echo %s reached the other; exec 3>&-; fi; sleep 0.5; done & nginx -g 'daemon off;' -c /etc/nginx/nginx.conf"]`, port, name)
	}
	m := c.terraform(t, `
resource "clusterd_app" "pair" {
  name    = "pair"
  image   = "nginx:1.0"
  memory  = "32Mi"
  ports   = { http = 80 }
  command = `+ask(8081, "main")+`
  sidecars = {
    beside = {
      image   = "nginx:1.0"
      memory  = "32Mi"
      ports   = { side = 8081 }
      command = ["bash", "-c", "sed 's/listen[^;]*80[^;]*;/listen 8081;/' /etc/nginx/nginx.conf > /tmp/side.conf; while :; do if exec 3<>/dev/tcp/127.0.0.1/80; then echo side reached the other; exec 3>&-; fi; sleep 0.5; done & nginx -g 'daemon off;' -c /tmp/side.conf"]
    }
  }
}
`)
	m.apply(t)
	pod := "pod/" + c.pods(t, "pair")[0].Meta.Name
	eventually(t, 15*time.Second, "both containers reach each other on localhost", func() bool {
		return strings.Contains(c.try("logs", pod), "main reached the other") &&
			strings.Contains(c.try("logs", pod, "-c", "beside"), "side reached the other")
	})
	m.must(t, "destroy", "-auto-approve", "-no-color")
}

func testStrangers(t *testing.T, c *cluster) {
	env := c.variables()
	status := func(args ...string) string {
		out, _ := exec.Command("curl", append([]string{"-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "--cacert", env["CLUSTERD_CACERT"]}, args...)...).Output()
		return string(out)
	}
	url := env["CLUSTERD_ADDR"] + "/v1/pods"
	for name, args := range map[string][]string{
		"no token":    {url},
		"wrong token": {"-H", "Authorization: Bearer ct_admin_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", url},
	} {
		if got := status(args...); got != "401" {
			t.Errorf("%s: status %s, want 401", name, got)
		}
	}
	if got := status(strings.Replace(url, "https://", "http://", 1)); got == "200" {
		t.Errorf("without TLS: status %s", got)
	}

	server := strings.TrimPrefix(env["CLUSTERD_ADDR"], "https://")
	good := lastWord(c.must(t, "token", "create", "--role", "node", "--ttl", "1h"))
	short := lastWord(c.must(t, "token", "create", "--role", "node", "--ttl", "1s"))
	parts := strings.Split(good, ".")
	if len(parts) != 4 {
		t.Fatalf("join token %q has %d parts", good, len(parts))
	}
	time.Sleep(1500 * time.Millisecond)
	for name, j := range map[string]struct{ token, want string }{
		"wrong CA pin": {strings.Join([]string{parts[0], strings.Repeat("0", len(parts[1])), parts[2], parts[3]}, "."), "pin"},
		"bad secret":   {strings.Join([]string{parts[0], parts[1], parts[2], strings.Repeat("a", len(parts[3]))}, "."), "token"},
		"expired":      {short, "expired"},
		"not a token":  {"hello", "token"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		dir := t.TempDir()
		out, err := exec.CommandContext(ctx, filepath.Join(c.root, "bin/nodeagent"), "run", "--server", server, "--token", j.token,
			"--name", "stranger", "--address", "127.0.0.1", "--data-dir", dir+"/data", "--run-dir", dir+"/run").CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), j.want) {
			t.Errorf("%s: nodeagent ended with %v, saying\n%s", name, err, out)
		}
	}
	if slices.ContainsFunc(c.nodes(t), func(n *api.Node) bool { return n.Meta.Name == "stranger" }) {
		t.Error("a stranger joined")
	}
}

func lastWord(s string) string {
	f := strings.Fields(s)
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}

func testNodeDies(t *testing.T, c *cluster) {
	victim := c.pods(t, "web")[0].Spec.Node
	var urls []string
	for _, n := range c.nodes(t) {
		if n.Meta.Name != victim {
			urls = append(urls, "http://"+n.Status.Address+":30080/")
		}
	}
	l := startLoad(urls...)
	stopped := time.Now()
	c.must(t, "dev", "node", "stop", number(victim), "--name", c.name)
	verdict := func() api.NodeHealth {
		for _, n := range c.nodes(t) {
			if n.Meta.Name == victim {
				return n.Status.Health
			}
		}
		return api.NodeHealth{}
	}
	eventually(t, 15*time.Second, "the node's verdict is dead", func() bool { return verdict().Verdict == api.VerdictDead })
	judged := time.Now()
	eventually(t, 15*time.Second, "three replicas are ready on other nodes", func() bool {
		ready := 0
		for _, p := range c.pods(t, "web") {
			if p.Status.Ready && p.Spec.Node != victim {
				ready++
			}
		}
		return ready == 3
	})
	healed := time.Since(stopped)
	t.Logf("dead after %s, healed after %s", judged.Sub(stopped), healed)
	if healed > 10*time.Second {
		t.Errorf("healed %s after the power cut, want within 10s", healed)
	}
	time.Sleep(3 * time.Second)
	late := slices.DeleteFunc(l.end(), func(f failure) bool { return f.at.Before(judged.Add(time.Second)) })
	t.Logf("%d requests, %d failed, %d of them later than a second after the verdict", l.sent.Load(), l.failed.Load(), len(late))
	if len(late) > 0 {
		t.Errorf("a second after the verdict requests still fail: %+v", late[0])
	}

	c.must(t, "dev", "node", "start", number(victim), "--name", c.name)
	eventually(t, 45*time.Second, "the node is ready again", func() bool { return verdict().Verdict == api.VerdictReady })
	known := map[string]bool{}
	for _, p := range get(t, c, api.Pods) {
		known[p.Meta.UID] = true
	}
	eventually(t, 20*time.Second, "no stale pod runs on it", func() bool {
		for _, pid := range processes(t, "nginx: master") {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if strings.Contains(string(b), "/"+c.name+"/"+victim+"/") && !slices.ContainsFunc(get(t, c, api.Pods), func(p *api.Pod) bool {
				return strings.Contains(string(b), p.Meta.UID)
			}) {
				return false
			}
		}
		return true
	})
}
