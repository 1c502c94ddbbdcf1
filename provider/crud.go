package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// How long apply waits where a resource has no timeouts, and how long for the
// answer to a write.
const (
	rolloutTimeout = 30 * time.Minute
	deleteTimeout  = 10 * time.Minute
	writeTimeout   = 20 * time.Second
)

// Create makes the object and follows it. The object of a failed create stays,
// with its logs, and so does its state: the next plan replaces it.
func (r *kindResource[O]) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	plan := valuesOf(req.Plan.Raw)
	o, ok := r.declared(plan, nil, valuesOf(req.Config.Raw), &resp.Diagnostics)
	if !ok {
		return
	}
	made, err := r.make(ctx, o, plan)
	adopted := api.Is(err, api.Conflict) && plan.flag("adopt", false)
	if adopted {
		made, err = r.adopt(ctx, o)
	}
	if err != nil {
		r.addCreateError(ctx, o, err, &resp.Diagnostics)
		return
	}
	r.written(ctx, made, "created")
	r.doubt(ctx, made, &resp.Diagnostics)
	resp.State.Raw = r.state(made, plan, resp.State.Raw.Type())
	r.identify(ctx, resp.Identity, made.GetMeta(), &resp.Diagnostics)
	if r.follow == nil || !plan.flag("wait", true) {
		return
	}
	limited, done := context.WithTimeout(ctx, plan.timeout("create", rolloutTimeout))
	defer done()
	fail := r.follow(limited, r, made)
	if fail == nil {
		return
	}
	fail.add(&resp.Diagnostics)
	if fail.waits {
		return
	}
	onFailure, _ := plan.text("on_create_failure")
	switch {
	case adopted:
		resp.State.RemoveResource(ctx) // it served before, and must not be replaced
	case onFailure == "delete" && ctx.Err() == nil:
		ctx, done := context.WithTimeout(ctx, plan.timeout("delete", deleteTimeout))
		defer done()
		if err := r.remove(ctx, made.GetMeta().Namespace, made.GetMeta().Name); err != nil {
			r.addError(&resp.Diagnostics, "Cannot delete "+r.noun(made.GetMeta())+" after its failure", err)
			return
		}
		resp.State.RemoveResource(ctx)
	}
}

func (r *kindResource[O]) doubt(ctx context.Context, o O, diags *diag.Diagnostics) {
	if r.doubts == nil {
		return
	}
	if f := r.doubts(ctx, r, o); f != nil {
		diags.AddWarning(f.summary, f.detail)
	}
}

// declared returns the object a plan declares. Keys that do not exist in what
// only apply knows are found here.
func (r *kindResource[O]) declared(plan, prior, config values, diags *diag.Diagnostics) (O, bool) {
	o, rd := r.object(plan)
	if r.hidden != nil {
		r.hidden.complete(o, plan, prior, config)
	}
	for _, f := range rd.faults {
		addFault(f, diags)
	}
	return o, r.reachable(diags) && len(rd.faults) == 0
}

// make creates the object, or obtains it.
func (r *kindResource[O]) make(ctx context.Context, o O, plan values) (O, error) {
	if r.obtain != nil {
		ctx, done := context.WithTimeout(ctx, plan.timeout("create", rolloutTimeout))
		defer done()
		return r.obtain(ctx, r, o)
	}
	return finish(ctx, func(ctx context.Context) (O, error) { return r.objects.Create(ctx, o) })
}

// adopt takes over the object of o's name.
func (r *kindResource[O]) adopt(ctx context.Context, o O) (O, error) {
	now, err := r.objects.Get(ctx, o.GetMeta().Namespace, o.GetMeta().Name)
	if err != nil {
		return now, err
	}
	return finish(ctx, func(ctx context.Context) (O, error) {
		return r.objects.Replace(ctx, o, now.GetMeta().Generation)
	})
}

// finish makes a write whose answer is seen even if Terraform is interrupted
// meanwhile: or the cluster might have an object that no state knows.
func finish[O any](ctx context.Context, write func(context.Context) (O, error)) (O, error) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer done()
	return write(ctx)
}

