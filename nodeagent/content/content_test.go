package content

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

const value = "hunter2-swordfish"

func user(uid string) *api.Pod {
	p := &api.Pod{Meta: api.Meta{Namespace: "shop", Name: "web", UID: uid}}
	p.Spec.Contents = map[string]string{"secret/db": "h1", "config/web": "h2"}
	return p
}

// TestPodStartsWithoutTheControlPlane: what was fetched once is there after a
// restart, readable to nobody without the node's key, and gone with the pod.
func TestPodStartsWithoutTheControlPlane(t *testing.T) {
	dir, asked := t.TempDir(), 0
	up := func(_ context.Context, namespace, of, hash string) (map[string]string, error) {
		asked++
		return map[string]string{"url": value, "where": namespace + " " + of + " " + hash}, nil
	}
	down := func(context.Context, string, string, string) (map[string]string, error) {
		return nil, errors.New("cannot reach")
	}
	first := New(dir, up)
	for range 2 {
		v, err := first.Of(t.Context(), user("u1"))
		if err != nil || v["secret/db"]["where"] != "shop secret/db h1" || v["config/web"]["where"] != "shop config/web h2" {
			t.Fatalf("values %v: %v", v, err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times for two versions", asked)
	}
	again := New(dir, down)
	if v, err := again.Of(t.Context(), user("u1")); err != nil || v["secret/db"]["url"] != value {
		t.Errorf("after a restart: %v %v", v, err)
	}
	if _, err := again.Of(t.Context(), user("u2")); err == nil || !strings.Contains(err.Error(), "get config web: cannot reach") {
		t.Errorf("another pod's: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		st, _ := os.Stat(path)
		b, err := os.ReadFile(path)
		if err != nil || st.Mode().Perm() != 0o600 || strings.Contains(string(b), value) {
			t.Errorf("%s is %v, or shows a value: %v", f.Name(), st.Mode(), err)
		}
	}
	if err := os.Rename(again.path("u1"), again.path("u3")); err != nil {
		t.Fatal(err)
	}
	if v := New(dir, down).Known(user("u3")); v != nil {
		t.Error("one pod's file opens as another's")
	}
	if err := errors.Join(again.Forget("u1"), again.Forget("u3")); err != nil {
		t.Fatal(err)
	}
	if v := again.Known(user("u1")); v != nil {
		t.Error("a pod's values outlive it")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+ext)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
