package provider

import (
	"fmt"
	"reflect"
	"strings"

	dataschema "github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// attributesOf says the fields of an API type in HCL: same names, same docs,
// objects for structs, maps for maps. There are no blocks and no lists of
// objects, so a plan shows exactly what changes. Null means the server's
// default, which the server fixes when it is written: a default that changes in
// a later version changes no app that runs.
//
// An object is dynamic to Terraform and typed here. Terraform silently drops
// the keys that a typed nested object does not have, so that a misspelt
// max_parallel would be a rollout nobody asked for; of a dynamic one it passes
// on what was written, and the reader finds it.
func attributesOf(t reflect.Type) map[string]schema.Attribute {
	out := map[string]schema.Attribute{}
	for _, f := range fields(t) {
		out[f.name] = attribute(f)
	}
	return out
}

func attribute(f field) schema.Attribute {
	t, doc, optional := indirect(f.typ), f.doc, !f.required
	switch {
	case t.Kind() == reflect.String, t == instant:
		return schema.StringAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional}
	case t.Kind() == reflect.Bool:
		return schema.BoolAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional}
	case t.Kind() == reflect.Int:
		// The reader says what is wrong with 1.5; the framework would call it a bug.
		return schema.NumberAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return schema.ListAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, ElementType: types.StringType}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.String:
		return schema.MapAttribute{MarkdownDescription: doc, Required: f.required, Optional: optional, ElementType: types.StringType}
	case isNested(t):
		return schema.DynamicAttribute{MarkdownDescription: doc + " " + keysOf(t, 1), Required: f.required, Optional: optional}
	}
	panic(fmt.Sprintf("field %s: a %s has no shape in HCL", f.name, t))
}

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// isNested reports whether t is an object, or a map of objects.
func isNested(t reflect.Type) bool {
	return t.Kind() == reflect.Struct || t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct
}

// keysOf documents the keys of an object, as a list below the attribute's line.
func keysOf(t reflect.Type, depth int) string {
	var b strings.Builder
	b.WriteString("An object of:")
	if t.Kind() == reflect.Map {
		b.Reset()
		b.WriteString("A map of objects of:")
		t = t.Elem()
	}
	for _, f := range fields(t) {
		in, need := indirect(f.typ), ""
		if f.required {
			need = ", required"
		}
		fmt.Fprintf(&b, "\n%s- `%s` (%s%s) %s", strings.Repeat("  ", depth), f.name, typeName(in), need, f.doc)
		if isNested(in) {
			b.WriteString(" " + keysOf(in, depth+1))
		}
	}
	return b.String()
}

// typeName is what the registry calls the type of a value in HCL.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "String"
	case reflect.Bool:
		return "Boolean"
	case reflect.Int:
		return "Number"
	case reflect.Slice:
		return "List of " + typeName(t.Elem())
	case reflect.Map:
		return "Map of " + typeName(t.Elem())
	}
	return "Object"
}

// dataAttributesOf says the facts a data source reports. Nobody writes those,
// so their objects are typed.
func dataAttributesOf(t reflect.Type) map[string]dataschema.Attribute {
	out := map[string]dataschema.Attribute{}
	for _, f := range fields(t) {
		out[f.name] = dataAttribute(f)
	}
	return out
}

func dataAttribute(f field) dataschema.Attribute {
	t, doc := indirect(f.typ), f.doc
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
