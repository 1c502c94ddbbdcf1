//go:build !race

package provider_test

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// TestSecretIsNowhere: after an apply, a rotation and a rollout that fails for
// the value, with every log at its loudest, no value is in Terraform's state,
// plans, output and logs, in what the API answers, in the logs of server and
// agents, in the files of the store, or on any node's disk.
func TestSecretIsNowhere(t *testing.T) {
	acceptance(t)
	logs, err := os.Create(filepath.Join(t.TempDir(), "cluster.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	c := testcluster.Start(t, testcluster.Config{Nodes: 2, Etcd: true, Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: logs})})
	w := newWorkspace(t, program(t), c.Env())
	w.env["TF_LOG"], w.env["TF_LOG_PATH"] = "TRACE", filepath.Join(w.dir, "trace.log")
	w.write("main.tf", `
variable "url" {
  type      = string
  ephemeral = true
}
resource "clusterd_secret" "db" {
  name    = "db"
  data_wo = { url = var.url }
}
resource "clusterd_app" "api" {
  name    = "api"
  image   = "toolbox"
  args    = ["env=URL", "exit-if=URL=hunter2-broken-swordfish", "listen", "on-term=0", "forever"]
  secrets = { URL = "${clusterd_secret.db.name}/url" }
  files   = { "/run/url" = { secret = "${clusterd_secret.db.name}/url" } }
  update  = { healthy_for = "0s" }
}`)
	var said strings.Builder
	values := []string{"hunter2-first-swordfish", "hunter2-second-swordfish", "hunter2-broken-swordfish"}
	for i, v := range values {
		w.env["TF_VAR_url"] = v
		out, _ := w.terraform("plan", "-out=plan"+string(rune('0'+i)))
		said.WriteString(out)
		out, code := w.terraform("apply", "-auto-approve")
		if said.WriteString(out); (code == 0) != (i < 2) {
			t.Fatalf("apply %d exits with %d:\n%s", i, code, out)
		}
	}
	for _, k := range api.Kinds {
		path := "/v1/" + k.Info().Plural
		resp, err := c.Client().Do(t.Context(), client.Request{Method: http.MethodGet, Path: path})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		said.Write(b)
	}
	clean := func(where string, b []byte) {
		for _, v := range values {
			for _, form := range []string{v, base64.StdEncoding.EncodeToString([]byte(v))} {
				if i := bytes.Index(b, []byte(form)); i >= 0 {
					t.Errorf("%s shows a value: …%s…", where, b[max(0, i-100):min(len(b), i+60)])
				}
			}
		}
	}
	// The app's own arguments name the value that it cannot stand.
	own := func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("URL=hunter2-broken-swordfish"), nil)
	}
	clean("what people are shown", own([]byte(said.String())))
	files := 0
	scan := func(root string, skip func(path string) bool) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || skip(path) {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			clean(path, own(b))
			if z, err := zip.NewReader(bytes.NewReader(b), int64(len(b))); err == nil { // a plan
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
					clean(path+" "+f.Name, own(b))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	scan(w.dir, func(string) bool { return false })
	scan(filepath.Dir(logs.Name()), func(string) bool { return false })
	// What the app itself wrote to its log is its own.
	delivered := false
	scan(filepath.Dir(c.CAFile()), func(path string) bool {
		if !strings.Contains(path, "/logs/") {
			return false
		}
		b, err := os.ReadFile(path)
		delivered = delivered || err == nil && bytes.Contains(b, []byte(values[1]))
		return true
	})
	if !delivered {
		t.Error("the app never had the value")
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}
