package machinetest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestWorkloads runs in one cluster, side by side, what a team does with its
// workloads: what they come to, well or badly. Each lane has apps of its own.
// A drain concerns them all, so it comes last.
func TestWorkloads(t *testing.T) {
	c := up(t, "work")
	for _, image := range []string{"nginx-1.0.tar", "nginx-2.0.tar"} {
		path := filepath.Join(c.root, ".cache/images", image)
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs %s: run make images", path)
		}
		c.must(t, "image", "load", path)
	}
	t.Run("side by side", func(t *testing.T) {
		for name, lane := range map[string]func(*testing.T, *cluster){
			"updates": testUpdates,
			"canary":  testCanary,
			"causes":  testCauses,
			"life":    testLife,
			"hostile": testHostile,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lane(t, c)
			})
		}
	})
	t.Run("bad image in the middle", func(t *testing.T) { testBadInTheMiddle(t, c) })
	t.Run("drain", func(t *testing.T) { testDrain(t, c) })
}

// served is an app whose pods are small, and a service at a port of every node.
// more is more attributes of the app.
func served(name, image string, replicas, port int, more string) string {
	return fmt.Sprintf(`
resource "clusterd_app" %[1]q {
  name     = %[1]q
  image    = %[2]q
  replicas = %[3]d
  cpu      = "10m"
  memory   = "32Mi"
  ports    = { http = 80 }
  health   = { http = "/", interval = "500ms" }
  %[5]s
}

resource "clusterd_service" %[1]q {
  name  = %[1]q
  app   = clusterd_app.%[1]s.name
  ports = { http = { port = 80, node_port = %[4]d } }
}
`, name, image, replicas, port, more)
}

// words undoes how Terraform breaks lines.
func words(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "│", "")), " ")
}

// at lists the URLs of a port of every node.
func (c *cluster) at(t testing.TB, port int) (urls []string) {
	t.Helper()
	for _, n := range c.nodes(t) {
		urls = append(urls, fmt.Sprintf("http://%s:%d/", n.Status.Address, port))
	}
	return urls
}

// versions asks a port of every node for its page a few times, and counts those
// of nginx:1.0 and of nginx:2.0.
func (c *cluster) versions(t testing.TB, port int) (one, two int) {
	t.Helper()
	for _, url := range c.at(t, port) {
		for range 20 {
			switch page := fetch(t, url); {
			case strings.Contains(page, "<h1>nginx 1.0</h1>"):
				one++
			case strings.Contains(page, "<h1>nginx 2.0</h1>"):
				two++
			default:
				t.Fatalf("%s is no page of ours:\n%s", url, page)
			}
		}
	}
	return one, two
}

// floor watches the pods of an app, and knows the fewest that served at any of
// their changes: ready, and not asked to stop.
type floor struct {
	mu      sync.Mutex
	serving map[string]bool
	seen    map[string]bool // every pod there was
	least   int
	changes int
	stop    func()
}

// watchFloor begins with the pods there are.
func (c *cluster) watchFloor(t *testing.T, app string) *floor {
	t.Helper()
	f := &floor{serving: map[string]bool{}, seen: map[string]bool{}}
	for _, p := range c.pods(t, app) {
		f.note(p, false)
	}
	f.least, f.changes = len(f.serving), 0
	ctx, cancel := context.WithCancel(t.Context())
	cmd := c.command(ctx, "get", "pods", "-w", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for d := json.NewDecoder(bufio.NewReader(out)); ; {
			var ev struct {
				Type   api.EventType
				Object api.Pod
			}
			if d.Decode(&ev) != nil {
				return
			}
			if ev.Object.Spec.App == app {
				f.note(&ev.Object, ev.Type == api.EventDelete)
			}
		}
	}()
	f.stop = func() {
		cancel()
		<-done
		_ = cmd.Wait() // it was killed
	}
	return f
}

func (f *floor) note(p *api.Pod, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[p.Meta.Name] = true
	if p.Status.Ready && !p.Meta.Deleting() && !gone {
		f.serving[p.Meta.Name] = true
	} else {
		delete(f.serving, p.Meta.Name)
	}
	f.changes++
	f.least = min(f.least, len(f.serving))
}

// mustHold ends the watch and requires that there always were so many.
func (f *floor) mustHold(t *testing.T, least int) {
	t.Helper()
	f.stop()
	t.Logf("never fewer than %d pods served, at %d changes of %d pods", f.least, f.changes, len(f.seen))
	if f.least < least || f.changes == 0 {
		t.Errorf("at some time only %d pods served, want always %d (%d changes seen)", f.least, least, f.changes)
	}
}
