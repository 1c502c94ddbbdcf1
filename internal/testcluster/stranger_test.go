package testcluster

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// A machine that joined by the rules, and then means ill: of a whole server it
// gets what every node may know and what is its own, nothing of the node beside
// it, where an app runs with a secret; and nothing at all once it was deleted.
func TestNodeThatMeansIll(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Nodes: 1})
	ctx, admin := t.Context(), c.Client()
	if _, err := client.Of(admin, api.Secrets).Create(ctx, &api.Secret{Meta: api.Meta{Name: "db", Namespace: "default"}, Spec: api.SecretSpec{Data: map[string]string{"url": "hunter2"}}}); err != nil {
		t.Fatal(err)
	}
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{Container: api.Container{Image: "nginx:1.27", Secrets: map[string]string{"URL": "db/url"}}}}
	if _, err := client.Of(admin, api.Apps).Create(ctx, app); err != nil {
		t.Fatal(err)
	}
	var pod api.Pod
	c.Await("the pod serves", func(ctx context.Context) (bool, error) {
		pods, _, err := client.Of(admin, api.Pods).List(ctx, "", nil)
		if len(pods) == 1 {
			pod = *pods[0]
		}
		return pod.Status.Ready, err
	})
	tok, err := pki.ParseJoinToken(c.NewJoinToken())
	if err != nil {
		t.Fatal(err)
	}
	joined, err := pki.Join(ctx, c.Addr(), tok, pki.JoinRequest{Name: "w2", Address: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	w2, err := client.New(client.Config{Addresses: c.URLs(), TLS: joined.Identity.ClientTLS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w2.Close)
	at := client.Path(api.Pods.Info(), pod.Meta.Namespace, pod.Meta.Name)
	version := client.Path(api.Secrets.Info(), "default", "db") + "/versions/" + pod.Spec.Contents["secret/db"]
	for _, tc := range []struct {
		method, path string
		in           any
		want         api.Code
	}{
		{http.MethodGet, version, nil, api.Denied},
		{http.MethodGet, at, nil, api.Denied},
		{http.MethodGet, "/v1/pods", nil, api.Denied},
		{http.MethodGet, at + "/logs", nil, api.Denied},
		{http.MethodPost, at + "/exec?command=id", nil, api.Denied},
		{http.MethodPost, at + "/connect?port=80", nil, api.Denied},
		{http.MethodPut, at + "/status", api.Pod{Status: api.PodStatus{Phase: api.PhaseFailed}}, api.Denied},
		{http.MethodPut, "/v1/nodes/w1/status", api.Node{Status: api.NodeStatus{Address: "10.9.9.9"}}, api.Denied},
		{http.MethodPut, "/v1/nodes/w2/health", api.Node{}, api.Denied},
		{http.MethodPost, "/v1/nodes/w1/lease", nil, api.Denied},
		{http.MethodPost, "/v1/batch", api.Batch{Writes: []api.BatchWrite{{Bind: &api.Binding{Namespace: "default", Pod: pod.Meta.Name, Node: "w2"}}}}, api.Denied},
		{http.MethodPost, "/v1/snapshot", api.SnapshotRequest{Passphrase: "mine"}, api.Denied},
		{http.MethodGet, "/v1/keys", nil, api.Denied},
		{http.MethodGet, "/v1/tokens", nil, api.Denied},
		{http.MethodGet, "/v1/nodes", nil, 0},
		{http.MethodGet, "/v1/pods?node=w2", nil, 0},
		{http.MethodPut, "/v1/nodes/w2/status", api.Node{Status: api.NodeStatus{Address: "127.0.0.1"}}, 0},
	} {
		path, query, _ := strings.Cut(tc.path, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if err := w2.Call(ctx, tc.method, path, values, tc.in, nil); api.CodeOf(err) != tc.want {
			t.Errorf("%s %s: %v, want %d", tc.method, tc.path, err, tc.want)
		}
	}
	if now, err := client.Of(admin, api.Pods).Get(ctx, "default", pod.Meta.Name); err != nil || !now.Status.Ready || now.Spec.Node != "w1" {
		t.Errorf("the pod is %+v, %v", now, err)
	}
	if err := client.Of(admin, api.Nodes).Delete(ctx, "", "w2", ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Of(w2, api.Nodes).List(ctx, "", nil); !api.Is(err, api.Unauthenticated) || !strings.Contains(err.Error(), "node w2 was deleted: join it again with a new token") {
		t.Errorf("once it was deleted: %v", err)
	}
}
