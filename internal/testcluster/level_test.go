package testcluster

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// level is that of the cluster, as the server at url says.
func (c *Cluster) level(ctx context.Context, url string) (string, error) {
	roots, err := pki.LoadRoots(c.CAFile())
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token())
	tr := &http.Transport{TLSClientConfig: roots}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "clusterd_level "); ok {
			return v, nil
		}
	}
	return "", lines.Err()
}

// Three servers are upgraded one by one to a version of the next level, and one
// goes back in between, under writes: none is lost, no pod is started again.
// Once all are upgraded the cluster is at the new level, and none can go back.
func TestServersAreUpgraded(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3, Nodes: 1})
	one := 1
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{Container: api.Container{Image: "fake/run"}, Replicas: &one}}
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	var pod api.Pod
	c.Await("the pod runs, and all servers have a vote", func(ctx context.Context) (bool, error) {
		for _, name := range []string{"s1", "s2", "s3"} {
			if role := serverRole(ctx, c.Client(), name); role != api.ServerVoter && role != api.ServerLeader {
				return false, nil
			}
		}
		pods, _, err := client.Of(c.Client(), api.Pods).List(ctx, "default", nil)
		if len(pods) == 1 {
			pod = *pods[0]
		}
		return len(pods) == 1 && pods[0].Status.Ready, err
	})

	writing, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	var acknowledged []string
	namespaces := client.Of(c.Client(), api.Namespaces)
	writer.Go(func() {
		for i := 0; writing.Err() == nil; i++ {
			name := "n" + strconv.Itoa(i)
			if _, err := namespaces.Put(writing, &api.Namespace{Meta: api.Meta{Name: name}}); err == nil {
				acknowledged = append(acknowledged, name)
			}
		}
	})
	restart := func(p *Process, level int) {
		p.Stop()
		p.Level = level
		p.Start()
		c.Await(p.name+" is back", func(ctx context.Context) (bool, error) {
			s, err := client.Of(c.Client(), api.Servers).Get(ctx, "", p.name)
			return err == nil && s.Status.Level == level && s.Status.Role != api.ServerDead, err
		})
	}
	s1, s2, s3 := c.Servers[0], c.Servers[1], c.Servers[2]
	restart(s1, api.Level+1)
	restart(s2, api.Level+1)
	if got, err := c.level(t.Context(), c.URL()); err != nil || got != strconv.Itoa(api.Level) {
		t.Errorf("in the middle of the upgrade the cluster is at level %q, %v", got, err)
	}
	restart(s2, api.Level)
	restart(s2, api.Level+1)
	restart(s3, api.Level+1)
	for _, url := range c.URLs() {
		c.Await("the cluster is at the new level", func(ctx context.Context) (bool, error) {
			got, err := c.level(ctx, url)
			return got == strconv.Itoa(api.Level+1), err
		})
	}
	stop()
	writer.Wait()

	s3.Stop()
	s3.Level = api.Level
	if _, err := s3.start(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no way back from a level") {
		t.Errorf("a server of the old version starts, with %v", err)
	}
	all, _, err := namespaces.List(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, ns := range all {
		have[ns.Meta.Name] = true
	}
	for _, name := range acknowledged {
		if !have[name] {
			t.Errorf("the write of %s was acknowledged, and is lost", name)
		}
	}
	pods, _, err := client.Of(c.Client(), api.Pods).List(t.Context(), "default", nil)
	if err != nil || len(pods) != 1 || pods[0].Meta.UID != pod.Meta.UID || !pods[0].Status.ReadyAt.Equal(pod.Status.ReadyAt) || !pods[0].Status.Ready {
		t.Errorf("the pod was %+v, and is %+v, %v", pod.Status, pods, err)
	}
	if len(acknowledged) == 0 {
		t.Error("nothing was written")
	}
	t.Logf("%d writes were acknowledged", len(acknowledged))
}
