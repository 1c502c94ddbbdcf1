package provider

import (
	"fmt"
	"math/big"
	"reflect"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// values are the attributes of one resource by name.
type values map[string]tftypes.Value

// valuesOf opens a resource's state, plan or configuration; nil when there is none.
func valuesOf(raw tftypes.Value) values {
	var v map[string]tftypes.Value
	if raw.IsNull() || !raw.IsKnown() || raw.As(&v) != nil {
		return nil
	}
	return v
}

// text returns a string attribute; known is false when it is null or not known yet.
func (v values) text(name string) (s string, known bool) {
	x, ok := v[name]
	if !ok || x.IsNull() || !x.IsKnown() {
		return "", false
	}
	return s, x.As(&s) == nil
}

// isTrue reports whether a bool attribute is set to true.
func (v values) isTrue(name string) bool { return v.flag(name, false) }

// flag returns a bool attribute, or what it means when it is not set.
func (v values) flag(name string, unset bool) bool {
	b := unset
	if x, ok := v[name]; ok && !x.IsNull() && x.IsKnown() && x.As(&b) != nil {
		return unset
	}
	return b
}

// timeout returns how long an operation may take.
func (v values) timeout(operation string, unset time.Duration) time.Duration {
	s, _ := valuesOf(v["timeouts"]).text(operation)
	if d, err := time.ParseDuration(s); err == nil {
		return d
	}
	return unset
}

func text(s string) tftypes.Value { return tftypes.NewValue(tftypes.String, s) }

// expand fills dst, a zero value of an API type, from v. Null leaves it zero.
// What is not known yet stays zero too, and its place is added to unknown.
func expand(v tftypes.Value, dst reflect.Value, at path.Path, unknown *[]path.Path) error {
	if !v.IsKnown() {
		*unknown = append(*unknown, at)
		return nil
	}
	if v.IsNull() {
		return nil
	}
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		return expand(v, dst.Elem(), at, unknown)
	case reflect.String:
		var s string
		err := v.As(&s)
		dst.SetString(s)
		return err
	case reflect.Bool:
		var b bool
		err := v.As(&b)
		dst.SetBool(b)
		return err
	case reflect.Int:
		var n big.Float
		err := v.As(&n)
		i, accuracy := n.Int64()
		if accuracy != big.Exact {
			*unknown = append(*unknown, at) // the framework reports it
		}
		dst.SetInt(i)
		return err
	case reflect.Slice:
		return expandSlice(v, dst, at, unknown)
	case reflect.Map:
		return expandMap(v, dst, at, unknown)
	case reflect.Struct:
		m := valuesOf(v)
		for _, f := range fields(dst.Type()) {
			if err := expand(m[f.name], dst.FieldByIndex(f.index), at.AtName(f.name), unknown); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%s: cannot be said in Terraform: %s", at, dst.Type())
}

func expandSlice(v tftypes.Value, dst reflect.Value, at path.Path, unknown *[]path.Path) error {
	var list []tftypes.Value
	if err := v.As(&list); err != nil {
		return err
	}
	dst.Set(reflect.MakeSlice(dst.Type(), len(list), len(list)))
	for i, e := range list {
		if err := expand(e, dst.Index(i), at.AtListIndex(i), unknown); err != nil {
			return err
		}
	}
	return nil
}

func expandMap(v tftypes.Value, dst reflect.Value, at path.Path, unknown *[]path.Path) error {
	m := map[string]tftypes.Value{}
	if err := v.As(&m); err != nil {
		return err
	}
	dst.Set(reflect.MakeMapWithSize(dst.Type(), len(m)))
	for k, e := range m {
		elem := reflect.New(dst.Type().Elem()).Elem()
		if err := expand(e, elem, at.AtMapKey(k), unknown); err != nil {
			return err
		}
		dst.SetMapIndex(reflect.ValueOf(k).Convert(dst.Type().Key()), elem)
	}
	return nil
}

// flatten says src, a value of an API type, as Terraform's type t. What the
// API leaves out is null, unless prior says the same with an empty value: JSON
// does not tell env = {} from no env, Terraform does.
func flatten(src reflect.Value, t tftypes.Type, prior tftypes.Value) tftypes.Value {
	if src.Kind() == reflect.Pointer {
		if src.IsNil() {
			return tftypes.NewValue(t, nil)
		}
		return flatten(src.Elem(), t, prior)
	}
	switch src.Kind() {
	case reflect.String:
		return tftypes.NewValue(t, src.String())
	case reflect.Bool:
		return tftypes.NewValue(t, src.Bool())
	case reflect.Int:
		return tftypes.NewValue(t, src.Int())
	case reflect.Slice:
		elems := make([]tftypes.Value, src.Len())
		for i := range elems {
			elems[i] = flatten(src.Index(i), t.(tftypes.List).ElementType, tftypes.Value{})
		}
		return tftypes.NewValue(t, elems)
	case reflect.Map:
		was, elems := valuesOf(prior), map[string]tftypes.Value{}
		for it := src.MapRange(); it.Next(); {
			elems[it.Key().String()] = flatten(it.Value(), t.(tftypes.Map).ElementType, was[it.Key().String()])
		}
		return tftypes.NewValue(t, elems)
	case reflect.Struct:
		return tftypes.NewValue(t, flattenFields(src, t.(tftypes.Object).AttributeTypes, valuesOf(prior)))
	}
	panic("flatten: " + src.Type().String()) // the schema of such a field cannot be built
}

// flattenFields flattens the fields of a struct.
func flattenFields(src reflect.Value, types map[string]tftypes.Type, prior values) map[string]tftypes.Value {
	out := map[string]tftypes.Value{}
	for _, f := range fields(src.Type()) {
		v, was := src.FieldByIndex(f.index), prior[f.name]
		switch {
		case !f.sparse || !isEmpty(v):
			out[f.name] = flatten(v, types[f.name], was)
		case saysEmpty(was):
			out[f.name] = was
		default:
			out[f.name] = tftypes.NewValue(types[f.name], nil)
		}
	}
	return out
}

// isEmpty reports whether encoding/json leaves v out.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// saysEmpty reports whether v is set, to something JSON leaves out.
func saysEmpty(v tftypes.Value) bool {
	if v.Type() == nil || v.IsNull() || !v.IsKnown() {
		return false
	}
	var (
		s string
		n big.Float
		b bool
		l []tftypes.Value
		m map[string]tftypes.Value
	)
	switch t := v.Type(); {
	case t.Is(tftypes.String):
		return v.As(&s) == nil && s == ""
	case t.Is(tftypes.Number):
		return v.As(&n) == nil && n.Sign() == 0
	case t.Is(tftypes.Bool):
		return v.As(&b) == nil && !b
	case t.Is(tftypes.List{}):
		return v.As(&l) == nil && len(l) == 0
	case t.Is(tftypes.Map{}):
		return v.As(&m) == nil && len(m) == 0
	}
	return false
}
