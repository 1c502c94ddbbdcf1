package provider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// values are attributes by name: of one resource, or of an object in it.
type values map[string]tftypes.Value

// valuesOf opens an object or a map; nil when there is none.
func valuesOf(raw tftypes.Value) values {
	var v map[string]tftypes.Value
	if !isSet(raw) || raw.As(&v) != nil {
		return nil
	}
	return v
}

// isSet reports whether v is there, known and not null.
func isSet(v tftypes.Value) bool { return v.Type() != nil && v.IsKnown() && !v.IsNull() }

// text returns a string attribute; ok is false when it is null or not known yet.
func (v values) text(name string) (s string, ok bool) {
	return s, isSet(v[name]) && v[name].As(&s) == nil
}

// flag returns a bool attribute, or what it means when it is not set.
func (v values) flag(name string, unset bool) (b bool) {
	if isSet(v[name]) && v[name].As(&b) == nil {
		return b
	}
	return unset
}

// number returns a whole number, or what it means when it is not set.
func (v values) number(name string, unset int) int {
	var n big.Float
	if isSet(v[name]) && v[name].As(&n) == nil {
		i, _ := n.Int64()
		return int(i)
	}
	return unset
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

// reader turns what was written in HCL into API types. Nested objects arrive
// as they were written, so it also finds the keys that do not exist.
type reader struct {
	unknown []path.Path // places that are not known yet; they stay zero
	faults  []fault
}

type fault struct {
	at      path.Path
	message string
}

func (r *reader) fault(at path.Path, format string, args ...any) {
	r.faults = append(r.faults, fault{at, fmt.Sprintf(format, args...)})
}

// expand fills dst, a zero value of an API type, from v. Null leaves it zero.
func (r *reader) expand(v tftypes.Value, dst reflect.Value, at path.Path) {
	if v.Type() == nil || v.IsNull() {
		return
	}
	if !v.IsKnown() {
		r.unknown = append(r.unknown, at)
		return
	}
	if dst.Type() == instant {
		r.instant(v, dst, at)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		r.expand(v, dst.Elem(), at)
	case reflect.String, reflect.Bool, reflect.Int:
		r.scalar(v, dst, at)
	case reflect.Slice:
		var list []tftypes.Value
		if v.As(&list) != nil {
			r.fault(at, "want a list")
			return
		}
		dst.Set(reflect.MakeSlice(dst.Type(), len(list), len(list)))
		for i, e := range list {
			r.expand(e, dst.Index(i), at.AtListIndex(i))
		}
	case reflect.Map:
		r.expandMap(v, dst, at)
	case reflect.Struct:
		r.expandStruct(v, dst, at)
	default:
		panic("expand: " + dst.Type().String()) // the schema of such a field cannot be built
	}
}

// instant is the type of times.
var instant = reflect.TypeFor[time.Time]()

// instant reads a time as HCL says it: 2030-01-02T15:04:05Z.
func (r *reader) instant(v tftypes.Value, dst reflect.Value, at path.Path) {
	var s string
	if !v.Type().Is(tftypes.String) || v.As(&s) != nil {
		r.fault(at, "want a string")
		return
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		r.fault(at, "%q is not a time: want one such as 2030-01-02T15:04:05Z", s)
		return
	}
	dst.Set(reflect.ValueOf(t.UTC()))
}

// scalar converts as HCL does: 80 and "80" say the same.
func (r *reader) scalar(v tftypes.Value, dst reflect.Value, at path.Path) {
	var (
		s    string
		b    bool
		n    big.Float
		kind = v.Type()
	)
	switch {
	case kind.Is(tftypes.String) && v.As(&s) == nil:
	case kind.Is(tftypes.Bool) && v.As(&b) == nil:
		s = strconv.FormatBool(b)
	case kind.Is(tftypes.Number) && v.As(&n) == nil:
		s = n.Text('f', -1)
	case dst.Kind() == reflect.String:
		r.fault(at, "want a string")
		return
	}
	switch dst.Kind() {
	case reflect.String:
		dst.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			r.fault(at, "want true or false")
		}
		dst.SetBool(b)
	case reflect.Int:
		i, err := strconv.Atoi(s)
		if err != nil {
			r.fault(at, "want a whole number")
		}
		dst.SetInt(int64(i))
	}
}

