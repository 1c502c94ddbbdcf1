package scheduler

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// TestForecastSaysWhyOfEachNode: where one more pod could run, and why not
// elsewhere; nobody who does not ask is told.
func TestForecastSaysWhyOfEachNode(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, c *client.Client) {
		for name, cpu := range map[string]string{"big": "4", "shut": "4", "small": "1"} {
			addNode(t, ctx, c, name, cpu)
		}
		nodes := client.Of(c, api.Nodes)
		shut, err := nodes.Get(ctx, "", "shut")
		if err != nil {
			t.Fatal(err)
		}
		shut.Spec.Cordoned = true
		if _, err := nodes.Put(ctx, shut); err != nil {
			t.Fatal(err)
		}
		app, err := client.Of(c, api.Apps).Create(ctx, &api.App{Meta: api.Meta{Namespace: "default", Name: "web"},
			Spec: api.AppSpec{Container: api.Container{Image: "nginx:1", CPU: "2"}}})
		if err != nil {
			t.Fatal(err)
		}
		of, pods := reconcile.NewCache(c, api.Nodes, hclog.NewNullLogger()), reconcile.NewCache(c, api.Pods, hclog.NewNullLogger())
		f := NewForecast(of, pods)
		following, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { of.Run(following) })
		wg.Go(func() { pods.Run(following) })
		defer wg.Wait()
		defer stop()
		got, err := f.Place(ctx, app, true)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"big": "", "shut": "is cordoned", "small": "needs 2 cpu and has 1"}
		if got.Fits != 1 || !maps.Equal(got.Nodes, want) {
			t.Errorf("%+v, not %v", got, want)
		}
		if got, err := f.Place(ctx, app, false); err != nil || got.Nodes != nil {
			t.Errorf("%+v %v", got, err)
		}
	})
}
