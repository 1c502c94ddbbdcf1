package machinetest

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// testHostile: a container plants symbolic links wherever it can write, fills
// its scratch space, answers a copy with an archive that wants out, and does
// not end when asked. Nothing of it reaches the node, and it stops in time.
func testHostile(t *testing.T, c *cluster) {
	allowed, mark := t.TempDir(), "clusterd-was-here"
	hcl := `
resource "clusterd_namespace" "risky" {
  name   = "risky"
  powers = { host_paths = [` + fmt.Sprintf("%q", allowed) + `] }
}

resource "clusterd_volume" "loot" {
  name                = "loot"
  namespace           = clusterd_namespace.risky.name
  size                = "16Mi"
  deletion_protection = false
}

resource "clusterd_app" "evil" {
  name      = "evil"
  namespace = clusterd_namespace.risky.name
  image     = "nginx:1.0"
  cpu       = "10m"
  memory    = "64Mi"
  update    = { healthy_for = "0s" }
  stop      = { grace_period = "2s" }
  mounts = {
    "/host" = { host = ` + fmt.Sprintf("%q", allowed) + ` }
    "/loot" = { volume = clusterd_volume.loot.name }
    "/full" = { scratch = "16Mi" }
  }
  command = ["bash", "-c", <<-EOT
    trap '' TERM QUIT INT
    ln -s / /host/out; ln -s /etc /loot/out; ln -s /etc /full/out; ln -s /etc /out
    for d in /loot /full / /host/out; do echo mine > $d/out/` + mark + `; echo mine > $d/` + mark + `; done
    dd if=/dev/zero of=/full/much bs=65536; echo x > /full/more; df /full
    while :; do sleep 1; done
  EOT
  ]
}
`
	m := c.terraform(t, hcl)
	m.apply(t)
	var p *api.Pod
	for _, q := range get(t, c, api.Pods, "-n", "risky") {
		p = q
	}
	pod := "pod/" + p.Meta.Name
	eventually(t, 20*time.Second, "its scratch space is full", func() bool {
		return strings.Contains(c.try("logs", pod, "-n", "risky"), "No space left on device")
	})
	for _, dir := range []string{"/etc", "/"} {
		if _, err := os.Lstat(filepath.Join(dir, mark)); err == nil {
			t.Errorf("a link led the container out: there is %s", filepath.Join(dir, mark))
			os.Remove(filepath.Join(dir, mark))
		}
	}
	if link, err := os.Readlink(filepath.Join(allowed, "out")); err != nil || link != "/" {
		t.Fatalf("the link was not planted: %q %v", link, err)
	}

	// A link in a directory that is allowed does not allow what it leads to.
	through := c.terraform(t, `
resource "clusterd_app" "through" {
  name      = "through"
  namespace = "risky"
  image     = "nginx:1.0"
  cpu       = "10m"
  memory    = "32Mi"
  update    = { deadline = "3s", healthy_for = "0s" }
  mounts    = { "/node" = { host = `+fmt.Sprintf("%q", allowed+"/out/etc")+`, read_only = true } }
}
`)
	out, code := through.run(t, "apply", "-auto-approve", "-input=false", "-no-color")
	if code == 0 || !strings.Contains(words(out), "symbolic link") {
		t.Errorf("apply of a mount through the link ended with %d:\n%s", code, out)
	}
	through.must(t, "destroy", "-auto-approve", "-no-color")

	// Whatever its tar sends, nothing is written beside what was asked for.
	outside, here := t.TempDir(), t.TempDir()
	archive := filepath.Join(t.TempDir(), "evil.tar")
	writeTar(t, archive,
		tar.Header{Name: "bag", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "bag/link", Typeflag: tar.TypeSymlink, Linkname: outside},
		tar.Header{Name: "bag/link/" + mark, Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "../" + mark, Typeflag: tar.TypeReg, Mode: 0o644})
	c.must(t, "cp", archive, pod+":/evil.tar", "-n", "risky")
	c.must(t, "exec", pod, "-n", "risky", "--", "bash", "-c", `rm /usr/bin/tar; printf '#!/bin/bash\ncat /evil.tar\n' > /usr/bin/tar; chmod 755 /usr/bin/tar`)
	if said := c.try("cp", pod+":/bag", here, "-n", "risky"); !strings.Contains(said, "exit status") {
		t.Errorf("the copy went well: %s", said)
	}
	for _, dir := range []string{outside, filepath.Dir(here)} {
		if _, err := os.Lstat(filepath.Join(dir, mark)); err == nil {
			t.Errorf("the copy wrote to %s", dir)
		}
	}

	if ill := slices.ContainsFunc(c.nodes(t), func(n *api.Node) bool { return n.Status.Health.Verdict != api.VerdictReady }); ill {
		t.Errorf("a node suffers:\n%s", c.try("get", "nodes"))
	}
	start := time.Now()
	m.must(t, "destroy", "-auto-approve", "-no-color")
	took := time.Since(start)
	t.Logf("all of it went away in %s", took.Round(100*time.Millisecond))
	if took > 45*time.Second {
		t.Errorf("it stopped after %s", took)
	}
	if _, err := os.Lstat(filepath.Join(allowed, "out")); err != nil {
		t.Errorf("the pod's end took away what is the node's: %v", err)
	}
}

func writeTar(t *testing.T, path string, entries ...tar.Header) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
