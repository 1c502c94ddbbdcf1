package provider

import (
	"context"
	"fmt"
	"reflect"
	"time"

	dataschema "github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// attributesOf says the fields of an API type in HCL: same names, same docs,
// nested attributes for structs, maps for maps. There are no blocks and no
// lists of objects, so a plan shows exactly what changes. Null means the
// server's default, which the server fixes when it is written: a default that
// changes in a later version changes no app that runs.
func attributesOf(t reflect.Type) map[string]schema.Attribute {
	out := map[string]schema.Attribute{}
	for _, f := range fields(t) {
		out[f.name] = attribute(f)
	}
	return out
}

func attribute(f field) schema.Attribute {
	t, doc, optional := f.typ, f.doc, !f.required
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.String:
		return schema.StringAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, PlanModifiers: amounts[t]}
	case t.Kind() == reflect.Bool:
		return schema.BoolAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional}
	case t.Kind() == reflect.Int:
		return schema.Int64Attribute{MarkdownDescription: doc, Required: f.required, Optional: optional}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return schema.ListAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, ElementType: types.StringType}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.String:
		return schema.MapAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, ElementType: types.StringType}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		nested := schema.NestedAttributeObject{Attributes: attributesOf(t.Elem())}
		return schema.MapNestedAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, NestedObject: nested}
	case t.Kind() == reflect.Struct:
		return schema.SingleNestedAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, Attributes: attributesOf(t)}
	}
	panic(fmt.Sprintf("field %s: a %s has no shape in HCL", f.name, t))
}

// dataAttributesOf is attributesOf for the facts a data source reports.
func dataAttributesOf(t reflect.Type) map[string]dataschema.Attribute {
	out := map[string]dataschema.Attribute{}
	for _, f := range fields(t) {
		out[f.name] = dataAttribute(f)
	}
	return out
}

func dataAttribute(f field) dataschema.Attribute {
	t, doc := f.typ, f.doc
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.String:
		return dataschema.StringAttribute{MarkdownDescription: doc, Computed: true}
	case t.Kind() == reflect.Bool:
		return dataschema.BoolAttribute{MarkdownDescription: doc, Computed: true}
	case t.Kind() == reflect.Int:
		return dataschema.Int64Attribute{MarkdownDescription: doc, Computed: true}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return dataschema.ListAttribute{MarkdownDescription: doc, Computed: true, ElementType: types.StringType}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.String:
		return dataschema.MapAttribute{MarkdownDescription: doc, Computed: true, ElementType: types.StringType}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		nested := dataschema.NestedAttributeObject{Attributes: dataAttributesOf(t.Elem())}
		return dataschema.MapNestedAttribute{MarkdownDescription: doc, Computed: true, NestedObject: nested}
	case t.Kind() == reflect.Struct:
		return dataschema.SingleNestedAttribute{MarkdownDescription: doc, Computed: true, Attributes: dataAttributesOf(t)}
	}
	panic(fmt.Sprintf("field %s: a %s has no shape in HCL", f.name, t))
}

// amounts are the types whose text can say one amount in several ways.
var amounts = map[reflect.Type][]planmodifier.String{
	reflect.TypeFor[api.CPU]():    {sameAmount{api.ParseCPU}},
	reflect.TypeFor[api.Memory](): {sameAmount{api.ParseMemory}},
	reflect.TypeFor[api.Duration](): {sameAmount{func(s string) (int64, error) {
		d, err := time.ParseDuration(s)
		return int64(d), err
	}}},
}

// sameAmount keeps the state's text when the new one means the same: writing
// 0.5 for 500m must not roll an app's pods.
type sameAmount struct {
	parse func(string) (int64, error)
}

func (sameAmount) Description(context.Context) string {
	return "Another way to write the same amount is no change."
}

func (m sameAmount) MarkdownDescription(ctx context.Context) string { return m.Description(ctx) }

func (m sameAmount) PlanModifyString(_ context.Context, req planmodifier.StringRequest, resp *planmodifier.StringResponse) {
	if req.StateValue.IsNull() || req.PlanValue.IsNull() || req.PlanValue.IsUnknown() {
		return
	}
	was, err1 := m.parse(req.StateValue.ValueString())
	will, err2 := m.parse(req.PlanValue.ValueString())
	if err1 == nil && err2 == nil && was == will {
		resp.PlanValue = req.StateValue
	}
}
