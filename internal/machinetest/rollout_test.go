package machinetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// testUpdates: twenty updates one after another, of image and env, under load.
func testUpdates(t *testing.T, c *cluster) {
	const port = 30081
	fast := `update = { healthy_for = "1s", max_parallel = 3, surge = 3, min_available = 3 }
  env = { TURN = "%d" }`
	m := c.terraform(t, served("often", "nginx:1.0", 3, port, fmt.Sprintf(fast, 0)))
	m.apply(t)
	l, f := startLoadOf(8, c.at(t, port)...), c.watchFloor(t, "often")
	image := "nginx:1.0"
	start := time.Now()
	for turn := 1; turn <= 20; turn++ {
		if turn%2 == 0 { // every other time
			image = map[string]string{"nginx:1.0": "nginx:2.0", "nginx:2.0": "nginx:1.0"}[image]
		}
		m.write(t, served("often", image, 3, port, fmt.Sprintf(fast, turn)))
		m.apply(t)
	}
	took := time.Since(start)
	time.Sleep(time.Second) // stragglers of old connections
	l.mustBeClean(t, "20 rolling updates")
	if rate := float64(l.sent.Load()) / time.Since(l.began).Seconds(); rate < 100 {
		t.Errorf("the load was only %.0f requests a second", rate)
	}
	f.mustHold(t, 3)
	t.Logf("20 updates of 3 pods took %s", took.Round(time.Second))
	if n := len(f.seen); n < 20*3 {
		t.Errorf("there were %d pods in 20 updates of 3", n)
	}
	m.empty(t)
	m.must(t, "destroy", "-auto-approve", "-no-color")
}

// testCanary: one pod of the change beside all the old ones, until somebody
// decides: once for it, once against it.
func testCanary(t *testing.T, c *cluster) {
	const port = 30082
	more := `update = { healthy_for = "1s", canary = 1 }`
	m := c.terraform(t, served("canary", "nginx:1.0", 3, port, more))
	m.apply(t)
	l, f := startLoad(c.at(t, port)...), c.watchFloor(t, "canary")

	try := func(image string) {
		t.Helper()
		m.write(t, served("canary", image, 3, port, more))
		if out := m.apply(t); !strings.Contains(out, "canary holds") || !strings.Contains(words(out), "clusterd rollout promote app/canary") {
			t.Errorf("apply does not say that a canary holds, and how it goes on:\n%s", out)
		}
		if one, two := c.versions(t, port); one == 0 || two == 0 {
			t.Errorf("%d pages of 1.0 and %d of 2.0 while the canary holds: want both", one, two)
		}
	}
	only := func(image string) {
		t.Helper()
		var pods []*api.Pod
		eventually(t, 30*time.Second, "there are three pods", func() bool { // the last may still stop
			pods = c.pods(t, "canary")
			return len(pods) == 3
		})
		if slices.ContainsFunc(pods, func(p *api.Pod) bool { return declared(p) != image || !p.Status.Ready }) {
			t.Errorf("pods are not three of %s, ready:\n%s", image, c.try("get", "pods", "-o", "wide"))
		}
		if one, two := c.versions(t, port); (image == "nginx:1.0") != (two == 0) || (image == "nginx:2.0") != (one == 0) {
			t.Errorf("%d pages of 1.0 and %d of 2.0: want those of %s", one, two, image)
		}
	}

	try("nginx:2.0")
	c.must(t, "rollout", "promote", "app/canary")
	only("nginx:2.0")
	m.empty(t)

	try("nginx:1.0")
	c.must(t, "rollout", "abort", "app/canary")
	eventually(t, 30*time.Second, "what was healthy before is back", func() bool {
		return !slices.ContainsFunc(c.pods(t, "canary"), func(p *api.Pod) bool { return declared(p) != "nginx:2.0" })
	})
	only("nginx:2.0")
	if lines := m.changes(t); len(lines) != 1 || !strings.HasPrefix(lines[0], "~ image") {
		t.Errorf("after the abort the plan shows %q, want the image that was given up", lines)
	}
	m.write(t, served("canary", "nginx:2.0", 3, port, more))
	m.apply(t)
	m.empty(t)
	l.mustBeClean(t, "canary")
	f.mustHold(t, 2)
	m.must(t, "destroy", "-auto-approve", "-no-color")
}

