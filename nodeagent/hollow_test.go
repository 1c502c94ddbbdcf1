//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// A crew is nodes to the cluster: they run pods, one member speaks for them in
// gossip, and when its process ends all of them vanish at once.
func TestHollowNodes(t *testing.T) {
	const nodes = 12
	cluster := testcluster.Start(t, testcluster.Config{})
	c := crew{nodes: nodes, zones: 3, pods: 10, proxied: true}
	c.Name, c.server, c.token, c.Address, c.CPU, c.Memory = "h", cluster.Addr(), cluster.NewJoinToken(), "127.0.0.1", "4", "4Gi"
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx, hclog.NewNullLogger(), hclog.NewNullLogger()) }()
	verdicts := func(ctx context.Context) (of map[api.Verdict]int, why string, err error) {
		all, _, err := client.Of(cluster.Client(), api.Nodes).List(ctx, "", nil)
		of = map[api.Verdict]int{}
		for _, n := range all {
			of[n.Status.Health.Verdict]++
			why = n.Status.Health.Message
		}
		return of, why, err
	}
	cluster.Await("all are ready", func(ctx context.Context) (bool, error) {
		of, _, err := verdicts(ctx)
		return of[api.VerdictReady] == nodes, err
	})
	app := &api.App{Meta: api.Meta{Namespace: "default", Name: "web"}}
	app.Spec.Image, app.Spec.Replicas = "web:1", new(nodes)
	app.Spec.Placement = &api.Placement{OnePer: "node"}
	if _, err := client.Of(cluster.Client(), api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	cluster.Await("each runs a pod", func(ctx context.Context) (bool, error) {
		pods, _, err := client.Of(cluster.Client(), api.Pods).List(ctx, "", nil)
		at := map[string]bool{}
		for _, p := range pods {
			if p.Status.Ready {
				at[p.Spec.Node] = true
			}
		}
		return len(at) == nodes && at["h-1"] && at[fmt.Sprint("h-", nodes)], err
	})
	end()
	if err := <-ended; err != nil {
		t.Errorf("the crew ended: %v", err)
	}
	cluster.Await("all are missed, and frozen", func(ctx context.Context) (bool, error) {
		of, why, err := verdicts(ctx)
		return of[api.VerdictPartitioned] == nodes && strings.Contains(why, "vanished at once"), err
	})
}
