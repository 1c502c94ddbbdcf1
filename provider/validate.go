package provider

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// ValidateConfig runs the API's own validation on what is known, so that plan
// shows at every attribute what apply would be refused for.
func (r *kindResource[O]) ValidateConfig(_ context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	for _, f := range r.validate(valuesOf(req.Config.Raw)) {
		addFault(f, &resp.Diagnostics)
	}
}

// validate returns what is certainly wrong with a configuration.
func (r *kindResource[O]) validate(config values) []fault {
	o, rd := r.object(config)
	if r.namespaced() && config["namespace"].IsNull() {
		o.GetMeta().Namespace = api.DefaultNamespace // the real one is only known to a plan
	}
	faults := rd.faults
	limits := &reader{}
	limits.expand(config["timeouts"], reflect.New(r.timeouts()).Elem(), path.Root("timeouts"))
	faults = append(faults, limits.faults...)
	for _, operation := range []string{"create", "update", "delete"} {
		if s, ok := valuesOf(config["timeouts"]).text(operation); ok {
			if _, err := amounts[reflect.TypeFor[api.Duration]()](s); err != nil {
				faults = append(faults, fault{path.Root("timeouts").AtName(operation), `"` + s + `" is not a duration: want a number with a unit, such as "45s" or "10m"`})
			}
		}
	}
	if r.check != nil {
		faults = append(faults, r.check(config)...)
	}
	found, _ := errors.AsType[api.Errors](r.kind.Check(o))
	for _, f := range found {
		at := r.attributePath(f.Path)
		misread := slices.ContainsFunc(rd.faults, func(x fault) bool { return within(at, x.at) })
		if !misread && !r.computed(at) && !r.undecided(at, rd.unknown) {
			faults = append(faults, fault{at, f.Message})
		}
	}
	return faults
}

// computed reports whether p is an attribute that nobody writes.
func (r *kindResource[O]) computed(p path.Path) bool {
	steps := p.Steps()
	if len(steps) == 0 {
		return false
	}
	name, _ := steps[0].(path.PathStepAttributeName)
	a := r.options[string(name)]
	return a != nil && a.IsComputed() && !a.IsOptional()
}

// undecided reports whether a fault at p may vanish once unknown is known.
func (r *kindResource[O]) undecided(p path.Path, unknown []path.Path) bool {
	return slices.ContainsFunc(unknown, func(u path.Path) bool {
		if within(p, u) || within(u, p) {
			return true
		}
		at := shape(u)
		return slices.ContainsFunc(r.needs[shape(p)], func(need string) bool {
			return strings.HasPrefix(need+".", at+".") || strings.HasPrefix(at+".", need+".")
		})
	})
}

func (r *kindResource[O]) attributePath(at string) path.Path {
	p := attributePath(at, r.spec())
	steps := p.Steps()
	if len(steps) == 0 {
		return p
	}
	top, _ := steps[0].(path.PathStepAttributeName)
	name := r.rename[string(top)]
	if name == "" {
		return p
	}
	p = path.Root(name)
	for _, s := range steps[1:] {
		if key, ok := s.(path.PathStepElementKeyString); ok {
			p = p.AtMapKey(string(key))
		}
	}
	return p
}

// addFault reports a fault where Terraform shows it.
func addFault(f fault, diags *diag.Diagnostics) {
	if f.message == "required" {
		diags.AddAttributeError(visible(f.at), "Missing "+dotted(f.at), "It has to be set.")
		return
	}
	diags.AddAttributeError(visible(f.at), "Bad "+dotted(f.at), sentence(f.message))
}

// addError reports what the API said, field errors at their attributes.
func (r *kindResource[O]) addError(diags *diag.Diagnostics, summary string, err error) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || len(e.Fields) == 0 {
		diags.AddError(summary, sentence(err.Error()))
		return
	}
	for _, f := range e.Fields {
		at := r.attributePath(f.Path)
		if e.Code == api.Invalid {
			addFault(fault{at, f.Message}, diags)
		} else {
			diags.AddAttributeError(visible(at), summary, sentence(e.At(f)))
		}
	}
}
