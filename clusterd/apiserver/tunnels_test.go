package apiserver

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// agents stand in for tunnels: each node is an HTTP server.
type agents struct {
	mu    sync.Mutex
	nodes map[string]*http.Client
}

func (a *agents) ServeUpgrade(w http.ResponseWriter, _ *http.Request, node string) {
	fmt.Fprint(w, "tunnel of ", node)
}

func (a *agents) Client(node string) (*http.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.nodes[node]; c != nil {
		return c, nil
	}
	return nil, errors.New("not connected")
}

func (a *agents) Connected() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range a.nodes {
		out = append(out, n)
	}
	return out
}

// connect makes h the agent of node.
func (a *agents) connect(t *testing.T, node string, h http.Handler) {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes[node] = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}}}
}

func TestPodStreams(t *testing.T) {
	tunnels := &agents{nodes: map[string]*http.Client{}}
	c := startTLS(t, Config{Tunnels: tunnels})
	ctx := t.Context()
	makeNode(t, c.system, "w1", "2", "1Gi")
	p := makePod(t, c.system, "web-1", "10m", "16Mi")
	user := c.client(t, c.userToken(t), nil)
	logs := client.Request{Method: "GET", Path: "/v1/namespaces/default/pods/web-1/logs", Query: map[string][]string{"follow": {"true"}, "container": {"main"}}}
	_, err := user.Do(ctx, logs)
	if !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "has no node yet") {
		t.Errorf("logs of a pod without a node: %v", err)
	}
	bindPod(t, c.system, "web-1", "w1")
	code, got := call(c.Server, system, "GET", logs.Path, "")
	if code != 503 || !strings.Contains(got, "its node w1 is not connected") {
		t.Errorf("logs without a connection: %d %s", code, got)
	}
	if code, got := call(c.Server, system, "POST", "/v1/namespaces/default/pods/web-1/connect?dry_run=true", ""); code != 503 {
		t.Errorf("whether one may connect without a connection: %d %s", code, got)
	}
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/pods/{uid}/logs", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("uid") != p.Meta.UID || r.Header.Get("Authorization") != "" {
			http.Error(w, `{"detail":"wrong pod, or a secret that is not for agents"}`, 400)
			return
		}
		fmt.Fprintln(w, "first", r.URL.RawQuery)
		http.NewResponseController(w).Flush()
		<-release
		fmt.Fprintln(w, "second")
	})
	mux.HandleFunc("POST /v1/pods/{uid}/exec", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		line, _ := rw.ReadString('\n')
		fmt.Fprint(conn, strings.ToUpper(line))
	})
	tunnels.connect(t, "w1", mux)
	if code, got := call(c.Server, system, "GET", "/v1/nodes/w9/metrics", ""); code != 404 || !strings.Contains(got, "not found") {
		t.Errorf("numbers of a node that is not there: %d %s", code, got)
	}
	for _, what := range []string{"exec", "connect"} { // the agent is not asked
		if code, got := call(c.Server, system, "POST", "/v1/namespaces/default/pods/web-1/"+what+"?dry_run=true", ""); code != 204 || got != "" {
			t.Errorf("whether one may %s: %d %s", what, code, got)
		}
	}
	resp := must(user.Do(ctx, logs))(t)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "first container=main&follow=true" { // before the agent has finished
		t.Fatalf("got %q", lines.Text())
	}
	close(release)
	if !lines.Scan() || lines.Text() != "second" {
		t.Fatalf("got %q", lines.Text())
	}

	conf := c.id.ClientTLS().Clone()
	conf.GetClientCertificate, conf.NextProtos, conf.ServerName = nil, []string{"http/1.1"}, "127.0.0.1"
	conn, err := tls.Dial("tcp", c.addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/namespaces/default/pods/web-1/exec?command=cat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: clusterd-exec\r\n\r\n", c.userToken(t))
	br := bufio.NewReader(conn)
	up, err := http.ReadResponse(br, nil)
	if err != nil || up.StatusCode != 101 || up.Header.Get("Upgrade") != "clusterd-exec" {
		t.Fatalf("exec: %+v, %v", up, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := br.ReadString('\n'); line != "HELLO\n" {
		t.Errorf("exec said %q: %v", line, err)
	}
}

func (c *tlsCluster) userToken(t *testing.T) string {
	t.Helper()
	return c.adminToken(t.Context(), t.Fatal)
}

func TestTunnelIsForNodes(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.cfg.Tunnels = &agents{nodes: map[string]*http.Client{}}
		if code, _ := call(s, system, "GET", "/v1/tunnel", ""); code != 403 {
			t.Errorf("a user's tunnel: %d", code)
		}
		node := Identity{RoleNode, "w1"}
		if code, got := call(s, node, "GET", "/v1/tunnel", ""); code != 401 || !strings.Contains(got, "was deleted") {
			t.Errorf("the tunnel of a node that is not there: %d %s", code, got)
		}
		makeNode(t, c, "w1", "1", "1Gi")
		if code, got := call(s, node, "GET", "/v1/tunnel", ""); code != 200 || got != "tunnel of w1" {
			t.Errorf("%d %s", code, got)
		}
	})
}

