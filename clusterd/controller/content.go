package controller

import (
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

// A version of a config or secret is kept while it is the current one, while a
// pod that has not ended uses it, and while an app may roll back to it. What is
// needed is read from caches, which lag: nothing is removed within a moment of a
// change of what is current, and nothing at all unless the config or secret is
// still as the cache has it.
const versionRest = time.Minute

// contentPlan is what to do next about the versions of one config or secret.
type contentPlan struct {
	remove []*api.Content
	status api.VersionedStatus
	again  time.Duration
}

func (p contentPlan) String() string {
	var b strings.Builder
	for _, c := range p.remove {
		fmt.Fprintf(&b, "- %s %s\n", c.Spec.Of, c.Spec.Hash)
	}
	if st := p.status; st.Hash != "" {
		fmt.Fprintf(&b, "= %s keys=%s used_by=%s\n", st.Hash, strings.Join(st.Keys, ","), strings.Join(st.UsedBy, ","))
		if st.Message != "" {
			fmt.Fprintf(&b, "= %s\n", st.Message)
		}
	}
	if p.again > 0 {
		fmt.Fprintf(&b, "again %s\n", p.again)
	}
	return b.String()
}

// versioned is one config or secret, what is kept of it and who needs it.
type versioned struct {
	Of        string
	Hash      string    // current version; "" when the object is gone
	WrittenAt time.Time // when that became so
	Status    api.VersionedStatus
	Versions  []*api.Content
	Needed    map[string]bool // versions, by pods and rollouts
	UsedBy    []string
	So        api.BatchPrecondition // what the writes of the plan demand
}

// planContent removes versions that nobody needs.
func planContent(v versioned, now time.Time) (p contentPlan) {
	if v.Hash != "" {
		p.status = api.VersionedStatus{Hash: v.Hash, UsedBy: v.UsedBy}
		if v.Status.Hash == v.Hash {
			p.status.Message = v.Status.Message // of a rollback to it
		}
	}
	for _, c := range v.Versions {
		if c.Spec.Hash == v.Hash {
			p.status.Keys = c.Spec.Keys
			continue
		}
		if v.Needed[c.Spec.Hash] {
			continue
		}
		changed := c.Meta.CreatedAt
		if v.WrittenAt.After(changed) {
			changed = v.WrittenAt
		}
		if left := versionRest - now.Sub(changed); left > 0 && v.Hash != "" {
			p.again = sooner(p.again, left)
			continue
		}
		p.remove = append(p.remove, c)
	}
	return p
}

// byContent is the index of apps and pods by the configs and secrets that they
// use: one that changes must not have everything looked through.
const byContent = "content"

// contents is the loop that keeps and removes versions.
type contents struct {
	client  *client.Client
	configs *client.Kind[*api.Config]
	secrets *client.Kind[*api.Secret]
	caches  *reconcile.Caches
	log     hclog.Logger
}

func newContents(cfg Config) *contents {
	cfg.Caches.Apps.Index(byContent, func(a *api.App) []string { return slices.Collect(maps.Keys(usedBy(a))) })
	cfg.Caches.Pods.Index(byContent, func(p *api.Pod) []string { return slices.Collect(maps.Keys(p.Spec.Contents)) })
	return &contents{client: cfg.Client, configs: client.Of(cfg.Client, api.Configs), secrets: client.Of(cfg.Client, api.Secrets),
		caches: cfg.Caches, log: cfg.Log.Named("content")}
}

func (l *contents) loop() reconcile.Loop {
	return reconcile.Loop{
		Name: "content",
		Watch: []reconcile.Source{
			l.caches.Configs.Each(),
			l.caches.Secrets.Each(),
			l.caches.Contents.Refs(func(c *api.Content) []api.Ref { return []api.Ref{api.ContentRef(c.Meta.Namespace, c.Spec.Of)} }),
			l.caches.Pods.Refs(func(p *api.Pod) (refs []api.Ref) {
				for of := range p.Spec.Contents {
					refs = append(refs, api.ContentRef(p.Meta.Namespace, of))
				}
				return refs
			}),
			l.caches.Apps.Refs(func(a *api.App) (refs []api.Ref) {
				for of := range usedBy(a) {
					refs = append(refs, api.ContentRef(a.Meta.Namespace, of))
				}
				return refs
			}),
		},
		Reconcile: l.reconcile,
	}
}

// usedBy lists the configs and secrets that an app is declared with, or that one
// of its rollouts had, with the versions of those.
func usedBy(a *api.App) map[string][]string {
	used := map[string][]string{}
	for _, u := range a.Effective.Template().ContentUses() {
		used[u.Of] = nil
	}
	for _, r := range append([]api.Rollout{a.Status.Rollout}, a.Status.History...) {
		for of, hash := range r.Contents {
			used[of] = append(used[of], hash)
		}
	}
	return used
}

// gather collects what the plan is made from; nil when nothing is left of it.
func (l *contents) gather(ref api.Ref) *versioned {
	v := versioned{Of: strings.ToLower(ref.Kind) + "/" + ref.Name, Needed: map[string]bool{}, So: api.BatchPrecondition{Ref: ref, Absent: true}}
	if ref.Kind == api.Secrets.Name {
		if s := l.caches.Secrets.Get(ref.Namespace, ref.Name); s != nil {
			v.Hash, v.WrittenAt, v.Status = s.Spec.Hash, s.Meta.WrittenAt, s.Status
			v.So = api.BatchPrecondition{Ref: ref, UID: s.Meta.UID, Generation: s.Meta.Generation}
		}
	} else if c := l.caches.Configs.Get(ref.Namespace, ref.Name); c != nil {
		v.Hash, v.WrittenAt, v.Status = api.ConfigHash(v.Of, c.Spec.Data), c.Meta.WrittenAt, c.Status
		v.So = api.BatchPrecondition{Ref: ref, UID: c.Meta.UID, Generation: c.Meta.Generation}
	}
	v.Versions = l.caches.Contents.By("of", ref.Namespace, v.Of)
	if v.Hash == "" && len(v.Versions) == 0 {
		return nil
	}
	for _, a := range l.caches.Apps.By(byContent, ref.Namespace, v.Of) {
		for _, hash := range usedBy(a)[v.Of] {
			v.Needed[hash] = true
		}
		v.UsedBy = append(v.UsedBy, "app/"+a.Meta.Name)
	}
	for p := range l.caches.Pods.Where(byContent, v.Of) {
		if hash := p.Spec.Contents[v.Of]; p.Meta.Namespace == ref.Namespace && hash != "" && !p.Status.Phase.Ended() {
			v.Needed[hash] = true
			if p.Spec.Job != "" {
				v.UsedBy = append(v.UsedBy, "job/"+p.Spec.Job)
			}
		}
	}
	slices.Sort(v.UsedBy)
	v.UsedBy = slices.Compact(v.UsedBy)
	return &v
}

func (l *contents) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	v := l.gather(ref)
	if v == nil {
		return 0, nil
	}
	p := planContent(*v, api.Now())
	var writes []write
	for _, c := range p.remove {
		writes = append(writes, remove(c.Ref(), c.Meta.UID, false))
	}
	if v.Hash != "" && !reflect.DeepEqual(p.status, v.Status) {
		writes = append(writes, l.status(ref, p.status))
	}
	if len(writes) == 0 {
		return p.again, nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	return p.again, batches(ctx, l.client, []api.BatchPrecondition{v.So}, writes, func(api.Ref, int64) {})
}

func (l *contents) status(ref api.Ref, st api.VersionedStatus) write {
	if ref.Kind == api.Secrets.Name {
		o := *l.caches.Secrets.Get(ref.Namespace, ref.Name)
		o.Status = st
		return status(api.Secrets, &o)
	}
	o := *l.caches.Configs.Get(ref.Namespace, ref.Name)
	o.Status = st
	return status(api.Configs, &o)
}
