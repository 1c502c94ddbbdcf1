package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// servicePlan is what to change of one service's endpoints.
type servicePlan struct {
	put    []*api.Endpoints
	remove []*api.Endpoints
	status api.ServiceStatus
}

func (p servicePlan) String() string {
	var b strings.Builder
	for _, s := range p.put {
		fmt.Fprintf(&b, "~ %s", s.Meta.Name)
		for _, a := range s.Spec.Addresses {
			fmt.Fprintf(&b, " %s=%s", a.Pod, a.IP)
			for _, name := range slices.Sorted(maps.Keys(a.Ports)) {
				fmt.Fprintf(&b, ":%d", a.Ports[name])
			}
			if a.Host != "" {
				fmt.Fprintf(&b, "(%s)", a.Host)
			}
			if a.Draining {
				b.WriteString("(draining)")
			}
		}
		b.WriteByte('\n')
	}
	for _, s := range p.remove {
		fmt.Fprintf(&b, "- %s\n", s.Meta.Name)
	}
	fmt.Fprintf(&b, "= endpoints=%d\n", p.status.Endpoints)
	if p.status.Message != "" {
		fmt.Fprintf(&b, "= %s\n", p.status.Message)
	}
	return b.String()
}

// planService fills the slices of a service with the app's ready pods. A pod
// that was there and stops stays as draining while it exists: it gets nothing
// new and finishes what it has. An address stays in its slice for life, so
// that one pod's change is one small write. A nil service is one that is gone.
func planService(svc *api.Service, app *api.App, pods []*api.Pod, have []*api.Endpoints) (p servicePlan) {
	if svc == nil {
		p.remove = have
		return p
	}
	listed := map[string]bool{} // UIDs
	for _, s := range have {
		for _, a := range s.Spec.Addresses {
			listed[a.UID] = true
		}
	}
	want, problem := map[string]api.Endpoint{}, ""
	for _, pod := range pods {
		e, why, ok := endpoint(svc, pod, listed[pod.Meta.UID])
		problem = cmp.Or(problem, why)
		if ok {
			want[pod.Meta.UID] = e
		}
		if ok && !e.Draining {
			p.status.Endpoints++
		}
	}
	p.status.Message = problem
	if p.status.Endpoints == 0 && problem == "" {
		p.status.Message = noEndpoints(svc, app, pods)
	}
	p.fill(slicesOf{
		owner: api.Services.Ref(svc.Meta.Namespace, svc.Meta.Name), labels: svc.Meta.Labels, spec: api.EndpointsSpec{Service: svc.Meta.Name},
		name: func(n int) string { return api.Label(svc.Meta.Name, fmt.Sprintf("-%d", n)) },
	}, have, want)
	return p
}

// slicesOf says whose slices they are, and how they are called.
type slicesOf struct {
	owner  api.Ref
	labels map[string]string
	spec   api.EndpointsSpec // without addresses
	name   func(n int) string
}

// endpoint returns what a pod is to a service: nothing, an endpoint, or one
// that drains if it was listed before.
func endpoint(svc *api.Service, pod *api.Pod, listed bool) (e api.Endpoint, why string, ok bool) {
	st := pod.Status
	stopping := pod.Meta.Deleting() || st.Phase == api.PhaseStopping
	if st.IP == "" || st.Phase.Ended() || stopping && !listed || !stopping && !st.Ready {
		return e, "", false
	}
	ports := map[string]api.Port{}
	for _, c := range pod.Spec.Containers() {
		maps.Copy(ports, c.Ports)
	}
	e = api.Endpoint{Pod: pod.Meta.Name, UID: pod.Meta.UID, Node: pod.Spec.Node, IP: st.IP, Ports: map[string]int{}, Draining: stopping}
	for _, name := range slices.Sorted(maps.Keys(svc.Effective.Ports)) {
		n, err := svc.Effective.TargetPort(name, ports)
		if err != nil {
			why = cmp.Or(why, fmt.Sprintf("port %s: %s has %s", name, pod.Meta.Name, err))
			continue
		}
		e.Ports[name] = n
	}
	return e, why, len(e.Ports) > 0
}

// noEndpoints says why a service has none.
func noEndpoints(svc *api.Service, app *api.App, pods []*api.Pod) string {
	name := svc.Effective.App
	switch {
	case app == nil:
		return fmt.Sprintf("there is no app %s in namespace %s", name, svc.Meta.Namespace)
	case app.Meta.Deleting():
		return fmt.Sprintf("app %s is being deleted", name)
	case api.Desired(app) == 0:
		return fmt.Sprintf("app %s has replicas = 0", name)
	case app.Status.Message != "":
		return fmt.Sprintf("no pod of app %s is ready: %s", name, app.Status.Message)
	}
	return fmt.Sprintf("none of %d pods of app %s is ready", len(pods), name)
}

