package machinetest

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// keeper has a secret as a variable and as a file, and a config as a file. It
// runs only while what it is given agrees with itself.
const keeper = `
variable "url" {
  type      = string
  ephemeral = true
}

resource "clusterd_secret" "db" {
  name    = "db"
  data_wo = { url = var.url }
}

resource "clusterd_config" "greeting" {
  name = "greeting"
  data = { text = "hello, keeper" }
}

resource "clusterd_app" "keeper" {
  name     = "keeper"
  image    = "nginx:1.0"
  cpu      = "10m"
  memory   = "32Mi"
  security = { user = "1234:4321" }
  secrets  = { URL = "${clusterd_secret.db.name}/url" }
  files = {
    "/run/url"      = { secret = "${clusterd_secret.db.name}/url" }
    "/etc/greeting" = { config = "${clusterd_config.greeting.name}/text", mode = "0640" }
  }
  update  = { healthy_for = "0s" }
  health  = { exec = ["bash", "-c", "test \"$(cat /run/url)\" = \"$URL\" -a \"$(cat /etc/greeting)\" = 'hello, keeper'"], interval = "1s", timeout = "10s" }
  command = ["bash", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
}
`

// canaries stand for what nobody may see: before and after a rotation.
var canaries = []string{"canary-first-swordfish-93b1", "canary-second-swordfish-7c40"}

// testSecret: a secret reaches the containers that use it, as files in memory
// that are theirs alone; a new value rolls out. Nobody else ever has a value.
func testSecret(t *testing.T, c *cluster) {
	m := c.terraform(t, keeper)
	env := c.env
	defer func() { c.env = env }()
	shown := map[string]string{}
	consumers := map[string]bool{}
	was := ""
	for i, value := range canaries {
		c.env = append(slices.Clip(env), "TF_VAR_url="+value, "TF_LOG=TRACE", "TF_LOG_PATH="+filepath.Join(m.dir, "trace.log"))
		plan := fmt.Sprintf("plan%d", i)
		shown[plan] = m.must(t, "plan", "-out="+plan, "-input=false", "-no-color")
		shown["apply "+plan] = m.must(t, "apply", "-input=false", "-no-color", plan)
		shown["show "+plan] = m.must(t, "show", "-no-color")
		m.empty(t)
		pods := slices.DeleteFunc(c.pods(t, "keeper"), func(p *api.Pod) bool { return p.Meta.Deleting() })
		if len(pods) != 1 || pods[0].Meta.UID == was {
			t.Fatalf("after apply %d there are %d pods; the one before was %s:\n%s", i, len(pods), was, c.try("get", "pods"))
		}
		was = pods[0].Meta.UID
		consumers[pods[0].Spec.Node] = true
		in := func(command ...string) string {
			return strings.TrimSpace(c.must(t, append([]string{"exec", "app/keeper", "--"}, command...)...))
		}
		if got := in("cat", "/run/url"); got != value {
			t.Errorf("the file has %q, want %q", got, value)
		}
		for path, want := range map[string]string{"/run/url": "400 1234 4321", "/etc/greeting": "640 1234 4321"} {
			if got := in("stat", "-c", "%a %u %g", path); got != want {
				t.Errorf("%s has mode, user and group %s, want %s", path, got, want)
			}
		}
		if got := in("stat", "-f", "-c", "%T", "/run/url"); got != "tmpfs" {
			t.Errorf("the file of the secret is on %s, want tmpfs", got)
		}
	}
	c.env = env

	object := filepath.Join(t.TempDir(), "app.json")
	if err := os.WriteFile(object, []byte(c.must(t, "get", "app", "keeper", "-o", "json")), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "only the new pod is left", func() bool { return len(c.pods(t, "keeper")) == 1 })
	pod := c.pods(t, "keeper")[0].Meta.Name
	for _, k := range api.Kinds {
		shown["get "+k.Info().Plural] = c.must(t, "get", k.Info().Plural, "-o", "json")
	}
	for _, line := range []string{
		"get secrets", "get secret db -o json", "describe secret db", "describe app keeper", "describe pod " + pod, "why app keeper", "why pod " + pod,
		"events", "events secret/db", "events app/keeper", "logs app/keeper", "plan -f " + object, "diff -f " + object, "rollout history app/keeper",
	} {
		shown[line] = c.must(t, strings.Fields(line)...)
	}
	for where, said := range shown {
		mustHide(t, where, []byte(said))
	}
	files := hides(t, m.dir)
	if files < 5 {
		t.Errorf("only %d files of Terraform were looked at", files)
	}
	if trace, err := os.ReadFile(filepath.Join(m.dir, "trace.log")); err != nil || !bytes.Contains(trace, []byte("clusterd_secret")) {
		t.Errorf("Terraform traced nothing of the secret (%v)", err)
	}
	// The disks: of the server with its store and everybody's logs, and of all
	// nodes that never ran the app.
	disks, looked := c.disks(t), 0
	for _, disk := range disks {
		if consumers[filepath.Base(disk)] {
			continue
		}
		looked++
		// A first look with a program: images are large.
		for _, form := range forms() {
			if out, err := exec.Command("grep", "-rlaF", "-D", "skip", "-e", form, disk).Output(); err == nil {
				t.Errorf("a value is in\n%s", out)
			}
		}
	}
	if looked < 3 {
		t.Errorf("only %d of %q were looked at", looked, disks)
	}
	m.must(t, "destroy", "-auto-approve", "-input=false", "-no-color", "-var=url=")
	for node := range consumers {
		left, err := filepath.Glob(filepath.Join("/run/clusterd/dev", c.name, node, "secrets/*"))
		if err != nil || len(left) > 0 {
			t.Errorf("after the pods are gone there is %q (%v)", left, err)
		}
	}
}

// disks are where the members of the cluster, and the logs of their processes, lie.
func (c *cluster) disks(t *testing.T) (dirs []string) {
	t.Helper()
	for _, root := range []string{"/var/lib/clusterd/dev", "/run/clusterd/dev"} {
		all, err := filepath.Glob(filepath.Join(root, c.name, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range all {
			if info, err := os.Lstat(dir); err == nil && info.IsDir() { // no link to the others
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// forms are how a value may look.
func forms() (out []string) {
	for _, v := range canaries {
		out = append(out, v, base64.StdEncoding.EncodeToString([]byte(v)))
	}
	return out
}

func mustHide(t *testing.T, where string, b []byte) {
	t.Helper()
	for _, form := range forms() {
		if i := bytes.Index(b, []byte(form)); i >= 0 {
			t.Errorf("%s shows a value: …%s…", where, b[max(0, i-100):min(len(b), i+60)])
		}
	}
}

// hides looks into all files below a directory, and into saved plans.
func hides(t *testing.T, dir string) (files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "terraform-provider-") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		mustHide(t, path, b)
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return nil // no plan
		}
		for _, f := range z.File {
			r, err := f.Open()
			if err != nil {
				return err
			}
			b, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				return err
			}
			mustHide(t, path+" "+f.Name, b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
