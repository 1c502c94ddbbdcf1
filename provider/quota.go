package provider

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// The cluster judges each planned write alone, by the quota it has now. That is
// blind to what the same plan adds elsewhere, and to a namespace that the plan
// makes or changes. So a run sums what its plan asks of each namespace, and says
// where the sum is too much: with the resource by which it becomes so.

// space is a namespace as this run finds or plans it.
type space struct {
	planned  bool // the run makes or changes it
	fresh    bool // there is nothing in it yet
	quota    api.Quota
	defaults *api.Defaults
	used     api.Charge // before the plan

	mu   sync.Mutex
	adds map[string]api.Charge // by what the plan does to each object
}

// space returns a namespace that exists, or that this run plans; nil otherwise.
func (c *cluster) space(ctx context.Context, name string) (*space, error) {
	if s, ok := c.spaces.Load(name); ok {
		return s.(*space), nil
	}
	n, err := client.Of(c.client, api.Namespaces).Get(ctx, "", name)
	switch {
	case api.Is(err, api.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	s, _ := c.spaces.LoadOrStore(name, newSpace(n.Spec, n.Status.Used.Charge()))
	return s.(*space), nil
}

func newSpace(spec api.NamespaceSpec, used api.Charge) *space {
	return &space{quota: api.Deref(spec.Quota), defaults: spec.Defaults, used: used, adds: map[string]api.Charge{}}
}

// planNamespace notes that this run makes or changes a namespace.
func (c *cluster) planNamespace(ctx context.Context, name string, spec api.NamespaceSpec, fresh bool) {
	var used api.Charge
	if !fresh {
		if n, err := shelfOf(c, api.Namespaces, "").get(ctx, name); err == nil {
			used = n.Status.Used.Charge()
		}
	}
	s := newSpace(spec, used)
	s.planned, s.fresh = true, fresh
	c.spaces.Store(name, s)
}

// add notes what the plan of an object adds, and returns what all of it does to
// the quota.
func (s *space) add(object string, c api.Charge) []api.QuotaEffect {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.adds, object)
	before := s.used
	for _, name := range slices.Sorted(maps.Keys(s.adds)) {
		before = before.Plus(s.adds[name])
	}
	s.adds[object] = c
	return s.quota.Effect(before, before.Plus(c))
}

// charge returns what a spec takes of a quota, and which of its fields asks for
// it; nil if it takes nothing.
func charge(spec any, d *api.Defaults) (api.Charge, func(resource string) string) {
	switch s := spec.(type) {
	case *api.AppSpec:
		return api.Clone(*s).In(d).WithDefaults().Charge(), s.QuotaField
	case *api.JobSpec:
		return api.Clone(*s).In(d).WithDefaults().Charge(), s.QuotaField
	case *api.VolumeSpec:
		return s.WithDefaults().Charge(), s.QuotaField
	}
	return api.Charge{}, nil
}

// budget warns where a plan asks for more than a quota allows. What is not known
// yet is not guessed: where that matters, the object is left out of the sum.
func (r *kindResource[O]) budget(ctx context.Context, in *space, o O, unknown []path.Path, diags *diag.Diagnostics) {
	meta := o.GetMeta()
	is, field := charge(o.GetSpec(), in.defaults)
	if field == nil || in.quota == (api.Quota{}) || slices.ContainsFunc(unknown, counts) {
		return
	}
	if !in.fresh { // Terraform plans the replacement of what is there as if it was not
		switch live, err := shelfOf(r.cluster, r.kind, meta.Namespace).get(ctx, meta.Name); {
		case err == nil:
			was, _ := charge(live.GetEffective(), nil)
			is = is.Minus(was)
		case !api.Is(err, api.NotFound):
			return
		}
	}
	for _, e := range in.add(r.kind.Name+" "+meta.Name, is) {
		if e.Exceeded {
			diags.AddAttributeWarning(visible(r.attributePath(field(e.Resource))), "This plan asks for more than the quota of namespace "+meta.Namespace,
				"With this, "+e.Resource+" would be "+e.After+" of "+e.Limit+", and the cluster refuses what comes last: ask for less, or raise quota."+e.Resource+" of the namespace.")
		}
	}
}

// counts reports whether a place says how much of a quota is asked for.
func counts(p path.Path) bool {
	top, _ := p.Steps()[0].(path.PathStepAttributeName)
	return slices.Contains([]string{"replicas", "scale", "per_node", "completions", "parallelism", "cpu", "memory", "sidecars", "init", "size"}, string(top))
}
