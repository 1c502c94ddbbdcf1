package controller

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// tokenRest is how long an expired token is kept: whoever still shows it is told
// that it expired, and not that nobody knows it.
const tokenRest = 24 * time.Hour

// tokenPlan is what to do next about a token.
type tokenPlan struct {
	remove bool
	again  time.Duration // 0 is never
}

// planToken removes a token that has been good for nothing for a while. One that
// is used up stays until then: it says so.
func planToken(t *api.Token, now time.Time) tokenPlan {
	if t.Spec.ExpiresAt.IsZero() {
		return tokenPlan{}
	}
	left := t.Spec.ExpiresAt.Add(tokenRest).Sub(now)
	return tokenPlan{remove: left <= 0, again: max(left, 0)}
}

// tokens is the loop that removes expired tokens.
type tokens struct {
	client *client.Client
	caches *reconcile.Caches
	log    hclog.Logger
}

func newTokens(cfg Config) *tokens {
	return &tokens{client: cfg.Client, caches: cfg.Caches, log: cfg.Log.Named("token")}
}

func (l *tokens) loop() reconcile.Loop {
	return reconcile.Loop{Name: "token", Watch: []reconcile.Source{l.caches.Tokens.Each()}, Reconcile: l.reconcile}
}

func (l *tokens) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	t := l.caches.Tokens.Get("", ref.Name)
	if t == nil {
		return 0, nil
	}
	p := planToken(t, api.Now())
	if !p.remove {
		return p.again, nil
	}
	// Not one that was renewed meanwhile.
	so := []api.BatchPrecondition{{Ref: ref, UID: t.Meta.UID, Generation: t.Meta.Generation}}
	err := batches(ctx, l.client, so, []write{remove(ref, t.Meta.UID, false)}, func(api.Ref, int64) {})
	if gone(err) {
		return 0, nil // the cache shows it in a moment
	}
	if err == nil {
		l.log.Info("removed an expired token", "ref", ref, "expired_at", t.Spec.ExpiresAt)
	}
	return 0, err
}
