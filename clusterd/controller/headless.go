package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// An app's own name leads to its ready pods, and that of an ordinal to its pod:
// nodes resolve both from endpoints, as they do services. An app that a service
// leads to needs none of its own unless it is stateful: the service's say it.

// planHeadless fills the slices of an app. A pod of an ordinal is in them from
// when it has an address: those of a cluster find each other before they are
// ready. A nil app is one that is gone.
func planHeadless(app *api.App, served bool, pods []*api.Pod, have []*api.Endpoints) (p servicePlan) {
	want := map[string]api.Endpoint{}
	if app == nil || served && app.Effective.Stateful == nil {
		p.remove = have
		return p
	}
	for _, pod := range pods {
		st := pod.Status
		e := api.Endpoint{Pod: pod.Meta.Name, UID: pod.Meta.UID, Node: pod.Spec.Node, IP: st.IP,
			Draining: !st.Ready || pod.Meta.Deleting() || st.Phase == api.PhaseStopping}
		if pod.Spec.Ordinal != nil {
			e.Host = pod.Spec.Hostname(pod.Meta.Name)
		}
		if st.IP == "" || st.Phase.Ended() || e.Draining && e.Host == "" {
			continue
		}
		want[e.UID] = e
		p.status.Endpoints++
	}
	p.fill(slicesOf{
		owner: api.Apps.Ref(app.Meta.Namespace, app.Meta.Name), labels: app.Meta.Labels, spec: api.EndpointsSpec{App: app.Meta.Name},
		// A service's end in a number alone.
		name: func(n int) string { return api.Label(app.Meta.Name, fmt.Sprintf("-h%d", n)) },
	}, have, want)
	return p
}

// headless is the loop that keeps the names of apps true.
type headless struct {
	client *client.Client
	apps   *client.Kind[*api.App]
	caches *reconcile.Caches
	log    hclog.Logger

	wrote reconcile.Written
}

func newHeadless(cfg Config) *headless {
	return &headless{client: cfg.Client, apps: client.Of(cfg.Client, api.Apps), caches: cfg.Caches, log: cfg.Log.Named("headless")}
}

func (l *headless) loop() reconcile.Loop {
	of := func(namespace, app string) []api.Ref {
		if app == "" {
			return nil
		}
		return []api.Ref{api.Apps.Ref(namespace, app)}
	}
	return reconcile.Loop{
		Name:    "headless",
		Workers: 4,
		Watch: []reconcile.Source{
			l.caches.Apps.Each(),
			l.caches.Pods.Refs(func(p *api.Pod) []api.Ref { return of(p.Meta.Namespace, p.Spec.App) }),
			l.caches.Services.Refs(func(s *api.Service) []api.Ref { return of(s.Meta.Namespace, s.Spec.App) }),
			l.caches.Endpoints.Refs(func(e *api.Endpoints) []api.Ref { return of(e.Meta.Namespace, e.Spec.App) }),
		},
		Reconcile: l.reconcile,
	}
}

func (l *headless) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	if err := l.caches.Endpoints.Await(ctx, l.wrote.Of(ref)); err != nil {
		return 0, err
	}
	app := l.caches.Apps.Get(ref.Namespace, ref.Name)
	have := l.caches.Endpoints.By("app", ref.Namespace, ref.Name)
	if app == nil && len(have) == 0 {
		l.wrote.Forget(ref)
		return 0, nil
	}
	var demand []api.BatchPrecondition
	if app == nil {
		if err := absent(ctx, l.apps, ref.Namespace, ref.Name); err != nil {
			return 0, err
		}
	} else {
		demand = []api.BatchPrecondition{{Ref: ref, UID: app.Meta.UID}}
	}
	served := len(l.caches.Services.By("app", ref.Namespace, ref.Name)) > 0
	p := planHeadless(app, served, l.caches.Pods.By("app", ref.Namespace, ref.Name), have)
	writes := p.slices()
	if len(writes) == 0 {
		return 0, nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	return 0, batches(ctx, l.client, demand, writes, func(_ api.Ref, revision int64) { l.wrote.Note(ref, revision) })
}
