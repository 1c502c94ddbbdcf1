package server

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/scheduler"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// planner is the scheduler's forecast, for the API of every server: also of one
// that does not lead. It follows the cluster from the first question on.
type planner struct {
	system func() *client.Client
	log    hclog.Logger
	asked  chan struct{} // closed by the first question
	ready  chan struct{} // closed once there is a forecast

	once     sync.Once
	forecast *scheduler.Forecast
}

func newPlanner(system func() *client.Client, log hclog.Logger) *planner {
	return &planner{system: system, log: log.Named("planner"), asked: make(chan struct{}), ready: make(chan struct{})}
}

// Run follows the cluster until ctx ends.
func (p *planner) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.asked:
	}
	c := p.system()
	nodes, pods := reconcile.NewCache(c, api.Nodes, p.log), reconcile.NewCache(c, api.Pods, p.log)
	p.forecast = scheduler.NewForecast(nodes, pods)
	close(p.ready)
	var wg sync.WaitGroup
	wg.Go(func() { nodes.Run(ctx) })
	wg.Go(func() { pods.Run(ctx) })
	wg.Wait()
	return nil
}

// Place asks the forecast.
func (p *planner) Place(ctx context.Context, o api.Any, nodes bool) (*api.PlanPlacement, error) {
	if err := p.await(ctx); err != nil {
		return nil, err
	}
	return p.forecast.Place(ctx, o, nodes)
}

// Rebalance asks the forecast.
func (p *planner) Rebalance(ctx context.Context, movable func(*api.Pod) bool) (*api.Rebalance, error) {
	if err := p.await(ctx); err != nil {
		return nil, err
	}
	return p.forecast.Rebalance(ctx, movable)
}

// await waits until there is a forecast.
func (p *planner) await(ctx context.Context) error {
	p.once.Do(func() { close(p.asked) })
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ready:
		return nil
	}
}
