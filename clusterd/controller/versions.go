package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// An app's pods are made of a template and of versions of configs and secrets. A
// config that is written anew is rolled out like any change; when that fails,
// the app has its old versions back, and so has who reads the config: what it
// declared before is declared again, in the transaction of the rollback.

// contentGrace is how long a rollout waits for a config or secret that does not
// exist: it may be written just now.
const contentGrace = 10 * time.Second

// putBack declares again what a config or secret was.
type putBack struct {
	of, from, to string // config/web, and its versions
	why          string
}

func (p putBack) String() string { return fmt.Sprintf("< %s %s -> %s", p.of, p.from, p.to) }

// lacks returns the cause when what the rollout's pods need is not there.
func (r *rollout) lacks() *api.Cause {
	if r.is.whole() {
		return nil
	}
	if _, c := r.see.contentsOf(r.is.template); c != nil {
		return c
	}
	return &api.Cause{Reason: "deadline", Message: "a config or secret it was waiting for has come"} // and is rolled out next
}

// whole reports whether all that pods of the source need exists.
func (s source) whole() bool {
	return !slices.ContainsFunc(s.template.ContentUses(), func(u api.ContentUse) bool { return s.contents[u.Of] == "" })
}

// waitForContents reports whether the rollout waits for a config or secret,
// and fails it when that has not come in time.
func (r *rollout) waitForContents() bool {
	c := r.lacks()
	if c == nil {
		return false
	}
	r.lack = c
	if left := contentGrace - r.now.Sub(r.status.Rollout.StartedAt); left > 0 {
		r.sooner(left)
		return true
	}
	r.fail(c)
	return true
}

// putBackContents plans to declare again the versions of before that the
// rollout changed, where they are still declared as it had them.
func (r *rollout) putBackContents(failed, healthy *api.Rollout) {
	current, _ := r.see.contentsOf(r.is.template)
	for _, of := range slices.Sorted(maps.Keys(failed.Contents)) {
		from, to := failed.Contents[of], healthy.Contents[of]
		if to == "" || to == from || current[of] != from {
			continue
		}
		r.restore = append(r.restore, putBack{of, from, to, failed.Cause.Message})
	}
}

// afterPutBack are the versions that pods of a template use then.
func (r *rollout) afterPutBack(t api.PodTemplate) map[string]string {
	current, _ := r.see.contentsOf(t)
	current = maps.Clone(current)
	for _, back := range r.restore {
		if current[back.of] == back.from {
			current[back.of] = back.to
		}
	}
	return current
}

// versions finds what configs and secrets of a namespace have now.
func versions(caches *reconcile.Caches, namespace string) func(api.PodTemplate) (map[string]string, *api.Cause) {
	return func(t api.PodTemplate) (map[string]string, *api.Cause) {
		return api.ResolveContents(t, func(of string) (hash string, keys []string) {
			kind, name, _ := strings.Cut(of, "/")
			if kind == "config" {
				if c := caches.Configs.Get(namespace, name); c != nil {
					return api.ConfigHash(of, c.Spec.Data), slices.Collect(maps.Keys(c.Spec.Data))
				}
				return "", nil
			}
			s := caches.Secrets.Get(namespace, name)
			if s == nil {
				return "", nil
			}
			if v := caches.Contents.Get(namespace, api.ContentName(of, s.Spec.Hash)); v != nil {
				keys = v.Spec.Keys
			}
			return s.Spec.Hash, keys
		})
	}
}

// onContent returns the apps that a change of a config or secret may concern.
func (l *apps) onContent(namespace, of string) (refs []api.Ref) {
	for _, a := range l.caches.Apps.By(byContent, namespace, of) {
		refs = append(refs, refOf(api.Apps, a))
	}
	return refs
}

// restoring makes the writes that put versions back, on condition that nobody
// has written another meanwhile.
func (l *apps) restoring(app *api.App, back []putBack) (demand []api.BatchPrecondition, ops []write, err error) {
	for _, p := range back {
		ns := app.Meta.Namespace
		ref := api.ContentRef(ns, p.of)
		v := l.caches.Contents.Get(ns, api.ContentName(p.of, p.to))
		if v == nil {
			return nil, nil, errStale
		}
		st := api.VersionedStatus{Hash: p.to, Keys: v.Spec.Keys,
			Message: fmt.Sprintf("version %s made app %s fail and version %s was put back: %s", p.from, app.Meta.Name, p.to, p.why)}
		if ref.Kind == api.Secrets.Name {
			s := l.caches.Secrets.Get(ns, ref.Name)
			if s == nil || s.Spec.Hash != p.from {
				return nil, nil, errStale
			}
			o := *s
			o.Spec, o.Effective = api.SecretSpec{Hash: p.to, Generate: v.Spec.Generate}, api.SecretSpec{}
			o.Status = st
			o.Status.UsedBy = s.Status.UsedBy
			demand = append(demand, api.BatchPrecondition{Ref: ref, UID: s.Meta.UID, Generation: s.Meta.Generation})
			ops = append(ops, put(api.Secrets, &o), status(api.Secrets, &o))
			continue
		}
		c := l.caches.Configs.Get(ns, ref.Name)
		if c == nil || api.ConfigHash(p.of, c.Spec.Data) != p.from {
			return nil, nil, errStale
		}
		o := *c
		o.Spec, o.Effective, o.Status = api.ConfigSpec{Data: v.Spec.Data}, api.ConfigSpec{}, st
		o.Status.UsedBy = c.Status.UsedBy
		demand = append(demand, api.BatchPrecondition{Ref: ref, UID: c.Meta.UID, Generation: c.Meta.Generation})
		ops = append(ops, put(api.Configs, &o), status(api.Configs, &o))
	}
	return demand, ops, nil
}

// tellBack records what was put back with the configs and secrets themselves.
func (l *apps) tellBack(ctx context.Context, app *api.App, back []putBack) {
	for _, p := range back {
		_ = l.client.Record(ctx, api.ContentRef(app.Meta.Namespace, p.of), api.Event{Warning: true, Reason: "rolled_back", By: "app",
			Message: fmt.Sprintf("version %s made app %s fail and version %s is put back: %s", p.from, app.Meta.Name, p.to, p.why)})
	}
}
