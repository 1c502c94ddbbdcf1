package agent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// node is a hollow node with a pod of one container, and its agent's address.
type node struct {
	*testing.T
	rt     *fake.Runtime
	client *client.Client
	pod    *api.Pod
	addr   string
}

// start runs a pod whose script is an image of the fake runtime.
func start(t *testing.T, script ...string) *node {
	ctx, cancel := context.WithCancel(t.Context())
	srv, err := apiserver.Open(ctx, apiserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- srv.Run(ctx) }()
	c := client.InProcess(srv.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "test"}))
	n := &node{T: t, rt: fake.New(), client: c}
	n.rt.AddImage("script:1", fake.Image{Script: script})
	nodes := client.Of(c, api.Nodes)
	must(nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: "w1"}}))
	must(nodes.PutPart(ctx, &api.Node{Meta: api.Meta{Name: "w1"}, Status: api.NodeStatus{Health: api.NodeHealth{Verdict: api.VerdictReady}}}, "health"))
	a := hollow.New(hollow.Config{Name: "w1", Client: c, Runtime: n.rt, Logs: t.TempDir()}).Agent()
	go func() { ended <- a.Run(ctx) }()
	web := httptest.NewServer(a.Handler())
	n.addr = web.Listener.Addr().String()
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		srv.Close()
	})
	await(t, c, api.Nodes, func(o *api.Node) bool { return o.Status.Allocatable.Pods > 0 })
	n.pod = must(client.Of(c, api.Pods).Create(ctx, &api.Pod{
		Meta: api.Meta{Name: "web-1", Namespace: "default"},
		Spec: api.PodSpec{PodTemplate: api.PodTemplate{Container: api.Container{Image: "script:1"}, Stop: &api.Stop{GracePeriod: "1s"}}},
	}))
	must(c.Batch(ctx, []api.BatchWrite{{Bind: &api.Binding{Namespace: "default", Pod: "web-1", UID: n.pod.Meta.UID, Node: "w1"}}}))
	return n
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// await blocks until an object of the kind is as wanted.
func await[O api.Any](t *testing.T, c *client.Client, k *api.Kind[O], ok func(O) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ev, err := range client.Of(c, k).Watch(ctx, "", nil, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == api.EventPut && ok(ev.Object) {
			return
		}
	}
}

func (n *node) awaitPod(ok func(api.PodStatus) bool) {
	n.Helper()
	await(n.T, n.client, api.Pods, func(p *api.Pod) bool { return ok(p.Status) })
}

func ready(st api.PodStatus) bool { return st.Ready }

func (n *node) get(path string) (string, int) {
	n.Helper()
	resp, err := http.Get("http://" + n.addr + "/v1/pods/" + n.pod.Meta.UID + path)
	if err != nil {
		n.Fatal(err)
	}
	defer resp.Body.Close()
	return string(must(io.ReadAll(resp.Body))), resp.StatusCode
}

