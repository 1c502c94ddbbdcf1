package provider

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/identityschema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// kindResource is the resource of every kind. The attributes are the kind's
// spec; a kind adds only what Terraform needs beyond it.
type kindResource[S api.Spec[S], T any] struct {
	kind api.Kind[S, T]
	// options are attributes about how to apply; the cluster never sees them.
	options map[string]schema.Attribute
	// facts are attributes the cluster decides.
	facts map[string]fact[S, T]
	// needs says which other fields the validation of a field looks at, by
	// shape: while those are not known, the field is not judged.
	needs map[string][]string
	// check adds what validation of the options finds.
	check func(values, *diag.Diagnostics)
	// follow waits until a written object is what was asked for.
	follow func(context.Context, *kindResource[S, T], *api.Object[S, T]) *failure
	// blocked says what the deletion of an object waits for.
	blocked func(*api.Object[S, T]) string

	cluster *cluster
	objects client.Kind[S, T]
}

// fact is one attribute the cluster decides. of returns "" until it is known;
// of an object that is only planned it returns what follows from the plan.
type fact[S api.Spec[S], T any] struct {
	doc string
	of  func(*api.Object[S, T]) string
}

func (r *kindResource[S, T]) namespaced() bool { return r.kind.Scope == api.Namespaced }

// noun is how messages call an object: app shop/web.
func (r *kindResource[S, T]) noun(m *api.Meta) string {
	return strings.ToLower(r.kind.Name) + " " + id(m)
}

func id(m *api.Meta) string {
	if m.Namespace == "" {
		return m.Name
	}
	return m.Namespace + "/" + m.Name
}

// Metadata names the resource: clusterd_app.
func (r *kindResource[S, T]) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + strings.ToLower(r.kind.Name)
}

// Schema says the kind's spec, its names, and how to apply it.
func (r *kindResource[S, T]) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	keep := []planmodifier.String{stringplanmodifier.UseStateForUnknown()}
	attrs := attributesOf(reflect.TypeFor[S]())
	attrs["id"] = schema.StringAttribute{Computed: true, PlanModifiers: keep, MarkdownDescription: "What to import the object by."}
	attrs["name"] = schema.StringAttribute{Required: true, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
		MarkdownDescription: "Unique among the namespace's objects of this kind: lower-case letters, digits and dashes. Another name is another object."}
	if r.namespaced() {
		attrs["namespace"] = schema.StringAttribute{Optional: true, Computed: true,
			MarkdownDescription: "Namespace the object lives in. Default: the provider's. Another namespace is another object."}
	}
	attrs["labels"] = schema.MapAttribute{Optional: true, ElementType: types.StringType, MarkdownDescription: "Free key/value pairs to select objects by."}
	attrs["adopt"] = schema.BoolAttribute{Optional: true,
		MarkdownDescription: "Take over an object of the name that exists already, instead of failing. Default: `false`."}
	attrs["timeouts"] = timeouts.Attributes(ctx, timeouts.Opts{
		Create: r.follow != nil, Update: r.follow != nil, Delete: true,
		CreateDescription: "How long to wait for the rollout, such as `45s` or `10m`. Default: `30m`; the rollout's own `update.deadline` usually ends it earlier.",
		UpdateDescription: "How long to wait for the rollout. Default: `30m`.",
		DeleteDescription: "How long to wait until the object is gone. Default: `10m`.",
	})
	maps.Copy(attrs, r.options)
	for name, f := range r.facts {
		attrs[name] = schema.StringAttribute{Computed: true, MarkdownDescription: f.doc}
	}
	resp.Schema = schema.Schema{MarkdownDescription: r.kind.Doc, Attributes: attrs}
}

// IdentitySchema says what an object is found by.
func (r *kindResource[S, T]) IdentitySchema(_ context.Context, _ resource.IdentitySchemaRequest, resp *resource.IdentitySchemaResponse) {
	attrs := map[string]identityschema.Attribute{"name": identityschema.StringAttribute{RequiredForImport: true}}
	if r.namespaced() {
		attrs["namespace"] = identityschema.StringAttribute{OptionalForImport: true}
	}
	resp.IdentitySchema = identityschema.Schema{Attributes: attrs}
}

// Configure takes what the run shares.
func (r *kindResource[S, T]) Configure(_ context.Context, req resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	if c, ok := req.ProviderData.(*cluster); ok {
		r.cluster = c
		if c.client != nil {
			r.objects = client.Of(c.client, r.kind)
		}
	}
}

// object makes the API's object of a resource's attributes, and lists the
// places that are not known yet.
func (r *kindResource[S, T]) object(v values) (o *api.Object[S, T], unknown []path.Path, err error) {
	o = &api.Object[S, T]{Kind: r.kind.Name}
	o.Meta.Name, _ = v.text("name")
	o.Meta.Namespace, _ = v.text("namespace")
	for _, name := range []string{"name", "namespace"} {
		if x, ok := v[name]; ok && !x.IsKnown() {
			unknown = append(unknown, path.Root(name))
		}
	}
	if err := expand(v["labels"], reflect.ValueOf(&o.Meta.Labels).Elem(), path.Root("labels"), &unknown); err != nil {
		return nil, nil, err
	}
	spec := reflect.ValueOf(&o.Spec).Elem()
	for _, f := range fields(spec.Type()) {
		if err := expand(v[f.name], spec.FieldByIndex(f.index), path.Root(f.name), &unknown); err != nil {
			return nil, nil, err
		}
	}
	return o, unknown, nil
}

