package machinetest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// testLife: a pod's containers begin and end in their order, which each of them
// writes down as its turn comes; checks of every sort; one pod on every node.
func testLife(t *testing.T, c *cluster) {
	m := c.terraform(t, `
locals {
  shared = { "/shared" = { scratch = "16Mi" } }
}

resource "clusterd_app" "life" {
  name   = "life"
  image  = "nginx:1.0"
  cpu    = "10m"
  memory = "32Mi"
  ports  = { http = 80 }
  health = { tcp = true, interval = "300ms", live = { http = "/" }, start = { exec = ["test", "-s", "/shared/log"] } }
  mounts = local.shared
  update = { healthy_for = "0s" }
  stop   = { signal = "SIGTERM", pre_stop = ["bash", "-c", "echo pre_stop >> /shared/log; sleep 1"], grace_period = "15s" }
  command = ["bash", "-c", <<-EOT
    trap 'echo term >> /shared/log; cat /shared/log; exit 0' TERM
    echo main >> /shared/log
    nginx -g 'daemon off;' &
    while :; do wait; done
  EOT
  ]
  init = {
    a-first  = { cpu = "10m", memory = "32Mi", mounts = local.shared, command = ["bash", "-c", "sleep 1; echo a-first >> /shared/log"] }
    b-second = { cpu = "10m", memory = "32Mi", mounts = local.shared, command = ["bash", "-c", "echo b-second >> /shared/log"] }
  }
  sidecars = {
    beside = {
      image   = "nginx:1.0"
      cpu     = "10m"
      memory  = "32Mi"
      mounts  = local.shared
      health  = { exec = ["test", "-f", "/shared/ready"], interval = "1s", timeout = "10s" }
      command = ["bash", "-c", "echo beside >> /shared/log; sleep 1; touch /shared/ready; trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    }
  }
}

resource "clusterd_app" "every" {
  name     = "every"
  image    = "nginx:1.0"
  cpu      = "10m"
  memory   = "32Mi"
  per_node = true
  ports    = { http = 80 }
  health   = { http = "/", interval = "300ms" }
  update   = { healthy_for = "0s" }
}
`)
	m.apply(t)
	m.empty(t)
	on := map[string]bool{}
	for _, p := range c.pods(t, "every") {
		on[p.Spec.Node] = p.Status.Ready
	}
	if fmt.Sprint(on) != "map[w1:true w2:true w3:true]" {
		t.Errorf("pods of a per_node app are ready on %v", on)
	}

	p := c.pods(t, "life")[0]
	st := p.Status.Containers
	a, b, beside, main := st["a-first"], st["b-second"], st["beside"], st[api.MainContainer]
	if !p.Status.Ready || a.State != api.ContainerExited || b.State != api.ContainerExited || !beside.Ready || !main.Ready || p.Status.Restarts() > 0 {
		t.Errorf("the pod is not as it should be: %+v", p.Status)
	}
	if !main.StartedAt.After(beside.StartedAt.Add(time.Second)) {
		t.Errorf("main began at %s, before its sidecar of %s was ready", main.StartedAt, beside.StartedAt)
	}
	var out bytes.Buffer
	logs := c.command(t.Context(), "logs", "-f", "pod/"+p.Meta.Name)
	logs.Stdout, logs.Stderr = &out, &out
	if err := logs.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // it follows
	described := c.must(t, "describe", "pod", p.Meta.Name)
	m.must(t, "destroy", "-auto-approve", "-no-color")
	_ = logs.Wait() // how it ends is not what is asked here
	var said []string
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, "clusterd-health") {
			said = append(said, line)
		}
	}
	order := strings.Join(said, "")
	if want := "a-first b-second beside main pre_stop term"; !strings.HasSuffix(words(order), want) {
		t.Errorf("the order was\n%s\nwant %s; before the end the pod was\n%s", order, want, described)
	}
}
