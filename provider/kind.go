package provider

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"strings"

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
type kindResource[O api.Any] struct {
	kind *api.Kind[O]
	// rename says which fields have another name in HCL.
	rename map[string]string
	// hidden handles attributes that no plan may contain; nil: there are none.
	hidden hidden[O]
	// options are attributes about how to apply; the cluster never sees them.
	options map[string]schema.Attribute
	// facts are attributes the cluster decides.
	facts map[string]fact[O]
	// needs says which other fields the validation of a field looks at, by
	// shape: while those are not known, the field is not judged.
	needs map[string][]string
	// check says what is wrong with the options.
	check func(values) []fault
	// follow waits until a written object is what was asked for.
	follow func(context.Context, *kindResource[O], O) *failure
	// doubts says what is odd about an object that was just written.
	doubts func(context.Context, *kindResource[O], O) *failure
	// ails says what is wrong with an object though no plan shows it.
	ails func(O) *failure
	// limits are the timeouts, where the usual words do not fit.
	limits reflect.Type
	// obtain makes the object known to the state, where it is not made by us.
	obtain func(context.Context, *kindResource[O], O) (O, error)
	// retire prepares an object for its deletion.
	retire func(context.Context, *kindResource[O], O) error
	// planned: the cluster has more to say of a write than whether it is valid.
	planned bool
	// blocked says what the deletion of an object waits for.
	blocked func(O) string

	cluster *cluster
	objects *client.Kind[O]
}

// fact is one attribute the cluster decides. of returns "" until it is known;
// of an object that is only planned it returns what follows from the plan. by is
// the attribute that decides it where that is set.
type fact[O api.Any] struct {
	doc string
	of  func(O) string
	by  string
}

// hidden is what a kind does about write-only attributes.
type hidden[O api.Any] interface {
	// plan fills in what shows that they change.
	plan(ctx context.Context, r *kindResource[O], plan, prior, config values, diags *diag.Diagnostics)
	// complete adds them to what a plan declares.
	complete(o O, plan, prior, config values)
}

// spec is the type of the kind's spec.
func (r *kindResource[O]) spec() reflect.Type { return r.kind.Info().Spec }

func (r *kindResource[O]) namespaced() bool { return r.kind.Scope == api.Namespaced }

// noun is how messages call an object: app shop/web.
func (r *kindResource[O]) noun(m *api.Meta) string {
	return strings.ToLower(r.kind.Name) + " " + id(m)
}

func id(m *api.Meta) string {
	if m.Namespace == "" {
		return m.Name
	}
	return m.Namespace + "/" + m.Name
}

// Metadata names the resource: clusterd_app.
func (r *kindResource[O]) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + strings.ToLower(r.kind.Name)
}

// Schema says the kind's spec, its names, and how to apply it.
func (r *kindResource[O]) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	keep := []planmodifier.String{stringplanmodifier.UseStateForUnknown()}
	attrs := attributesOf(r.spec())
	for field := range r.rename {
		delete(attrs, field) // options have it
	}
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
	attrs["timeouts"] = attribute(field{name: "timeouts", typ: r.timeouts(), doc: "How long apply waits."})
	maps.Copy(attrs, r.options)
	for name, f := range r.facts {
		attrs[name] = schema.StringAttribute{Computed: true, MarkdownDescription: f.doc}
	}
	resp.Schema = schema.Schema{MarkdownDescription: r.kind.Doc, Attributes: attrs}
}

// waits and deletes are the timeouts of kinds whose writes apply follows, and
// of the others.
type (
	waits struct {
		Create api.Duration `json:"create,omitempty" doc:"For the first rollout; its own update.deadline usually ends it earlier." default:"30m"`
		Update api.Duration `json:"update,omitempty" doc:"For the rollout of a change." default:"30m"`
		deletes
	}
	deletes struct {
		Delete api.Duration `json:"delete,omitempty" doc:"Until the object is gone." default:"10m"`
	}
)

func (r *kindResource[O]) timeouts() reflect.Type {
	if r.limits != nil {
		return r.limits
	}
	if r.follow != nil {
		return reflect.TypeFor[waits]()
	}
	return reflect.TypeFor[deletes]()
}

// IdentitySchema says what an object is found by.
func (r *kindResource[O]) IdentitySchema(_ context.Context, _ resource.IdentitySchemaRequest, resp *resource.IdentitySchemaResponse) {
	attrs := map[string]identityschema.Attribute{"name": identityschema.StringAttribute{RequiredForImport: true}}
	if r.namespaced() {
		attrs["namespace"] = identityschema.StringAttribute{OptionalForImport: true}
	}
	resp.IdentitySchema = identityschema.Schema{Attributes: attrs}
}

// Configure takes what the run shares.
func (r *kindResource[O]) Configure(_ context.Context, req resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	if c, ok := req.ProviderData.(*cluster); ok {
		r.cluster = c
		if c.client != nil {
			r.objects = client.Of(c.client, r.kind)
		}
	}
}

// object makes the API's object of a resource's attributes. The reader knows
// which places are not known yet, and what was written that does not exist.
func (r *kindResource[O]) object(v values) (O, *reader) {
	o, rd := r.kind.Make(), &reader{}
	m := o.GetMeta()
	rd.expand(v["name"], reflect.ValueOf(&m.Name).Elem(), path.Root("name"))
	rd.expand(v["namespace"], reflect.ValueOf(&m.Namespace).Elem(), path.Root("namespace"))
	rd.expand(v["labels"], reflect.ValueOf(&m.Labels).Elem(), path.Root("labels"))
	spec := reflect.ValueOf(o.GetSpec()).Elem()
	for _, f := range fields(spec.Type()) {
		name := cmp.Or(r.rename[f.name], f.name)
		rd.expand(v[name], spec.FieldByIndex(f.index), path.Root(name))
	}
	return o, rd
}

// state says an object as attributes. What the cluster does not keep, such as
// timeouts, is taken over from prior: the plan or the state so far.
func (r *kindResource[O]) state(o O, prior values, t tftypes.Type) tftypes.Value {
	attrs := t.(tftypes.Object).AttributeTypes
	out := maps.Clone(prior)
	maps.Copy(out, flattenFields(reflect.ValueOf(o.GetSpec()).Elem(), attrs, prior))
	out["id"], out["name"] = text(id(o.GetMeta())), text(o.GetMeta().Name)
	if r.namespaced() {
		out["namespace"] = text(o.GetMeta().Namespace)
	}
	if labels := reflect.ValueOf(o.GetMeta().Labels); !says(prior["labels"], labels) {
		out["labels"] = tftypes.NewValue(attrs["labels"], nil)
		if labels.Len() > 0 {
			out["labels"] = flatten(labels, attrs["labels"])
		}
	}
	for name, f := range r.facts {
		out[name] = text(f.of(o))
	}
	return tftypes.NewValue(t, map[string]tftypes.Value(out))
}

// ImportState takes namespace/name, a name alone for the provider's
// namespace, or an identity.
func (r *kindResource[O]) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
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