// state says an object as attributes. What the cluster does not keep, such as
// timeouts, is taken over from prior: the plan or the state so far.
func (r *kindResource[S, T]) state(o *api.Object[S, T], prior values, t tftypes.Type) tftypes.Value {
	attrs := t.(tftypes.Object).AttributeTypes
	out := maps.Clone(prior)
	maps.Copy(out, flattenFields(reflect.ValueOf(o.Spec), attrs, prior))
	out["id"], out["name"] = text(id(&o.Meta)), text(o.Meta.Name)
	if r.namespaced() {
		out["namespace"] = text(o.Meta.Namespace)
	}
	switch {
	case len(o.Meta.Labels) > 0:
		out["labels"] = flatten(reflect.ValueOf(o.Meta.Labels), attrs["labels"], tftypes.Value{})
	case !saysEmpty(prior["labels"]):
		out["labels"] = tftypes.NewValue(attrs["labels"], nil)
	}
	for name, f := range r.facts {
		out[name] = text(f.of(o))
	}
	return tftypes.NewValue(t, out)
}

// ValidateConfig runs the API's own validation on what is known, so that plan
// shows at every attribute what apply would be refused for.
func (r *kindResource[S, T]) ValidateConfig(_ context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	v := valuesOf(req.Config.Raw)
	o, unknown, err := r.object(v)
	if err != nil {
		resp.Diagnostics.AddError("Cannot read the configuration", err.Error())
		return
	}
	if r.namespaced() && v["namespace"].IsNull() {
		o.Meta.Namespace = api.DefaultNamespace
	}
	if r.check != nil {
		r.check(v, &resp.Diagnostics)
	}
	found, _ := errors.AsType[api.Errors](r.kind.Check(o))
	for _, f := range found {
		if at := r.attributePath(f.Path); !r.undecided(at, unknown) {
			r.addFieldError(f, &resp.Diagnostics)
		}
	}
}

// undecided reports whether a fault at p may vanish once unknown is known.
func (r *kindResource[S, T]) undecided(p path.Path, unknown []path.Path) bool {
	return slices.ContainsFunc(unknown, func(u path.Path) bool {
		if within(p, u) {
			return true
		}
		at := shape(u)
		return slices.ContainsFunc(r.needs[shape(p)], func(need string) bool {
			return strings.HasPrefix(need+".", at+".") || strings.HasPrefix(at+".", need+".")
		})
	})
}

func (r *kindResource[S, T]) attributePath(at string) path.Path {
	return attributePath(at, reflect.TypeFor[S]())
}

// addFieldError reports a fault at its attribute.
func (r *kindResource[S, T]) addFieldError(f api.FieldError, diags *diag.Diagnostics) {
	p := r.attributePath(f.Path)
	if f.Message == "required" {
		diags.AddAttributeError(p, "Missing "+lastStep(p), "A "+strings.ToLower(r.kind.Name)+" needs it.")
		return
	}
	diags.AddAttributeError(p, "Bad "+lastStep(p), capital(f.Message)+".")
}

// addError reports what the API said, field errors at their attributes.
func (r *kindResource[S, T]) addError(diags *diag.Diagnostics, summary string, err error) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || len(e.Fields) == 0 {
		diags.AddError(summary, capital(err.Error())+".")
		return
	}
	if e.Code == api.Invalid {
		for _, f := range e.Fields {
			r.addFieldError(f, diags)
		}
		return
	}
	for _, f := range e.Fields {
		diags.AddAttributeError(r.attributePath(f.Path), summary, capital(e.Message)+".")
	}
}

// ImportState takes namespace/name, a name alone for the provider's
// namespace, or an identity.
func (r *kindResource[S, T]) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	namespace, name, qualified := strings.Cut(req.ID, "/")
	if !qualified || !r.namespaced() {
		namespace, name = "", req.ID
	}
	if req.ID == "" && req.Identity != nil {
		var n, ns types.String
		resp.Diagnostics.Append(req.Identity.GetAttribute(ctx, path.Root("name"), &n)...)
		if r.namespaced() {
			resp.Diagnostics.Append(req.Identity.GetAttribute(ctx, path.Root("namespace"), &ns)...)
		}
		namespace, name = ns.ValueString(), n.ValueString()
	}
	if r.namespaced() && namespace == "" && r.cluster != nil {
		namespace = r.cluster.namespace
	}
	if api.CheckName(name) != nil || r.namespaced() && api.CheckName(namespace) != nil {
		want := "name"
		if r.namespaced() {
			want = "namespace/name, such as default/web"
		}
		resp.Diagnostics.AddError("Bad import id", "Want "+want+", got "+req.ID+".")
		return
	}
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("name"), name)...)
	if r.namespaced() {
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("namespace"), namespace)...)
	}
	r.identify(ctx, resp.Identity, &api.Meta{Namespace: namespace, Name: name}, &resp.Diagnostics)
}