// declared is the image of a pod as its app names it, without its digest.
func declared(p *api.Pod) string {
	image, _, _ := strings.Cut(p.Spec.Image, "@")
	return image
}

// testBadInTheMiddle: an image goes from its registry while ten replicas are
// updated to it. What was healthy comes back, and enough pods serve throughout.
func testBadInTheMiddle(t *testing.T, c *cluster) {
	const port, least = 30083, 8
	r := c.registry(t, "nginx-2.0.tar")
	more := fmt.Sprintf(`pull   = "%%s"
  update = { healthy_for = "1s", max_parallel = 2, min_available = %d }`, least)
	good := served("ten", "nginx:1.0", 10, port, fmt.Sprintf(more, "if_absent"))
	m := c.terraform(t, good)
	m.apply(t)
	bad := served("ten", r.image, 10, port, fmt.Sprintf(more, "always"))
	m.write(t, bad)
	before := m.changes(t)

	l, f := startLoad(c.at(t, port)...), c.watchFloor(t, "ten")
	middle := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(middle)
		for ctx.Err() == nil {
			ready := 0
			for _, p := range c.pods(t, "ten") {
				if declared(p) == r.image && p.Status.Ready {
					ready++
				}
			}
			if ready >= 3 {
				r.gone.Store(true)
				middle <- ready
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	start := time.Now()
	out, code := m.run(t, "apply", "-auto-approve", "-input=false", "-no-color")
	took := time.Since(start)
	cancel()
	t.Logf("%d of 10 pods were updated when the image went; apply ended after %s", <-middle, took.Round(time.Second))
	if code == 0 {
		t.Errorf("apply ended well:\n%s", out)
	}
	for _, want := range []string{"ten-", r.image, "no such image", "rolled back"} {
		if !strings.Contains(words(out), want) {
			t.Errorf("apply does not say %q:\n%s", want, out)
		}
	}
	eventually(t, time.Minute, "ten pods of what was healthy serve, and no other", func() bool {
		pods := c.pods(t, "ten")
		return len(pods) == 10 && !slices.ContainsFunc(pods, func(p *api.Pod) bool { return declared(p) != "nginx:1.0" || !p.Status.Ready })
	})
	time.Sleep(time.Second) // stragglers of old connections
	l.mustBeClean(t, "bad image in the middle of ten replicas")
	f.mustHold(t, least)
	if after := m.changes(t); !slices.Equal(after, before) {
		t.Errorf("the next plan shows %q, want the same as before: %q", after, before)
	}
	m.write(t, good) // the state is what the cluster has, so going back is nothing
	m.empty(t)
	m.must(t, "destroy", "-auto-approve", "-no-color")
}

// testDrain: the only pod of an app leaves its node once its replacement serves.
func testDrain(t *testing.T, c *cluster) {
	const port = 30084
	m := c.terraform(t, served("single", "nginx:1.0", 1, port, `update = { healthy_for = "1s" }`))
	m.apply(t)
	was := c.pods(t, "single")[0]
	l, f := startLoad(c.at(t, port)...), c.watchFloor(t, "single")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := c.command(ctx, "node", "drain", was.Spec.Node)
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("drain: %v\n%s", err, &out)
	}
	t.Logf("drained in %s, saying\n%s", time.Since(start).Round(100*time.Millisecond), &out)
	for _, want := range []string{was.Meta.Name, was.Spec.Node + " is drained"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the drain does not say %q:\n%s", want, &out)
		}
	}
	time.Sleep(time.Second) // stragglers of old connections
	l.mustBeClean(t, "drain of the only replica's node")
	f.mustHold(t, 1)
	pods := c.pods(t, "single")
	if len(pods) != 1 || pods[0].Spec.Node == was.Spec.Node || !pods[0].Status.Ready {
		t.Errorf("after the drain:\n%s", c.try("get", "pods", "-o", "wide"))
	}
	m.empty(t)

	c.must(t, "node", "undrain", was.Spec.Node)
	m.write(t, served("single", "nginx:1.0", 3, port, `update = { healthy_for = "1s" }
  placement = { one_per = "node" }`))
	m.apply(t)
	if !slices.ContainsFunc(c.pods(t, "single"), func(p *api.Pod) bool { return p.Spec.Node == was.Spec.Node }) {
		t.Errorf("the node takes no pods again:\n%s", c.try("get", "pods", "-o", "wide"))
	}
	m.must(t, "destroy", "-auto-approve", "-no-color")
}
