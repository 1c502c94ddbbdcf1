package provider

import (
	"context"
	"maps"
	"reflect"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// dataSource reports facts of the cluster. V is their shape: its fields are
// computed attributes.
type dataSource[V any] struct {
	name, doc string
	inputs    map[string]schema.Attribute
	read      func(context.Context, *cluster, values, *diag.Diagnostics) *V
	cluster   *cluster
}

// Metadata names the data source: clusterd_app.
func (d *dataSource[V]) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + d.name
}

// Schema is the inputs and the fields of V.
func (d *dataSource[V]) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	attrs := dataAttributesOf(reflect.TypeFor[V]())
	maps.Copy(attrs, d.inputs)
	resp.Schema = schema.Schema{MarkdownDescription: d.doc, Attributes: attrs}
}

// Configure takes what the run shares.
func (d *dataSource[V]) Configure(_ context.Context, req datasource.ConfigureRequest, _ *datasource.ConfigureResponse) {
	d.cluster, _ = req.ProviderData.(*cluster)
}

// Read asks the cluster.
func (d *dataSource[V]) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	if d.cluster == nil || d.cluster.client == nil {
		resp.Diagnostics.AddError("The cluster is not known yet",
			"This data source is read during plan, when the provider's address, token or CA certificate is not known. Give it a depends_on of what creates the cluster, so that it is read during apply.")
		return
	}
	in := valuesOf(req.Config.Raw)
	v := d.read(ctx, d.cluster, in, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	t := resp.State.Schema.Type().TerraformType(ctx)
	out := maps.Clone(in)
	maps.Copy(out, flattenFields(reflect.ValueOf(*v), t.(tftypes.Object).AttributeTypes, nil))
	resp.State.Raw = tftypes.NewValue(t, map[string]tftypes.Value(out))
}
