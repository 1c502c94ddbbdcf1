package hollow_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// cluster is a real API in memory and one hollow node.
type cluster struct {
	*testing.T
	node   *hollow.Node
	rt     *fake.Runtime
	client *client.Client
	pods   *client.Kind[*api.Pod]
	cut    atomic.Bool // the node cannot reach the API
	stop   func()
}

// run runs f in a bubble of virtual time.
func run(t *testing.T, f func(c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		srv, err := apiserver.Open(ctx, apiserver.Config{})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- srv.Run(ctx) }()
		led, leads := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(led)
			for fence := range srv.Leader(ctx) { // it grants leases
				if fence != 0 {
					close(leads)
				}
			}
		}()
		<-leads
		h := srv.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "test"})
		c := &cluster{T: t, client: client.InProcess(h)}
		c.pods = client.Of(c.client, api.Pods)
		if _, err := client.Of(c.client, api.Nodes).Create(ctx, &api.Node{Meta: api.Meta{Name: "w1"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Of(c.client, api.Nodes).PutPart(ctx, &api.Node{Meta: api.Meta{Name: "w1"}, Status: api.NodeStatus{Health: api.NodeHealth{Verdict: api.VerdictReady}}}, "health"); err != nil {
			t.Fatal(err)
		}
		own := srv.InProcess(apiserver.Identity{Role: apiserver.RoleNode, Name: "w1"})
		gate := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.cut.Load() {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprint(w, `{"status":503,"detail":"cannot reach the server"}`)
				return
			}
			own.ServeHTTP(w, r)
		})
		c.rt = fake.New()
		c.node = hollow.New(hollow.Config{Name: "w1", Client: client.InProcess(gate), Runtime: c.rt, Logs: t.TempDir(), Lease: filepath.Join(t.TempDir(), "lease"), Contents: t.TempDir(), Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: writer{t}})})
		c.start()
		c.after(time.Second)
		f(c)
		c.stop()
		cancel()
		<-led
		if err := <-done; err != nil {
			t.Error(err)
		}
		srv.Close()
	})
}

type writer struct{ t *testing.T }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// start starts the node's agent; stop ends it.
func (c *cluster) start() {
	ctx, cancel := context.WithCancel(c.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.node.Run(ctx); err != nil {
			c.Error(err)
		}
	}()
	c.stop = func() { cancel(); <-done }
}

// create makes a pod and binds it to the node.
func (c *cluster) create(name string, change func(*api.PodSpec)) {
	c.Helper()
	three := 3
	p := &api.Pod{Meta: api.Meta{Name: name, Namespace: "default"}, Spec: api.PodSpec{App: "web", Revision: "r1", PodTemplate: api.PodTemplate{
		Container: api.Container{Image: "nginx:1", CPU: "100m", Memory: "64Mi", Ports: map[string]api.Port{"http": "80"}},
		Stop:      &api.Stop{GracePeriod: "10s"},
	}}}
	if change != nil {
		change(&p.Spec)
	}
	if h := p.Spec.Health; h != nil {
		h.Interval, h.Timeout, h.GracePeriod, h.Threshold = "2s", "1s", "10s", &three
	}
	got, err := c.pods.Create(c.Context(), p)
	if err != nil {
		c.Fatal(err)
	}
	if _, err := c.client.Batch(c.Context(), []api.BatchWrite{{Bind: &api.Binding{Namespace: "default", Pod: name, UID: got.Meta.UID, Node: "w1"}}}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) get(name string) *api.Pod {
	c.Helper()
	p, err := c.pods.Get(c.Context(), "default", name)
	if err != nil {
		c.Fatal(err)
	}
	return p
}

func (c *cluster) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
