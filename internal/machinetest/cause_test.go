package machinetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// certain is how long the first pod may run until it is certain why an app
// cannot: seconds, on a machine that does little else.
const certain = time.Minute

// ill are apps that cannot run: what is wrong in HCL, and how the cause is to
// be called. Whatever says why says it in the words of the cause.
type ill struct {
	hcl    string
	reason string
	words  []string
	oom    bool
}

// testCauses applies all of them at once, and asks each command for the cause.
func testCauses(t *testing.T, c *cluster) {
	r := c.registry(t, "nginx-1.0.tar")
	r.closed.Store(true)
	var disk unix.Statfs_t
	if err := unix.Statfs("/var/lib/clusterd", &disk); err != nil {
		t.Fatal(err)
	}
	tooMuch := int64(disk.Blocks)*disk.Bsize>>30 + 1
	apps := map[string]ill{
		"oom": {
			hcl: `sidecars = { eater = { image = "nginx:1.0", cpu = "10m", memory = "16Mi", health = { exec = ["false"] }, command = ["bash", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"] } }`, oom: true,
			reason: "out_of_memory", words: []string{"eater was killed", "16Mi of memory", "3 times in a row"},
		},
		"crash": {
			hcl:    `command = ["bash", "-c", "echo boom on purpose; exit 7"]`,
			reason: "crash_loop", words: []string{"main exited with code 7", "3 times in a row"},
		},
		"probe": {
			hcl: `ports  = { http = 80 }
  health = { http = "/missing", interval = "300ms", threshold = 1, grace_period = "1s" }`,
			reason: "unhealthy", words: []string{"main was restarted", "/missing", "404"},
		},
		"homeless": {hcl: `placement = { require = { colour = "octarine" } }`, reason: api.Unschedulable, words: []string{"no node fits", "colour"}},
		"absent":   {hcl: `image = "nginx:nope"`, reason: "image_unavailable", words: []string{"image nginx:nope"}},
		"private":  {hcl: fmt.Sprintf("image = %q", r.image), reason: "pull_refused", words: []string{"the registry refuses image " + r.image, "pull_auth"}},
		"big":      {hcl: fmt.Sprintf(`mounts = { "/big" = { scratch = "%dGi" } }`, tooMuch), reason: "disk_full", words: []string{"the disk of node", "is full"}},
		"brimful": {
			hcl: `mounts  = { "/full" = { scratch = "16Mi" } }
  command = ["bash", "-c", "dd if=/dev/zero of=/full/much bs=1M; exit 3"]`,
			reason: "crash_loop", words: []string{"main exited with code 3", "with its scratch space at /full (16Mi) full", "3 times in a row"},
		},
		"keyless":  {hcl: `secrets = { URL = "nowhere/url" }`, reason: api.MissingSecret, words: []string{"secret nowhere does not exist", "write it, or correct secrets.URL"}},
		"textless": {hcl: `files = { "/etc/site.conf" = { config = "nowhere/site.conf" } }`, reason: api.MissingConfig, words: []string{"config nowhere does not exist", "write it, or correct files"}},
	}
	var hcl strings.Builder
	for name, a := range apps {
		if !strings.Contains(a.hcl, "image = \"") || strings.Contains(a.hcl, "sidecars") {
			a.hcl = "image = \"nginx:1.0\"\n  " + a.hcl
		}
		fmt.Fprintf(&hcl, "resource \"clusterd_app\" %[1]q {\n  name = %[1]q\n  cpu = \"10m\"\n  memory = \"32Mi\"\n  %[2]s\n}\n", name, a.hcl)
	}
	m := c.terraform(t, hcl.String())
	out, code := m.run(t, "apply", "-auto-approve", "-input=false", "-no-color")
	if code == 0 {
		t.Errorf("apply ended well:\n%s", out)
	}
	all := get(t, c, api.Apps)
	for name, want := range apps {
		i := slices.IndexFunc(all, func(a *api.App) bool { return a.Meta.Name == name })
		if i < 0 || all[i].Status.Rollout.Cause == nil {
			t.Errorf("%s has no cause", name)
			continue
		}
		ro := all[i].Status.Rollout
		cause := *ro.Cause
		took := ro.EndedAt.Sub(ro.StartedAt)
		t.Logf("%s after %s: %s: %s", name, took.Round(100*time.Millisecond), cause.Reason, cause.Message)
		if cause.Reason != want.reason || cause.OOM != want.oom || took > certain {
			t.Errorf("%s after %s: %+v, want %s within %s", name, took, cause, want.reason, certain)
		}
		if want.oom && cause.Container != "eater" {
			t.Errorf("%s blames %s", name, cause.Container)
		}
		for _, w := range want.words {
			if !strings.Contains(cause.Message, w) {
				t.Errorf("%s does not say %q: %s", name, w, cause.Message)
			}
		}
		for where, said := range map[string]string{
			"apply":    words(out),
			"describe": c.must(t, "describe", "app", name),
			"why":      c.must(t, "why", "app", name),
			"events":   c.must(t, "events", "app/"+name),
		} {
			if !strings.Contains(said, strings.TrimRight(cause.Message, ".")) {
				t.Errorf("%s of %s does not say %q:\n%s", where, name, cause.Message, said)
			}
		}
		if pod := cause.Pod; pod != "" && name != "homeless" {
			said := c.try("why", "pod", pod)
			if !strings.Contains(said, want.reason) && !strings.Contains(said, want.words[0]) {
				t.Errorf("why pod %s does not say %q:\n%s", pod, want.words[0], said)
			}
		}
	}
	m.must(t, "destroy", "-auto-approve", "-no-color")
}
