// Package machinetest runs the product as a user would: the built binaries,
// the real Terraform, a cluster of network namespaces with real containerd and
// nginx. It knows no package of ours but the vocabulary, the client where it
// asks more often than a command line can, and networktest where it breaks what
// is in a machine's kernel.
//
// It needs root, bin/ (make build) and the example images (make images), and
// skips with a printed reason without them.
package machinetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// cluster is a dev cluster under test, driven by its command line alone.
type cluster struct {
	name string
	root string // of the checkout
	bin  string // directory of the programs
	env  []string
}

// up starts a cluster of three nodes and removes it when the test ends.
func up(t *testing.T, name string) *cluster { t.Helper(); return upWith(t, name, 3, 1) }

func upWith(t *testing.T, name string, nodes, servers int) *cluster {
	t.Helper()
	return upFrom(t, "../../bin", name, nodes, servers)
}

// upFrom is upWith of the programs in a directory.
func upFrom(t *testing.T, bin, name string, nodes, servers int) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers and network namespaces")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if bin, err = filepath.Abs(bin); err != nil {
		t.Fatal(err)
	}
	for _, need := range []string{"clusterd", "nodeagent", "clusterd-shim", "terraform-provider-clusterd"} {
		if _, err := os.Stat(filepath.Join(bin, need)); err != nil {
			t.Skipf("needs %s in %s: run make build", need, bin)
		}
	}
	c := &cluster{name: name, root: root, bin: bin}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("status at the end:\n%s", c.try("dev", "status", "--name", name))
		}
		c.must(t, "dev", "down", "--name", name)
	})
	c.must(t, "dev", "up", "--name", name, "--nodes", fmt.Sprint(nodes), "--servers", fmt.Sprint(servers))
	c.meet(t)
	return c
}

// meet takes over how users reach the cluster, and with what token.
func (c *cluster) meet(t testing.TB) {
	t.Helper()
	c.env = nil
	for line := range strings.Lines(c.must(t, "dev", "env", "--name", c.name)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			c.env = append(c.env, strings.ReplaceAll(kv, `"`, ""))
		}
	}
	for i, kv := range c.env { // values may be quoted for the shell
		c.env[i] = strings.ReplaceAll(kv, "'", "")
	}
}

// variables are those of the environment that speak of the cluster.
func (c *cluster) variables() map[string]string {
	env := map[string]string{}
	for _, kv := range c.env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return env
}

func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "clusterd"), args...)
	cmd.Env = append(os.Environ(), c.env...)
	return cmd
}

func (c *cluster) try(args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := c.command(ctx, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s\n%v", out, err)
	}
	return string(out)
}