func (r *reader) expandMap(v tftypes.Value, dst reflect.Value, at path.Path) {
	m := valuesOf(v)
	if m == nil {
		r.fault(at, "want a map: { key = value }")
		return
	}
	dst.Set(reflect.MakeMapWithSize(dst.Type(), len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !m[k].IsNull() {
			elem := reflect.New(dst.Type().Elem()).Elem()
			r.expand(m[k], elem, at.AtMapKey(k))
			dst.SetMapIndex(reflect.ValueOf(k).Convert(dst.Type().Key()), elem)
		}
	}
}

func (r *reader) expandStruct(v tftypes.Value, dst reflect.Value, at path.Path) {
	m := maps.Clone(valuesOf(v))
	all := fields(dst.Type())
	if m == nil {
		r.fault(at, "want an object, such as { %s = … }", all[0].name)
		return
	}
	var names []string
	for _, f := range all {
		r.expand(m[f.name], dst.FieldByIndex(f.index), at.AtName(f.name))
		delete(m, f.name)
		names = append(names, f.name)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		r.fault(at.AtName(k), "there is no such attribute; known are %s", strings.Join(names, ", "))
	}
}

// flattenFields says the fields of an API struct as attributes of the types.
// What means the same in prior is said the way it is said there: the API does
// not tell env = {} from no env, or 80 from "80", but Terraform does.
func flattenFields(src reflect.Value, types map[string]tftypes.Type, prior values) values {
	out := values{}
	for _, f := range fields(src.Type()) {
		v := src.FieldByIndex(f.index)
		switch {
		case types[f.name] == nil: // nothing of it may be shown
		case says(prior[f.name], v):
			out[f.name] = prior[f.name]
		case f.sparse && isEmpty(v) && prior[f.name].Type() != nil && prior[f.name].IsNull():
			out[f.name] = prior[f.name] // a variable's null has the variable's type
		case f.sparse && isEmpty(v):
			out[f.name] = tftypes.NewValue(types[f.name], nil)
		default:
			out[f.name] = flatten(v, types[f.name])
		}
	}
	return out
}

// says reports whether v, written in HCL, means the API's value want.
func says(v tftypes.Value, want reflect.Value) bool {
	if !isSet(v) {
		return false
	}
	r, have := &reader{}, reflect.New(want.Type()).Elem()
	r.expand(v, have, path.Empty())
	return len(r.unknown) == 0 && len(r.faults) == 0 && same(have, want)
}

// same reports whether two values are the same in the API's JSON.
func same(a, b reflect.Value) bool {
	if isEmpty(a) && isEmpty(b) {
		return true
	}
	x, err1 := json.Marshal(a.Interface())
	y, err2 := json.Marshal(b.Interface())
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// flatten says an API value as type t; as the type HCL gives it where t leaves
// that open.
func flatten(src reflect.Value, t tftypes.Type) tftypes.Value {
	free := t.Is(tftypes.DynamicPseudoType)
	if at, ok := src.Interface().(time.Time); ok {
		return text(at.UTC().Format(time.RFC3339Nano))
	}
	switch src.Kind() {
	case reflect.Pointer:
		if src.IsNil() {
			return tftypes.NewValue(t, nil)
		}
		return flatten(src.Elem(), t)
	case reflect.String:
		return tftypes.NewValue(tftypes.String, src.String())
	case reflect.Bool:
		return tftypes.NewValue(tftypes.Bool, src.Bool())
	case reflect.Int:
		return tftypes.NewValue(tftypes.Number, src.Int())
	case reflect.Slice:
		elems := make([]tftypes.Value, src.Len())
		for i := range elems {
			elems[i] = text(src.Index(i).String())
		}
		return tftypes.NewValue(tftypes.List{ElementType: tftypes.String}, elems)
	case reflect.Map:
		if src.Type().Elem().Kind() == reflect.String {
			elems := map[string]tftypes.Value{}
			for it := src.MapRange(); it.Next(); {
				elems[it.Key().String()] = text(it.Value().String())
			}
			return tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, elems)
		}
		elems := values{}
		for it := src.MapRange(); it.Next(); {
			if free {
				elems[it.Key().String()] = flatten(it.Value(), t)
			} else {
				elems[it.Key().String()] = flatten(it.Value(), t.(tftypes.Map).ElementType)
			}
		}
		if free {
			return object(elems)
		}
		return tftypes.NewValue(t, map[string]tftypes.Value(elems))
	case reflect.Struct:
		if !free {
			return tftypes.NewValue(t, map[string]tftypes.Value(flattenFields(src, t.(tftypes.Object).AttributeTypes, nil)))
		}
		elems := values{}
		for _, f := range fields(src.Type()) {
			if v := src.FieldByIndex(f.index); !f.sparse || !isEmpty(v) {
				elems[f.name] = flatten(v, t)
			}
		}
		return object(elems)
	}
	panic("flatten: " + src.Type().String()) // the schema of such a field cannot be built
}

// object is the value of an object written in HCL.
func object(v values) tftypes.Value {
	types := map[string]tftypes.Type{}
	for name, e := range v {
		types[name] = e.Type()
	}
	return tftypes.NewValue(tftypes.Object{AttributeTypes: types}, map[string]tftypes.Value(v))
}

// isEmpty reports whether encoding/json leaves v out.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Struct:
		return v.Type() == instant && v.IsZero()
	}
	return v.IsZero()
}
