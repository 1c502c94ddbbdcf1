package server

import (
	"context"
	"errors"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/controller"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/scheduler"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// lead runs the loops whenever this server leads, until ctx is done or one of
// them cannot go on.
func (s *Server) lead(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	end := func() {}
	for fence := range s.api.Leader(ctx) {
		end()
		end = func() {}
		if fence == 0 {
			s.log.Info("no longer the leader")
			continue
		}
		s.log.Info("leading", "fence", fence)
		end = s.term(ctx, fence, fail)
	}
	end()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// term starts the loops of one term of leadership; end stops them and waits.
func (s *Server) term(ctx context.Context, fence int64, fail context.CancelCauseFunc) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := daemon.Run(ctx, s.loops(fence)...); err != nil {
			fail(err)
		}
	}()
	return func() { stop(); <-done }
}

// loops are the parts that only a leader runs. Their writes are void once
// another term has begun.
func (s *Server) loops(fence int64) []daemon.Runner {
	system := s.system.Fenced(func() int64 { return fence })
	caches := reconcile.NewCaches(system, s.log)
	return []daemon.Runner{
		caches,
		daemon.Func(func(ctx context.Context) error { return s.metrics.follow(ctx, caches) }),
		daemon.Named("scheduler", daemon.Func(func(ctx context.Context) error {
			return scheduler.Run(ctx, scheduler.Config{Client: system, Caches: caches, Log: s.log})
		})),
		daemon.Named("controllers", daemon.Func(func(ctx context.Context) error {
			return controller.Run(ctx, controller.Config{Client: system, Caches: caches, Witness: s.witness, Leases: s.api.Leases(), Log: s.log})
		})),
	}
}