// must runs clusterd and returns what it printed.
func (c *cluster) must(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := c.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("clusterd %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String()
}

// get lists objects of a kind through the CLI.
func get[O api.Any](t testing.TB, c *cluster, k *api.Kind[O], args ...string) []O {
	t.Helper()
	var list api.List[O]
	out := c.must(t, append([]string{"get", k.Plural, "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("get %s: %v\n%s", k.Plural, err, out)
	}
	return list.Items
}

// pods returns the pods of an app that have not ended.
func (c *cluster) pods(t testing.TB, app string) []*api.Pod {
	t.Helper()
	return slices.DeleteFunc(get(t, c, api.Pods), func(p *api.Pod) bool { return p.Spec.App != app || p.Status.Phase.Ended() })
}

func (c *cluster) nodes(t testing.TB) []*api.Node { return get(t, c, api.Nodes) }

// number is how `clusterd dev` calls a node: by its number.
func number(node string) string { return regexp.MustCompile(`\d+$`).FindString(node) }

// eventually waits for a condition of a real cluster.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(start)
}

// module is a Terraform working directory.
type module struct {
	c   *cluster
	dir string
}

// terraform makes a module of HCL and initializes it.
func (c *cluster) terraform(t *testing.T, hcl string) *module {
	t.Helper()
	m := &module{c, t.TempDir()}
	m.write(t, hcl)
	m.must(t, "init", "-input=false", "-no-color")
	return m
}

const header = `terraform {
  required_providers {
    clusterd = { source = "clusterd/clusterd" }
  }
}
provider "clusterd" {}
`

func (m *module) write(t testing.TB, hcl string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "main.tf"), []byte(header+hcl), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs terraform and returns its output and exit code.
func (m *module) run(t testing.TB, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "terraform", args...)
	cmd.Dir = m.dir
	// The keys that Terraform makes for each start of a provider, five to a plan,
	// are half of what a run takes. The demo has them.
	cmd.Env = append(append(os.Environ(), m.c.env...), "TF_DISABLE_PLUGIN_TLS=1")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("terraform %s: %v", strings.Join(args, " "), err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (m *module) must(t testing.TB, args ...string) string {
	t.Helper()
	out, code := m.run(t, args...)
	if code != 0 {
		t.Fatalf("terraform %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (m *module) apply(t testing.TB) string {
	t.Helper()
	return m.must(t, "apply", "-auto-approve", "-input=false", "-no-color")
}

// empty requires that a plan has nothing to do.
func (m *module) empty(t testing.TB) {
	t.Helper()
	if out, code := m.run(t, "plan", "-detailed-exitcode", "-input=false", "-no-color"); code != 0 {
		t.Errorf("plan is not empty (exit code %d):\n%s", code, out)
	}
}

// changes requires that the plan updates in place, and returns its changed lines.
func (m *module) changes(t testing.TB) []string {
	t.Helper()
	out, code := m.run(t, "plan", "-detailed-exitcode", "-input=false", "-no-color")
	if code != 2 || !strings.Contains(out, "0 to add, 1 to change, 0 to destroy") {
		t.Fatalf("want one update in place, got exit code %d:\n%s", code, out)
	}
	var lines []string
	for line := range strings.Lines(out) {
		if l := strings.TrimSpace(line); strings.HasPrefix(l, "~ ") && !strings.HasPrefix(l, "~ resource") && l != "~ update in-place" || strings.HasPrefix(l, "+ ") || strings.HasPrefix(l, "- ") {
			lines = append(lines, l)
		}
	}
	return lines
}

// load asks a URL again and again, each time on a new connection, as
// strangers would.
type load struct {
	began        time.Time
	sent, failed atomic.Int64
	mu           sync.Mutex
	errs         []failure
	stop         context.CancelFunc
	done         sync.WaitGroup
}

type failure struct {
	at  time.Time
	url string
	err string
}

// startLoad sends about 100 requests a second, for at most five minutes.
func startLoad(urls ...string) *load { return startLoadOf(4, urls...) }

// startLoadOf has each of some strangers send 25 requests a second, one after
// another.
func startLoadOf(strangers int, urls ...string) *load {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	l := &load{stop: cancel, began: time.Now()}
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for i := range strangers {
		l.done.Go(func() {
			tick := time.NewTicker(40 * time.Millisecond)
			defer tick.Stop()
			for n := i; ctx.Err() == nil; n++ {
				l.ask(client, urls[n%len(urls)])
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	return l
}

func (l *load) ask(client *http.Client, url string) {
	start := time.Now()
	l.sent.Add(1)
	resp, err := client.Get(url)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		err = fmt.Errorf("status %s", resp.Status)
	}
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, failure{start, url, err.Error()})
}

// end stops the load and returns its failures.
func (l *load) end() []failure {
	l.stop()
	l.done.Wait()
	return l.errs
}

func (l *load) mustBeClean(t testing.TB, during string) {
	t.Helper()
	errs := l.end()
	took := time.Since(l.began).Seconds()
	t.Logf("%s: %d requests in %.0f s (%.0f/s), %d failed", during, l.sent.Load(), took, float64(l.sent.Load())/took, l.failed.Load())
	if len(errs) > 0 {
		t.Errorf("%s: %d of %d requests failed; the first:", during, len(errs), l.sent.Load())
		for _, e := range errs[:min(len(errs), 10)] {
			t.Logf("after %s: GET %s: %s", e.at.Sub(l.began).Round(time.Millisecond), e.url, e.err)
		}
	}
}

// fetch reads a page, on a connection of its own.
func fetch(t testing.TB, url string) string {
	t.Helper()
	resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", url, resp.Status, err)
	}
	return b.String()
}