// fill plans the fewest writes that make the slices hold want.
func (p *servicePlan) fill(of slicesOf, have []*api.Endpoints, want map[string]api.Endpoint) {
	byName := map[string]*api.Endpoints{}
	for _, s := range have {
		byName[s.Meta.Name] = s
	}
	var filled [][]api.Endpoint
	known := map[string]bool{}
	for n := 0; len(known) < len(have); n++ {
		s := byName[of.name(n)]
		if s == nil {
			if n > len(have)+maxSlices {
				break // what is left is not named as slices are: it goes
			}
			filled = append(filled, nil)
			continue
		}
		known[s.Meta.Name] = true
		var keep []api.Endpoint
		for _, a := range s.Spec.Addresses {
			if e, ok := want[a.UID]; ok && len(keep) < api.MaxEndpoints {
				keep = append(keep, e)
				delete(want, a.UID)
			}
		}
		filled = append(filled, keep)
	}
	fresh := slices.SortedFunc(maps.Values(want), func(a, b api.Endpoint) int { return strings.Compare(a.Pod, b.Pod) })
	for n := 0; len(fresh) > 0; n++ {
		if n == len(filled) {
			filled = append(filled, nil)
		}
		take := min(api.MaxEndpoints-len(filled[n]), len(fresh))
		filled[n] = append(filled[n], fresh[:take]...)
		fresh = fresh[take:]
	}
	for n, addresses := range filled {
		old := byName[of.name(n)]
		switch {
		case old == nil && len(addresses) == 0:
		case len(addresses) == 0 && n > 0:
			p.remove = append(p.remove, old)
		case old == nil || !reflect.DeepEqual(old.Spec.Addresses, addresses):
			spec := of.spec
			spec.Addresses = addresses
			p.put = append(p.put, &api.Endpoints{
				Meta: api.Meta{Name: of.name(n), Namespace: of.owner.Namespace, Labels: of.labels, Owner: &of.owner},
				Spec: spec,
			})
		}
	}
	for _, s := range have {
		if !known[s.Meta.Name] {
			p.remove = append(p.remove, s)
		}
	}
}

// maxSlices bounds the search for the slices of a service that has lost some:
// an app has at most so many pods.
const maxSlices = 10000 / api.MaxEndpoints

// slices are the writes that make a plan's slices so.
func (p servicePlan) slices() (writes []write) {
	for _, s := range p.put {
		writes = append(writes, put(api.EndpointSlices, s))
	}
	for _, s := range p.remove {
		writes = append(writes, remove(api.EndpointSlices.Ref(s.Meta.Namespace, s.Meta.Name), s.Meta.UID, false))
	}
	return writes
}

// services is the loop that keeps endpoints true. It is what a draining pod
// waits for, so it has many workers.
type services struct {
	client   *client.Client
	services *client.Kind[*api.Service]
	caches   *reconcile.Caches
	log      hclog.Logger

	wroteService, wroteSlices reconcile.Written
}

func newServices(cfg Config) *services {
	return &services{client: cfg.Client, services: client.Of(cfg.Client, api.Services), caches: cfg.Caches, log: cfg.Log.Named("service")}
}

func (l *services) loop() reconcile.Loop {
	ofApp := func(namespace, app string) (refs []api.Ref) {
		for _, svc := range l.caches.Services.By("app", namespace, app) {
			refs = append(refs, svc.Ref())
		}
		return refs
	}
	return reconcile.Loop{
		Name:    "service",
		Workers: 8,
		Watch: []reconcile.Source{
			l.caches.Services.Each(),
			l.caches.Pods.Refs(func(p *api.Pod) []api.Ref { return ofApp(p.Meta.Namespace, p.Spec.App) }),
			l.caches.Apps.Refs(func(a *api.App) []api.Ref { return ofApp(a.Meta.Namespace, a.Meta.Name) }),
			l.caches.Endpoints.Refs(func(e *api.Endpoints) []api.Ref {
				if e.Spec.Service == "" {
					return nil
				}
				return []api.Ref{api.Services.Ref(e.Meta.Namespace, e.Spec.Service)}
			}),
		},
		Reconcile: l.reconcile,
	}
}

func (l *services) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	if err := cmp.Or(l.caches.Services.Await(ctx, l.wroteService.Of(ref)), l.caches.Endpoints.Await(ctx, l.wroteSlices.Of(ref))); err != nil {
		return 0, err
	}
	svc := l.caches.Services.Get(ref.Namespace, ref.Name)
	have := l.caches.Endpoints.By("service", ref.Namespace, ref.Name)
	if svc == nil && len(have) == 0 {
		l.wroteService.Forget(ref)
		l.wroteSlices.Forget(ref)
		return 0, nil
	}
	if svc == nil {
		if err := absent(ctx, l.services, ref.Namespace, ref.Name); err != nil {
			return 0, err
		}
	}
	var app *api.App
	var pods []*api.Pod
	if svc != nil {
		app = l.caches.Apps.Get(ref.Namespace, svc.Effective.App)
		pods = l.caches.Pods.By("app", ref.Namespace, svc.Effective.App)
	}
	p := planService(svc, app, pods, have)
	writes := p.slices()
	var demand []api.BatchPrecondition
	if svc != nil {
		demand = []api.BatchPrecondition{{Ref: ref, UID: svc.Meta.UID, Generation: svc.Meta.Generation}}
		if p.status != svc.Status {
			o := *svc
			o.Status = p.status
			writes = append(writes, status(api.Services, &o))
		}
	}
	if len(writes) == 0 {
		return 0, nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	return 0, batches(ctx, l.client, demand, writes, func(wrote api.Ref, revision int64) {
		if wrote == ref {
			l.wroteService.Note(ref, revision)
		} else {
			l.wroteSlices.Note(ref, revision)
		}
	})
}
