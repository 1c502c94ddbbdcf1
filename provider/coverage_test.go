//go:build !race

package provider_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// read is a configuration of always and a change of it; null takes away.
func (w *walk) read(change string) attrs {
	w.Helper()
	types := w.block().ValueType().(tftypes.Object).AttributeTypes
	out := attrs{}
	for name, t := range types {
		out[name] = tftypes.NewValue(t, nil)
	}
	for _, text := range []string{w.always, change} {
		given := map[string]any{}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&given); err != nil {
			w.Fatalf("%s: %v", text, err)
		}
		for name, v := range given {
			if types[name] == nil {
				w.Fatalf("%s has no attribute %s", w.resource(), name)
			}
			out[name] = hcl(v, types[name])
			w.cover(name, v)
		}
	}
	return out
}

// cover notes the leaves of a value. A map's keys are all the same leaf.
func (w *walk) cover(at string, v any) {
	w.covered[at] = true
	if m, ok := v.(map[string]any); ok {
		for k, e := range m {
			w.cover(at+"."+k, e)
			w.cover(at+".*", e)
		}
	}
}

// leaves are the attributes somebody can set, and what is in their objects.
func (w *walk) leaves() (out []string) {
	for _, a := range w.block().Block.Attributes {
		switch f, declared := jsonField(w.kind.Spec, a.Name); {
		case a.Computed && !a.Optional:
		case declared:
			out = append(out, leavesOf(a.Name, f.Type)...)
		case a.Optional || a.Required:
			out = append(out, a.Name)
		}
	}
	slices.Sort(out)
	return out
}

func leavesOf(at string, t reflect.Type) (out []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return leavesOf(at+".*", t.Elem())
	case t.Kind() != reflect.Struct, t == reflect.TypeFor[time.Time]():
		return []string{at}
	}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			out = append(out, leavesOf(at+"."+name, f.Type)...)
		}
	}
	return out
}

func jsonField(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if have, _, _ := strings.Cut(f.Tag.Get("json"), ","); have == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// hcl converts a value as Terraform does to the attribute's type.
func hcl(v any, t tftypes.Type) tftypes.Value {
	free := t.Is(tftypes.DynamicPseudoType)
	switch v := v.(type) {
	case bool:
		return tftypes.NewValue(tftypes.Bool, v)
	case json.Number:
		if !free && t.Is(tftypes.String) {
			return str(v.String())
		}
		n, _ := v.Float64()
		return tftypes.NewValue(tftypes.Number, n)
	case string:
		return str(v)
	case []any:
		var list []tftypes.Value
		var types []tftypes.Type
		for _, e := range v {
			list = append(list, hcl(e, tftypes.DynamicPseudoType))
			types = append(types, list[len(list)-1].Type())
		}
		if free {
			return tftypes.NewValue(tftypes.Tuple{ElementTypes: types}, list)
		}
		return tftypes.NewValue(t, list)
	case map[string]any:
		m, types := map[string]tftypes.Value{}, map[string]tftypes.Type{}
		for k, e := range v {
			if free {
				m[k] = hcl(e, tftypes.DynamicPseudoType)
			} else {
				m[k] = hcl(e, t.(tftypes.Map).ElementType)
			}
			types[k] = m[k].Type()
		}
		if free {
			return tftypes.NewValue(tftypes.Object{AttributeTypes: types}, m)
		}
		return tftypes.NewValue(t, m)
	}
	return tftypes.NewValue(t, nil)
}
