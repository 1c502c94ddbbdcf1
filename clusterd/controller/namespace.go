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

// stages is the order in which a namespace empties: first what runs, then what
// leads to it, then all other declared objects, such as what pods keep and read.
// Derived objects follow those they were made for; the server removes the events.
var stages = [][]string{{api.Apps.Name, api.Jobs.Name}, {api.Services.Name}}

// left is one object that is still in a namespace.
type left struct {
	ref      api.Ref
	uid      string
	derived  bool
	deleting bool
	// protected: its author wants it kept.
	protected bool
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
// asked to go before the stages ahead of it are gone, and nothing at all while
// something is protected.
func planNamespace(objects []left) (p namespacePlan) {
	if len(objects) == 0 {
		p.finish = true
		return p
	}
	stage := func(o left) int {
		if o.derived {
			return len(stages) + 1
		}
		if i := slices.IndexFunc(stages, func(kinds []string) bool { return slices.Contains(kinds, o.ref.Kind) }); i >= 0 {
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
	if kept := slices.DeleteFunc(slices.Clone(objects), func(o left) bool { return !o.protected || o.deleting }); len(kept) > 0 {
		for _, o := range kept[:min(len(kept), maxBlockers)] {
			p.status.Blockers = append(p.status.Blockers, o.ref.String())
		}
		p.status.Message = fmt.Sprintf("to be deleted: waits, with all that is in it, for deletion_protection = false on %s", strings.Join(p.status.Blockers, ", "))
		return p
	}
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

// namespaces is the loop that says what namespaces use, and empties those that
// are to go.
type namespaces struct {
	client     *client.Client
	namespaces *client.Kind[*api.Namespace]
	caches     *reconcile.Caches
	log        hclog.Logger

	told map[string]time.Time // when what a namespace uses was last written
}

func newNamespaces(cfg Config) *namespaces {
	return &namespaces{client: cfg.Client, namespaces: client.Of(cfg.Client, api.Namespaces), caches: cfg.Caches, log: cfg.Log.Named("namespace"), told: map[string]time.Time{}}
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
			l.caches.Apps.Refs(func(o *api.App) []api.Ref { return []api.Ref{api.Namespaces.Ref("", o.Meta.Namespace)} }),
			l.caches.Jobs.Refs(func(o *api.Job) []api.Ref { return []api.Ref{api.Namespaces.Ref("", o.Meta.Namespace)} }),
			l.caches.Pods.Refs(func(o *api.Pod) []api.Ref {
				if l.elastic(o) {
					return []api.Ref{api.Namespaces.Ref("", o.Meta.Namespace)}
				}
				return deleting(o.Meta.Namespace)
			}),
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
	if ns == nil {
		delete(l.told, ref.Name)
		return 0, nil
	}
	if !ns.Meta.Deleting() {
		return l.account(ctx, ns)
	}
	objects, err := l.left(ctx, ref.Name)
	if err != nil {
		return 0, err
	}
	p := planNamespace(objects)
	p.status.Used = ns.Status.Used
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
			Items []struct {
				Meta      api.Meta
				Effective struct {
					DeletionProtection bool `json:"deletion_protection"`
				}
			}
		}
		if err := l.client.Call(ctx, http.MethodGet, client.Path(i, namespace, ""), nil, nil, &list); err != nil {
			return nil, fmt.Errorf("list %s of %s: %w", i.Plural, namespace, err)
		}
		for _, o := range list.Items {
			out = append(out, left{api.Ref{Kind: i.Name, Namespace: namespace, Name: o.Meta.Name}, o.Meta.UID, i.Derived, o.Meta.Deleting(), o.Effective.DeletionProtection})
		}
	}
	return out, nil
}