// ociTar is the smallest upload that names images.
func ociTar(names ...string) []byte {
	index := map[string]any{"schemaVersion": 2}
	var ms []map[string]any
	for i, n := range names {
		ms = append(ms, map[string]any{"digest": fmt.Sprintf("sha256:%064d", i), "size": 1, "annotations": map[string]string{refNameAnnotation: n}})
	}
	index["manifests"] = ms
	b, _ := json.Marshal(index)
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	tw.WriteHeader(&tar.Header{Name: "oci-layout", Size: 2, Mode: 0o644})
	tw.Write([]byte("{}"))
	tw.WriteHeader(&tar.Header{Name: "index.json", Size: int64(len(b)), Mode: 0o644})
	tw.Write(b)
	tw.Close()
	return out.Bytes()
}

func TestImagesGoToEveryNode(t *testing.T) {
	tunnels := &agents{nodes: map[string]*http.Client{}}
	c := startTLS(t, Config{Tunnels: tunnels, SpoolDir: t.TempDir()})
	upload := ociTar("nginx:1.27")
	var mu sync.Mutex
	got := map[string]int{}
	for _, n := range []string{"w1", "w2", "w3"} {
		tunnels.connect(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if r.Method != "PUT" || r.URL.Path != "/v1/images" || !bytes.Equal(b, upload) {
				t.Errorf("%s got %s %s with %d bytes", n, r.Method, r.URL.Path, len(b))
			}
			mu.Lock()
			got[n] = len(b)
			mu.Unlock()
			if n == "w3" {
				w.WriteHeader(500)
				fmt.Fprint(w, `{"detail":"no space left on device"}`)
			}
		}))
	}
	user := c.client(t, c.userToken(t), nil)
	load := func(body []byte) (lines []api.ImageProgress, err error) {
		resp, err := user.Do(t.Context(), client.Request{Method: "POST", Path: "/v1/images", Stream: bytes.NewReader(body)})
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		for d := json.NewDecoder(resp.Body); ; {
			var l api.ImageProgress
			if err := d.Decode(&l); err != nil {
				return lines, nil
			}
			lines = append(lines, l)
		}
	}
	lines := must(load(upload))(t)
	end := lines[len(lines)-1]
	if len(got) != 3 || end.Status != api.ImageFailed || end.Message != "on 2 of 3 connected nodes" {
		t.Errorf("%v; in the end %+v", got, end)
	}
	if !slices.ContainsFunc(lines, func(l api.ImageProgress) bool {
		return l.Node == "w3" && l.Status == api.ImageFailed && l.Message == "no space left on device"
	}) {
		t.Errorf("lines are %+v", lines)
	}
	images, _, err := client.Of(c.system, api.Images).List(t.Context(), "", nil)
	if err != nil || len(images) != 1 || images[0].Spec.Reference != "docker.io/library/nginx:1.27" || !slices.Equal(images[0].Spec.Nodes, []string{"w1", "w2"}) {
		t.Errorf("images are %+v: %v", images, err)
	}
	for name, bad := range map[string][]byte{"it is not a tar archive": []byte("<html>"), "names no image": ociTar("1.27"), "it has no index.json": {}} {
		if _, err := load(bad); !api.Is(err, api.BadRequest) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFullReference(t *testing.T) {
	for in, want := range map[string]string{
		"nginx:1": "docker.io/library/nginx:1", "a/b": "docker.io/a/b:latest", "localhost:5000/x": "localhost:5000/x:latest",
		"ghcr.io/a/b:2": "ghcr.io/a/b:2", "1.27": "", "": "", "localhost/x:1": "localhost/x:1",
	} {
		if got := fullReference(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
		if name := api.ImageName(want); want != "" && api.CheckName(name) != nil {
			t.Errorf("%s makes the name %s", want, name)
		}
	}
}

// TestDrainBarrier: the answer comes once the endpoints say so and every
// connected node has applied it, and not before.
func TestDrainBarrier(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx := t.Context()
		s.cfg.Tunnels = &agents{nodes: map[string]*http.Client{"w1": nil, "w2": nil}}
		makeNode(t, c, "w1", "1", "1Gi")
		makeNode(t, c, "w2", "1", "1Gi")
		pod := makePod(t, c, "web-1", "10m", "16Mi")
		pod.Spec.App = "web"
		pod = must(client.Of(c, api.Pods).Put(ctx, pod))(t)
		drained := func(timeout string) (ans api.DrainedAnswer, took time.Duration) {
			start := time.Now()
			err := c.Call(ctx, "GET", "/v1/namespaces/default/pods/web-1/drained", map[string][]string{"timeout": {timeout}}, nil, &ans)
			if err != nil {
				t.Error(err)
			}
			return ans, time.Since(start)
		}
		if ans, took := drained("2s"); !ans.Drained || took != 0 {
			t.Errorf("without a service: %+v after %s", ans, took)
		}
		must(client.Of(c, api.Services).Create(ctx, newService("web", 0)))(t)
		eps := &api.Endpoints{Meta: api.Meta{Namespace: "default", Name: "web-0"}, Spec: api.EndpointsSpec{Service: "web",
			Addresses: []api.Endpoint{{Pod: "web-1", UID: pod.Meta.UID, Node: "w1", IP: "10.244.0.2", Ports: map[string]int{"http": 80}}}}}
		must(client.Of(c, api.EndpointSlices).Put(ctx, eps))(t)
		if ans, took := drained("2s"); ans.Drained || took != 2*time.Second {
			t.Errorf("while it serves: %+v after %s", ans, took)
		}
		eps.Spec.Addresses[0].Draining = true
		out := must(client.Of(c, api.EndpointSlices).Put(ctx, eps))(t).Meta.Revision
		apply := func(node string, revision int64) {
			if code, got := call(s, Identity{RoleNode, node}, "POST", "/v1/nodes/"+node+"/applied", fmt.Sprintf(`{"revision":%d}`, revision)); code != 204 {
				t.Errorf("%d %s", code, got)
			}
		}
		apply("w1", out)
		apply("w2", out-1)
		if ans, took := drained("2s"); ans.Drained || took != 2*time.Second || !slices.Equal(ans.Waiting, []string{"w2"}) {
			t.Errorf("while w2 is behind: %+v after %s", ans, took)
		}
		time.AfterFunc(300*time.Millisecond, func() { apply("w2", out) })
		if ans, took := drained("2s"); !ans.Drained || took != 300*time.Millisecond {
			t.Errorf("when w2 follows: %+v after %s", ans, took)
		}
	})
}
