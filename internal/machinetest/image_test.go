package machinetest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// testLateImage: a node that was off while an image was loaded by hand gets it
// from another node when a pod needs it there.
func testLateImage(t *testing.T, c *cluster) {
	path := filepath.Join(c.root, ".cache/images/nginx-2.0.tar")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs %s: run make images", path)
	}
	verdict := func(node string) api.Verdict {
		all := c.nodes(t)
		i := slices.IndexFunc(all, func(n *api.Node) bool { return n.Meta.Name == node })
		return all[i].Status.Health.Verdict
	}
	loaded := func() []string {
		images := get(t, c, api.Images)
		i := slices.IndexFunc(images, func(i *api.Image) bool { return i.Spec.Reference == "docker.io/library/nginx:2.0" })
		if i < 0 {
			return nil
		}
		return images[i].Spec.Nodes
	}
	c.must(t, "dev", "node", "stop", "3", "--name", c.name)
	eventually(t, 30*time.Second, "a node without power is dead", func() bool { return verdict("w3") == api.VerdictDead })
	c.must(t, "image", "load", path)
	if on := loaded(); !slices.Equal(on, []string{"w1", "w2"}) {
		t.Fatalf("the image is on %v", on)
	}
	c.must(t, "dev", "node", "start", "3", "--name", c.name)
	eventually(t, 30*time.Second, "with power it is ready", func() bool { return verdict("w3") == api.VerdictReady })
	m := c.terraform(t, `
resource "clusterd_app" "late" {
  name     = "late"
  image    = "nginx:2.0"
  per_node = true
  cpu      = "10m"
  memory   = "32Mi"
  ports    = { http = 80 }
  health   = { http = "/", interval = "500ms" }
}
`)
	m.apply(t)
	on := map[string]bool{}
	for _, p := range c.pods(t, "late") {
		on[p.Spec.Node] = on[p.Spec.Node] || p.Status.Ready
	}
	if len(on) != 3 || !on["w3"] {
		t.Errorf("ready pods are on %v, want on all three nodes", on)
	}
	if on := loaded(); !slices.Equal(on, []string{"w1", "w2", "w3"}) {
		t.Errorf("the image is on %v, want on all three nodes", on)
	}
	m.must(t, "destroy", "-auto-approve", "-no-color")
}
