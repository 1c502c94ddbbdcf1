package provider

import (
	"reflect"
	"strconv"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// amounts are the types whose text can say one amount in several ways.
var amounts = map[reflect.Type]func(string) (int64, error){
	reflect.TypeFor[api.CPU]():    api.ParseCPU,
	reflect.TypeFor[api.Memory](): api.ParseMemory,
	reflect.TypeFor[api.Duration](): func(s string) (int64, error) {
		d, err := time.ParseDuration(s)
		return int64(d), err
	},
}

// keepAmounts puts the state's text back into the plan where both mean the
// same: writing 0.5 for 500m, or 1m for 60s, must not roll an app's pods.
func keepAmounts(spec reflect.Type, plan, prior values) {
	for _, f := range fields(spec) {
		was, will := &reader{}, &reader{}
		a, b := reflect.New(f.typ).Elem(), reflect.New(f.typ).Elem()
		was.expand(prior[f.name], a, path.Empty())
		will.expand(plan[f.name], b, path.Empty())
		if len(was.faults)+len(will.faults)+len(will.unknown) > 0 || !isSet(prior[f.name]) || !isSet(plan[f.name]) {
			continue
		}
		canonical(a)
		canonical(b)
		if same(a, b) {
			plan[f.name] = prior[f.name]
		}
	}
}

// canonical rewrites every amount in v in one way.
func canonical(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			canonical(v.Elem())
		}
	case reflect.String:
		if parse := amounts[v.Type()]; parse != nil {
			if n, err := parse(v.String()); err == nil {
				v.SetString(strconv.FormatInt(n, 10))
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(it.Value())
			canonical(e)
			v.SetMapIndex(it.Key(), e)
		}
	case reflect.Struct:
		for _, f := range fields(v.Type()) {
			canonical(v.FieldByIndex(f.index))
		}
	}
}