// addCreateError says why an object could not be made. One that exists already
// is shown with the block that imports it.
func (r *kindResource[O]) addCreateError(ctx context.Context, o O, err error, diags *diag.Diagnostics) {
	summary := "Cannot create " + r.noun(o.GetMeta())
	if api.Is(err, api.Conflict) {
		now, e := r.objects.Get(ctx, o.GetMeta().Namespace, o.GetMeta().Name)
		if e == nil && !now.GetMeta().Deleting() {
			diags.AddAttributeError(path.Root("name"), capital(r.noun(o.GetMeta()))+" exists already", clash(strings.ToLower(r.kind.Name), now.GetMeta()))
			return
		}
	}
	r.addError(diags, summary, err)
}

// clash says whose an object is, and how to manage it here.
func clash(kind string, m *api.Meta) string {
	return fmt.Sprintf(`It was last written by %s at %s, and was not touched. To manage it with this resource, import it:

  import {
    to = clusterd_%s.NAME # as this resource is called here
    id = %q
  }

Or set adopt = true to take it over as it is declared here, or choose another name.`,
		m.WrittenBy, stamp(m.WrittenAt), kind, id(m))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

// Read refreshes the state: what is declared, and nothing that changes by itself.
func (r *kindResource[O]) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	prior := valuesOf(req.State.Raw)
	was, _ := r.object(prior)
	r.identify(ctx, resp.Identity, was.GetMeta(), &resp.Diagnostics)
	if r.cluster == nil || r.cluster.client == nil {
		return // the state stands until the cluster is known
	}
	o, err := shelfOf(r.cluster, r.kind, was.GetMeta().Namespace).get(ctx, was.GetMeta().Name)
	switch {
	case api.Is(err, api.NotFound):
		resp.State.RemoveResource(ctx)
		return
	case err != nil:
		r.addError(&resp.Diagnostics, "Cannot read "+r.noun(was.GetMeta()), err)
		return
	}
	resp.State.Raw = r.state(o, prior, req.State.Raw.Type())
	if r.ails != nil {
		if f := r.ails(o); f != nil {
			resp.Diagnostics.AddWarning(f.summary, f.detail)
		}
	}
}

// Update replaces the spec and follows the change. One that the cluster rolled
// back leaves the prior state, so that the next plan shows it again.
func (r *kindResource[O]) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	plan, prior := valuesOf(req.Plan.Raw), valuesOf(req.State.Raw)
	o, ok := r.declared(plan, prior, valuesOf(req.Config.Raw), &resp.Diagnostics)
	if !ok {
		return
	}
	was, _ := r.object(prior)
	r.identify(ctx, resp.Identity, o.GetMeta(), &resp.Diagnostics)
	now, err := r.replace(ctx, o, was)
	if err != nil {
		r.addError(&resp.Diagnostics, "Cannot update "+r.noun(o.GetMeta()), err)
		return
	}
	r.written(ctx, now, "updated")
	r.doubt(ctx, now, &resp.Diagnostics)
	if r.follow != nil && plan.flag("wait", true) && !sameSpec(o, was) {
		ctx, done := context.WithTimeout(ctx, plan.timeout("update", rolloutTimeout))
		defer done()
		if fail := r.follow(ctx, r, now); fail != nil {
			fail.add(&resp.Diagnostics)
			if fail.reverted {
				return
			}
		}
	}
	resp.State.Raw = r.state(now, plan, resp.State.Raw.Type())
}

