package controller

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// stages is the order in which a namespace empties: first what brings traffic,
// then what runs, then all other declared objects. Derived objects follow
// those they were made for; the server removes the events.
var stages = []string{api.Services.Name, api.Apps.Name}

// left is one object that is still in a namespace.
type left struct {
	ref      api.Ref
	uid      string
	derived  bool
	deleting bool
}

// namespacePlan is what to do next about a namespace that is being deleted.
type namespacePlan struct {
	remove []left
	finish bool
	status api.NamespaceStatus
}

func (p namespacePlan) String() string {
	var b strings.Builder
	for _, o := range p.remove {
		fmt.Fprintf(&b, "- %s\n", o.ref)
	}
	if p.finish {
		b.WriteString("x the namespace\n")
	}
	if p.status.Message != "" {
		fmt.Fprintf(&b, "= %s\n", p.status.Message)
	}
	return b.String()
}

const maxBlockers = 10

// planNamespace deletes what is left, stage by stage: nothing of a stage is
// asked to go before the stages ahead of it are gone.
func planNamespace(objects []left) (p namespacePlan) {
	if len(objects) == 0 {
		p.finish = true
		return p
	}
	stage := func(o left) int {
		if o.derived {
			return len(stages) + 1
		}
		if i := slices.Index(stages, o.ref.Kind); i >= 0 {
			return i
		}
		return len(stages)
	}
	objects = slices.SortedFunc(slices.Values(objects), func(a, b left) int {
		if d := stage(a) - stage(b); d != 0 {
			return d
		}
		return strings.Compare(a.ref.String(), b.ref.String())
	})
	first := stage(objects[0])
	for _, o := range objects {
		if stage(o) == first && !o.derived && !o.deleting {
			p.remove = append(p.remove, o)
		}
		if len(p.status.Blockers) < maxBlockers {
			p.status.Blockers = append(p.status.Blockers, o.ref.String())
		}
	}
	p.status.Message = fmt.Sprintf("being deleted: %d objects are left, %s first", len(objects), objects[0].ref)
	if len(objects) == 1 {
		p.status.Message = fmt.Sprintf("being deleted: %s is left", objects[0].ref)
	}
	return p
}

// namespaces is the loop that empties namespaces.
type namespaces struct {
	client     *client.Client
	namespaces client.Kind[api.NamespaceSpec, api.NamespaceStatus]
	caches     *reconcile.Caches
	log        hclog.Logger
}

func newNamespaces(cfg Config) *namespaces {
	return &namespaces{client: cfg.Client, namespaces: client.Of(cfg.Client, api.Namespaces), caches: cfg.Caches, log: cfg.Log.Named("namespace")}
}

func (l *namespaces) loop() reconcile.Loop {
	deleting := func(name string) []api.Ref {
		if ns := l.caches.Namespaces.Get("", name); ns == nil || !ns.Meta.Deleting() {
			return nil
		}
		return []api.Ref{api.Namespaces.Ref("", name)}
	}
	return reconcile.Loop{
		Name: "namespace",
		Watch: []reconcile.Source{
			l.caches.Namespaces.Each(),
			l.caches.Services.Refs(func(o *api.Service) []api.Ref { return deleting(o.Meta.Namespace) }),
			l.caches.Apps.Refs(func(o *api.App) []api.Ref { return deleting(o.Meta.Namespace) }),
			l.caches.Pods.Refs(func(o *api.Pod) []api.Ref { return deleting(o.Meta.Namespace) }),
			l.caches.Endpoints.Refs(func(o *api.Endpoints) []api.Ref { return deleting(o.Meta.Namespace) }),
		},
		Reconcile: l.reconcile,
	}
}

// recheck is how often a namespace is looked at that waits for objects of
// kinds that have no cache.
const recheck = 2 * time.Second

func (l *namespaces) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	ns := l.caches.Namespaces.Get("", ref.Name)
	if ns == nil || !ns.Meta.Deleting() {
		return 0, nil
	}
	objects, err := l.left(ctx, ref.Name)
	if err != nil {
		return 0, err
	}
	p := planNamespace(objects)
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	if p.finish {
		err := l.namespaces.Finalize(ctx, "", ref.Name, ns.Meta.UID)
		if err == nil {
			l.log.Info("namespace is gone", "ref", ref)
		}
		if gone(err) {
			err = nil
		}
		return 0, err
	}
	var writes []write
	for _, o := range p.remove {
		writes = append(writes, remove(o.ref, o.uid, false))
	}
	if !reflect.DeepEqual(p.status, ns.Status) {
		o := *ns
		o.Status = p.status
		writes = append(writes, status(api.Namespaces, &o))
	}
	return recheck, batches(ctx, l.client, nil, writes, func(api.Ref, int64) {})
}

// left lists what is in a namespace, of every kind but events: consistently,
// for what is not seen here would be forgotten for good.
func (l *namespaces) left(ctx context.Context, namespace string) (out []left, err error) {
	for _, k := range api.Kinds {
		i := k.Info()
		if i.Scope != api.Namespaced || i.Name == api.EventRings.Name {
			continue
		}
		var list struct {
			Items []struct{ Meta api.Meta }
		}
		if err := l.client.Call(ctx, http.MethodGet, client.Path(i, namespace, ""), nil, nil, &list); err != nil {
			return nil, fmt.Errorf("list %s of %s: %w", i.Plural, namespace, err)
		}
		for _, o := range list.Items {
			out = append(out, left{api.Ref{Kind: i.Name, Namespace: namespace, Name: o.Meta.Name}, o.Meta.UID, i.Derived, o.Meta.Deleting()})
		}
	}
	return out, nil
}
