package provider

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// ModifyPlan fills in what follows from the plan, and asks the cluster what it
// would say to it. It runs again during apply and must then say the same of
// everything that was known.
func (r *kindResource[O]) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	plan, prior, config := valuesOf(req.Plan.Raw), valuesOf(req.State.Raw), valuesOf(req.Config.Raw)
	if plan == nil || r.cluster == nil {
		return
	}
	r.place(plan, prior, config)
	if prior != nil {
		keepAmounts(r.spec(), plan, prior)
	}
	if r.hidden != nil {
		r.hidden.plan(ctx, r, plan, prior, config, &resp.Diagnostics)
	}
	o, rd := r.object(plan)
	r.foresee(plan, prior, o)
	resp.Plan.Raw = tftypes.NewValue(resp.Plan.Raw.Type(), map[string]tftypes.Value(plan))
	if prior != nil && r.namespaced() && !plan["namespace"].Equal(prior["namespace"]) {
		resp.RequiresReplace = append(resp.RequiresReplace, path.Root("namespace"))
	}
	if r.cluster.client == nil || prior != nil && resp.Plan.Raw.Equal(req.State.Raw) {
		return
	}
	if spec, ok := o.GetSpec().(*api.NamespaceSpec); ok {
		r.cluster.planNamespace(ctx, o.GetMeta().Name, *spec, prior == nil)
	}
	if prior == nil {
		r.cluster.makes.Store(r.kind.Ref(o.GetMeta().Namespace, o.GetMeta().Name), true)
	}
	r.consult(ctx, o, rd.unknown, &resp.Diagnostics)
}

// place puts a resource that names no namespace into the provider's.
func (r *kindResource[O]) place(plan, prior, config values) {
	if !r.namespaced() || !config["namespace"].IsNull() {
		return
	}
	switch {
	case r.cluster.namespace != "":
		plan["namespace"] = text(r.cluster.namespace)
	case prior != nil:
		plan["namespace"] = prior["namespace"]
	default:
		plan["namespace"] = tftypes.NewValue(tftypes.String, tftypes.UnknownValue)
	}
}

// foresee plans the id and the facts: what follows from the plan is known, what
// nothing in it changes stays, the rest is known after apply.
func (r *kindResource[O]) foresee(plan, prior values, o O) {
	if o.GetMeta().Name != "" && (o.GetMeta().Namespace != "" || !r.namespaced()) {
		plan["id"] = text(id(o.GetMeta()))
	}
	was, _ := r.object(prior)
	for name, f := range r.facts {
		now := f.of(o)
		switch {
		case now != "":
			plan[name] = text(now)
		case prior != nil && id(was.GetMeta()) == id(o.GetMeta()) && f.of(was) == "" && (f.by == "" || plan[f.by].IsKnown()):
			plan[name] = prior[name]
		default:
			plan[name] = tftypes.NewValue(tftypes.String, tftypes.UnknownValue)
		}
	}
}

// consult asks the cluster about a planned write. It refuses a plan only for
// what no other part of the plan can mend.
func (r *kindResource[O]) consult(ctx context.Context, o O, unknown []path.Path, diags *diag.Diagnostics) {
	var in *space
	if r.namespaced() && o.GetMeta().Namespace != "" {
		err := r.cluster.ask(ctx, func(ctx context.Context) (err error) {
			in, err = r.cluster.space(ctx, o.GetMeta().Namespace)
			return err
		})
		switch {
		case err != nil:
			r.addPlanError(diags, err)
			return
		case in == nil:
			diags.AddAttributeWarning(path.Root("namespace"), "Namespace "+o.GetMeta().Namespace+" does not exist yet",
				"Apply fails unless it is made before. A clusterd_namespace in this configuration is, once this refers to it: namespace = clusterd_namespace."+
					o.GetMeta().Namespace+".name. Its quota, defaults and powers were not looked at.")
			return
		}
	}
	before := len(*diags)
	switch {
	case in != nil && in.planned: // the cluster cannot judge what goes into a namespace it has not got
	case len(unknown) > 0:
	case r.planned:
		r.foretell(ctx, o, diags)
	default:
		if err := r.cluster.ask(ctx, func(ctx context.Context) error { return r.dryRun(ctx, o) }); err != nil {
			r.addPlanError(diags, err)
		}
	}
	if in != nil && !refused((*diags)[before:]) {
		r.budget(ctx, in, o, unknown, diags)
	}
}

// foretell asks the cluster what a write would do, and tells what is worth
// knowing before it where it was written.
func (r *kindResource[O]) foretell(ctx context.Context, o O, diags *diag.Diagnostics) {
	var p api.WritePlan
	err := r.cluster.ask(ctx, func(ctx context.Context) error {
		p = api.WritePlan{}
		return r.cluster.client.Call(ctx, http.MethodPost, client.Path(r.kind.Info(), o.GetMeta().Namespace, o.GetMeta().Name)+"/plan", nil, o, &p)
	})
	switch {
	case err != nil:
		r.addPlanError(diags, err)
		return
	case len(p.Errors) > 0:
		ref := r.kind.Ref(o.GetMeta().Namespace, o.GetMeta().Name)
		r.addPlanError(diags, &api.Error{Code: api.Invalid, Message: "is not valid", Ref: &ref, Fields: p.Errors})
	}
	for _, w := range p.Warnings {
		if _, soon := r.cluster.makes.Load(w.Lacks); soon {
			continue
		}
		if w.Lacks.Name != "" {
			w.Message += " If this configuration makes it, refer to it there, so that it is made first: clusterd_" + strings.ToLower(w.Lacks.Kind) + ".NAME.name."
		}
		if w.Path == "" {
			diags.AddWarning(w.Summary, sentence(w.Message))
		} else {
			diags.AddAttributeWarning(visible(r.attributePath(w.Path)), w.Summary, sentence(w.Message))
		}
	}
}

// dryRun writes an object without effect.
func (r *kindResource[O]) dryRun(ctx context.Context, o O) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	resp, err := r.cluster.client.Do(ctx, client.Request{
		Method: http.MethodPut, Path: client.Path(r.kind.Info(), o.GetMeta().Namespace, o.GetMeta().Name),
		Query: url.Values{"dry_run": {"true"}}, Body: body,
	})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// refusedNow heads what another part of the plan, or somebody else, may mend.
const refusedNow = "The cluster would refuse this now"

// refused reports whether any of diags says that the cluster would not take it.
func refused(diags diag.Diagnostics) bool {
	return diags.HasError() || slices.ContainsFunc(diags, func(d diag.Diagnostic) bool { return d.Summary() == refusedNow })
}

// addPlanError reports what a check of the plan met: refusals that will not
// change are errors, the rest may be different by the time of apply.
func (r *kindResource[O]) addPlanError(diags *diag.Diagnostics, err error) {
	e, ok := errors.AsType[*api.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
	case ok && (e.Code == api.Invalid || e.Code == api.Denied || e.Code == api.Unauthenticated || e.Code == api.BadRequest):
		r.addError(diags, "The cluster refuses this", err)
	case ok && e.Code == api.Unready:
		diags.AddWarning("The cluster did not check this plan", sentence(err.Error())+" The plan stands; apply needs the cluster.")
	case ok && len(e.Fields) > 0:
		for _, f := range e.Fields {
			diags.AddAttributeWarning(visible(r.attributePath(f.Path)), refusedNow, sentence(e.At(f)))
		}
	default:
		diags.AddWarning(refusedNow, sentence(err.Error()))
	}
}