// replace writes o if the object's declaration still is what the plan was made
// from. Generations are not compared with the plan's: an automatic rollback
// raises them and changes nothing for the author.
func (r *kindResource[O]) replace(ctx context.Context, o, was O) (next O, err error) {
	for {
		now, err := r.objects.Get(ctx, o.GetMeta().Namespace, o.GetMeta().Name)
		switch {
		case api.Is(err, api.NotFound):
			return next, errors.New("it was deleted outside of this plan: plan again")
		case err != nil:
			return next, err
		case now.GetMeta().Deleting():
			return next, fmt.Errorf("it is being deleted since %s: wait until it is gone, and plan again", stamp(*now.GetMeta().DeletedAt))
		case sameSpec(now, o) && maps.Equal(now.GetMeta().Labels, o.GetMeta().Labels):
			return now, nil
		case !sameSpec(now, was) || !maps.Equal(now.GetMeta().Labels, was.GetMeta().Labels):
			return next, fmt.Errorf("changed outside of this plan by %s at %s: plan again, to see that change before it is overwritten", now.GetMeta().WrittenBy, stamp(now.GetMeta().WrittenAt))
		}
		next, err = finish(ctx, func(ctx context.Context) (O, error) {
			return r.objects.Replace(ctx, o, now.GetMeta().Generation)
		})
		if !api.Is(err, api.Precondition) {
			return next, err
		}
	}
}

// sameSpec reports whether two objects declare the same.
func sameSpec[O api.Any](a, b O) bool {
	x, err1 := json.Marshal(a.GetSpec())
	y, err2 := json.Marshal(b.GetSpec())
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// Delete asks for the deletion, and returns when nothing of the object is left.
func (r *kindResource[O]) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	state := valuesOf(req.State.Raw)
	o, _ := r.object(state)
	if !r.reachable(&resp.Diagnostics) {
		return
	}
	ctx, done := context.WithTimeout(ctx, state.timeout("delete", deleteTimeout))
	defer done()
	if err := r.remove(ctx, o.GetMeta().Namespace, o.GetMeta().Name); err != nil {
		r.addError(&resp.Diagnostics, "Cannot delete "+r.noun(o.GetMeta()), err)
	}
}

// remove deletes an object and waits until it is gone.
func (r *kindResource[O]) remove(ctx context.Context, namespace, name string) error {
	o, err := r.objects.Get(ctx, namespace, name)
	if api.Is(err, api.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.retire != nil {
		if err := r.retire(ctx, r, o); err != nil {
			return err
		}
	}
	if !r.namespaced() {
		r.cluster.spaces.Delete(name)
	}
	shelfOf(r.cluster, r.kind, namespace).wrote(name)
	if err := r.objects.Delete(ctx, namespace, name, o.GetMeta().UID); err != nil && !api.Is(err, api.NotFound) {
		return err
	}
	if !r.kind.TwoStep {
		return nil
	}
	last := o
	gone := false
	err = r.watch(ctx, o, func(now O) bool {
		gone = now.Absent() || now.GetMeta().UID != o.GetMeta().UID
		if !gone {
			last = now
		}
		return gone
	})
	if gone {
		return nil
	}
	why := "the cluster has not said what it waits for"
	if r.blocked != nil {
		if b := r.blocked(last); b != "" {
			why = b
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it is marked for deletion and still there: %s; apply again to go on waiting, or raise timeouts.delete", why)
	}
	return fmt.Errorf("interrupted; the cluster goes on deleting it: %s", why)
}

// identify sets the identity, which every answer that has a state must carry.
func (r *kindResource[O]) identify(ctx context.Context, identity *tfsdk.ResourceIdentity, m *api.Meta, diags *diag.Diagnostics) {
	if identity == nil {
		return
	}
	diags.Append(identity.SetAttribute(ctx, path.Root("name"), m.Name)...)
	if r.namespaced() {
		diags.Append(identity.SetAttribute(ctx, path.Root("namespace"), m.Namespace)...)
	}
}

// written makes later reads of an object fresh, and says so in the log.
func (r *kindResource[O]) written(ctx context.Context, o O, what string) {
	shelfOf(r.cluster, r.kind, o.GetMeta().Namespace).wrote(o.GetMeta().Name)
	tflog.Info(ctx, r.noun(o.GetMeta())+" "+what, map[string]any{"generation": o.GetMeta().Generation, "revision": o.GetMeta().Revision})
}

// reachable reports whether the provider knows its cluster, as it must to apply.
func (r *kindResource[O]) reachable(diags *diag.Diagnostics) bool {
	if r.cluster == nil || r.cluster.client == nil {
		diags.AddError("The cluster is not known", "Address, token or CA certificate in the provider's block are still not known during apply. Make them refer to something that is created before.")
		return false
	}
	return true
}
