package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestImageGoesOnToALateNode: a node gets what was loaded before it was there
// from one that has it, who then has it too; people do not get it, and who has it
// but cannot hand it over is passed by.
func TestImageGoesOnToALateNode(t *testing.T) {
	tunnels := &agents{nodes: map[string]*http.Client{}}
	c := startTLS(t, Config{Tunnels: tunnels, SpoolDir: t.TempDir()})
	var empty, cut atomic.Bool
	agent := func(broken *atomic.Bool) http.Handler {
		mux := http.NewServeMux()
		mux.HandleFunc("PUT /v1/images", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		mux.HandleFunc("GET /v1/images/archive", func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() {
				http.Error(w, `{"detail":"not found"}`, http.StatusNotFound)
				return
			}
			fmt.Fprint(w, "the image ", r.URL.RawQuery)
			if cut.Load() {
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		})
		return mux
	}
	tunnels.connect(t, "w1", agent(&empty))
	tunnels.connect(t, "w2", agent(new(atomic.Bool)))
	user := c.client(t, c.userToken(t), nil)
	resp := must(user.Do(t.Context(), client.Request{Method: "POST", Path: "/v1/images", Stream: bytes.NewReader(ociTar("nginx:1.27"))}))(t)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	image := func() *api.Image {
		images, _, err := client.Of(c.system, api.Images).List(t.Context(), "", nil)
		if err != nil || len(images) != 1 {
			t.Fatal(images, err)
		}
		return images[0]
	}
	path := "/v1/images/" + image().Meta.Name + "/archive"
	w3 := Identity{RoleNode, "w3"}
	makeNode(t, c.system, "w3", "1", "1Gi")
	makeNode(t, c.system, "w4", "1", "1Gi")
	if code, got := call(c.Server, Identity{RoleUser, "ann"}, "GET", path, ""); code != 403 || !strings.Contains(got, "only a node") {
		t.Errorf("a user gets %d %s", code, got)
	}
	if code, got := call(c.Server, w3, "GET", "/v1/images/absent/archive", ""); code != 404 {
		t.Errorf("what nobody loaded: %d %s", code, got)
	}
	empty.Store(true)
	code, got := call(c.Server, w3, "GET", path, "")
	if code != 200 || !strings.HasPrefix(got, "the image ") || !strings.Contains(got, "reference=docker.io%2Flibrary%2Fnginx%3A1.27") || !strings.Contains(got, "digest="+strings.ReplaceAll(image().Spec.Digest, ":", "%3A")) {
		t.Errorf("%d %s", code, got)
	}
	if nodes := image().Spec.Nodes; !slices.Equal(nodes, []string{"w1", "w2", "w3"}) {
		t.Errorf("it is on %v", nodes)
	}
	cut.Store(true)
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("half an image looks whole: %v", p)
			}
		}()
		call(c.Server, Identity{RoleNode, "w4"}, "GET", path, "")
	}()
	if nodes := image().Spec.Nodes; slices.Contains(nodes, "w4") {
		t.Errorf("it is on %v", nodes)
	}
	tunnels.mu.Lock()
	clear(tunnels.nodes)
	tunnels.mu.Unlock()
	if code, got := call(c.Server, w3, "GET", path, ""); code != 409 || !strings.Contains(got, "was loaded into w1, w2, and none of them can hand it over now") {
		t.Errorf("nobody is connected: %d %s", code, got)
	}
}