func TestLogs(t *testing.T) {
	n := start(t, "print=one", "warn=two", "print=three", "forever")
	n.awaitPod(ready)
	for path, want := range map[string]string{
		"/logs":                   "one\ntwo\nthree\n",
		"/logs?tail=1":            "three\n",
		"/logs?tail=0":            "",
		"/logs?since=1h":          "one\ntwo\nthree\n",
		"/logs?container=main":    "one\ntwo\nthree\n",
		"/logs?since=" + stamp(1): "",
	} {
		if got, code := n.get(path); code != 200 || got != want {
			t.Errorf("%s: %d %q", path, code, got)
		}
	}
	if got, _ := n.get("/logs?timestamps=true&tail=1"); !strings.HasSuffix(got, " three\n") || !strings.HasPrefix(got, "20") {
		t.Errorf("with timestamps: %q", got)
	}
	for path, want := range map[string]string{
		"/logs?container=nope":                           `no container \"nope\" that ever ran here: it has main`,
		"/logs?container=..":                             `no container \"..\"`,
		"/logs?container=../" + n.pod.Meta.UID + "/main": "no container",
		"/logs?tail=x":                                   "a number of lines",
		"/logs?since=then":                               "a duration such as 5m",
		"/logs?follow=perhaps":                           "true or false",
		"/logs?previous=true":                            "one run only",
	} {
		if got, code := n.get(path); code < 400 || !strings.Contains(got, want) {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
}

func stamp(hours int) string {
	return time.Now().Add(time.Duration(hours) * time.Hour).UTC().Format(time.RFC3339)
}

// Following a log goes on into the next run, and ends with the pod.
func TestLogsFollowRestarts(t *testing.T) {
	n := start(t, "print=begin", "listen", "on-term=0", "forever")
	n.awaitPod(ready)
	resp := must(http.Get("http://" + n.addr + "/v1/pods/" + n.pod.Meta.UID + "/logs?follow=true"))
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "begin" {
		t.Fatalf("first line is %q", lines.Text())
	}
	n.rt.Crash(n.pod.Meta.UID+".main.0", 1)
	if !lines.Scan() || lines.Text() != "begin" {
		t.Fatalf("after the restart: %q, %v", lines.Text(), lines.Err())
	}
	if got, code := n.get("/logs?previous=true"); code != 200 || got != "begin\n" {
		t.Errorf("previous: %d %q", code, got)
	}
	if err := client.Of(n.client, api.Pods).Delete(t.Context(), "default", "web-1", ""); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
	}
	n.awaitPod(func(st api.PodStatus) bool { return st.Phase.Ended() })
	if got, code := n.get("/logs?tail=1"); code != 200 || got != "begin\n" {
		t.Errorf("the log of a pod that ended: %d %q", code, got)
	}
}

// The log of an init container can be read, and following it ends with it.
func TestLogsOfInit(t *testing.T) {
	n := start(t, "listen", "forever")
	n.rt.AddImage("migrate:1", fake.Image{Script: []string{"print=migrated"}})
	n.pod = must(client.Of(n.client, api.Pods).Create(t.Context(), &api.Pod{
		Meta: api.Meta{Name: "web-2", Namespace: "default"},
		Spec: api.PodSpec{PodTemplate: api.PodTemplate{
			Container: api.Container{Image: "script:1"}, Init: map[string]api.Init{"migrate": {Image: "migrate:1"}}, Stop: &api.Stop{GracePeriod: "1s"},
		}},
	}))
	must(n.client.Batch(t.Context(), []api.BatchWrite{{Bind: &api.Binding{Namespace: "default", Pod: "web-2", UID: n.pod.Meta.UID, Node: "w1"}}}))
	await(t, n.client, api.Pods, func(p *api.Pod) bool { return p.Meta.Name == "web-2" && p.Status.Ready })
	if got, code := n.get("/logs?container=migrate&follow=true"); code != 200 || got != "migrated\n" {
		t.Errorf("%d %q", code, got)
	}
}

// session runs a command and returns what it wrote and how it ended.
func (n *node) session(query, stdin string) (out, errOut string, exit tunnel.Exit, err error) {
	n.Helper()
	conn := must(net.Dial("tcp", n.addr))
	r := must(http.NewRequest(http.MethodPost, "http://"+n.addr+"/v1/pods/"+n.pod.Meta.UID+"/exec?"+query, nil))
	up, err := tunnel.Upgrade(n.Context(), conn, r, tunnel.ExecProtocol)
	if err != nil {
		return "", "", exit, err
	}
	defer up.Close()
	f := tunnel.NewFrames(up)
	if stdin != "" {
		if err := f.Write(tunnel.FrameStdin, []byte(stdin)); err != nil {
			n.Fatal(err)
		}
	}
	if err := f.WriteJSON(tunnel.FrameResize, tunnel.Size{Cols: 100, Rows: 40}); err != nil {
		n.Fatal(err)
	}
	if err := f.Write(tunnel.FrameCloseStdin, nil); err != nil {
		n.Fatal(err)
	}
	for {
		kind, data, err := f.Read()
		if err != nil {
			n.Fatal(err)
		}
		switch kind {
		case tunnel.FrameStdout:
			out += string(data)
		case tunnel.FrameStderr:
			errOut += string(data)
		case tunnel.FrameExit:
			return out, errOut, exit, json.Unmarshal(data, &exit)
		}
	}
}

func TestExec(t *testing.T) {
	n := start(t, "forever")
	n.awaitPod(ready)
	for query, want := range map[string]string{
		"command=echo&command=a&command=b":                           "a b\n//0",
		"command=/toolbox&command=warn%3Doops&command=exit%3D3":      "/oops\n/3",
		"command=cat&stdin=true":                                     "typed//0",
		"command=cat":                                                "//0",
		"command=/toolbox&command=size&tty=true":                     "100x40\n//0",
		"command=nosuch":                                             "//127 cannot start",
		"command=true&container=main":                                "//0",
		"command=/toolbox&command=print%3Da&command=warn%3Db&tty=no": "tty=\"no\": want true or false",
		"":                          "command=\"\": want the program",
		"command=ls&container=nope": "no container \"nope\" that ever ran here: it has main",
	} {
		out, errOut, exit, err := n.session(query, "typed")
		got := fmt.Sprintf("%s/%s/%d", out, errOut, exit.Code)
		if exit.Error != "" {
			got += " " + exit.Error
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	if body, code := n.post("/exec?command=ls"); code != 400 || !strings.Contains(body, "upgrade") {
		t.Errorf("without an upgrade: %d %s", code, body)
	}
}

func (n *node) post(path string) (string, int) {
	n.Helper()
	resp := must(http.Post("http://"+n.addr+"/v1/pods/"+n.pod.Meta.UID+path, "", nil))
	defer resp.Body.Close()
	return string(must(io.ReadAll(resp.Body))), resp.StatusCode
}

// An image that is loaded by hand starts the pods that wait for it at once.
func TestImagesLoadedByHand(t *testing.T) {
	n := start(t, "forever")
	must(client.Of(n.client, api.Pods).Create(t.Context(), &api.Pod{
		Meta: api.Meta{Name: "web-2", Namespace: "default"},
		Spec: api.PodSpec{PodTemplate: api.PodTemplate{Container: api.Container{Image: "missing:1"}}},
	}))
	uid := must(client.Of(n.client, api.Pods).Get(t.Context(), "default", "web-2")).Meta.UID
	must(n.client.Batch(t.Context(), []api.BatchWrite{{Bind: &api.Binding{Namespace: "default", Pod: "web-2", UID: uid, Node: "w1"}}}))
	n.awaitPod(func(st api.PodStatus) bool { return st.Reason == "image_unavailable" })
	req := must(http.NewRequest(http.MethodPut, "http://"+n.addr+"/v1/images", strings.NewReader("missing:1 listen;forever")))
	resp := must(http.DefaultClient.Do(req))
	body := string(must(io.ReadAll(resp.Body)))
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.Contains(body, `"reference":"docker.io/library/missing:1"`) {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	await(t, n.client, api.Pods, func(p *api.Pod) bool { return p.Meta.Name == "web-2" && p.Status.Ready })
	resp = must(http.Get("http://" + n.addr + "/v1/images"))
	defer resp.Body.Close()
	if body := string(must(io.ReadAll(resp.Body))); !strings.Contains(body, "missing:1") || !strings.Contains(body, "script:1") {
		t.Errorf("images are %s", body)
	}
}
