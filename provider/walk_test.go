//go:build !race

package provider_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// walk is a subject on its way.
type walk struct {
	*testing.T
	*subject
	c         *cluster
	namespace string
	schema    *tfprotov6.GetProviderSchemaResponse
	state     tftypes.Value
	config    attrs
	covered   map[string]bool
}

// run makes the object and takes each of its attributes through everything that
// Terraform may ask for, in the words of its protocol: a plan that says what
// apply then does and keeps Terraform's rules, an apply after which both plan and
// refresh are empty, a value only apply knows, a change by somebody else, a write
// that fails, import by id and identity, an object that is gone, and destroy. An
// attribute that is never set fails the test.
func (s *subject) run(t *testing.T, c *cluster) {
	w := &walk{T: t, subject: s, c: c, namespace: c.namespace(t), covered: map[string]bool{}}
	if s.prepare != nil {
		s.prepare(t, c, w.namespace)
	}
	first, _ := newPlugin(t, c.settings())
	w.schema = first.schema
	w.state = tftypes.NewValue(w.block().ValueType(), nil)
	w.to(s.always, "create")
	base := w.object()
	w.imports()
	for _, change := range s.changes {
		w.unknown(change)
		w.to(change, "update")
		w.protects()
		w.drift(base, change)
		w.to(s.always, "update")
	}
	for _, change := range s.replaces {
		if _, action := w.plan(w.state, w.read(change)); action != "replace" {
			t.Errorf("%s: the plan is to %s, not to replace", change, action)
		}
	}
	if len(s.changes) > 0 {
		w.loses(base, s.changes[0])
	}
	for _, change := range s.forward {
		w.to(change, "update")
	}
	w.disappears()
	if s.again != nil {
		s.again()
	}
	w.to(s.always, "create")
	w.destroy()
	for _, leaf := range w.leaves() {
		if w.covered[leaf] == slices.Contains(s.never, leaf) {
			t.Errorf("attribute %s is set: %t", leaf, w.covered[leaf])
		}
	}
}

func (s *subject) resource() string { return "clusterd_" + strings.ToLower(s.kind.Name) }

// plugin is a run of Terraform's: a provider that has seen nothing yet.
func (w *walk) plugin() *plugin {
	w.Helper()
	settings := w.c.settings()
	settings["namespace"] = str(w.namespace)
	p := &plugin{w.T, newServer(w), w.schema}
	resp, err := p.server.ConfigureProvider(w.Context(), &tfprotov6.ConfigureProviderRequest{Config: p.value(w.schema.Provider.ValueType(), settings)})
	if err != nil || len(resp.Diagnostics) > 0 {
		w.Fatal(say(resp.Diagnostics), err)
	}
	return p
}

// block is the resource's schema.
func (w *walk) block() *tfprotov6.Schema { return w.schema.ResourceSchemas[w.resource()] }

func (p *plugin) resource(kind string) *tfprotov6.Schema { return p.schema.ResourceSchemas[kind] }

// to plans a change and applies it, and expects the action; and that there is
// nothing to do afterwards.
func (w *walk) to(change, action string) {
	w.Helper()
	config := w.read(change)
	foreseen, planned := w.plan(w.state, config)
	if planned != action {
		w.Fatalf("%s: the plan is to %s, not to %s", change, planned, action)
	}
	state, said := w.apply(w.state, config)
	if said != "" {
		w.Fatalf("%s: apply says %s", change, said)
	}
	w.agrees("apply of "+change, foreseen, state)
	w.state, w.config = state, config
	if fresh := w.refresh(); !fresh.Equal(state) {
		w.Fatalf("%s: after its apply a refresh shows %v", change, differ(state, fresh))
	}
	if next, again := w.plan(w.state, config); again != "none" {
		w.Fatalf("%s: after its apply the plan is to %s: %v", change, again, differ(state, next))
	}
}

// plan returns what Terraform would plan from a state, and which action that is.
func (w *walk) plan(state tftypes.Value, config attrs) (planned tftypes.Value, action string) {
	w.Helper()
	return w.planBy(w.plugin(), state, config)
}

func (w *walk) planBy(p *plugin, state tftypes.Value, config attrs) (planned tftypes.Value, action string) {
	w.Helper()
	planned, action, said := p.change(w.resource(), state, config)
	if strings.Contains(said, "error ") {
		w.Fatalf("plan says %s", said)
	}
	return planned, action
}

// change plans, and checks Terraform's rules for plans.
func (p *plugin) change(kind string, state tftypes.Value, config attrs) (planned tftypes.Value, action, said string) {
	p.t.Helper()
	resp, _ := p.propose(kind, state, config)
	t := p.resource(kind).ValueType()
	planned, err := resp.PlannedState.Unmarshal(t)
	if err != nil {
		return planned, "fail", say(resp.Diagnostics)
	}
	have, was := open(planned), open(state)
	for _, a := range p.resource(kind).Block.Attributes {
		want := config[a.Name]
		if !a.WriteOnly && !want.IsNull() && want.IsFullyKnown() && !have[a.Name].Equal(want) && !have[a.Name].Equal(was[a.Name]) {
			p.t.Errorf("%s: the plan has %s, neither what is declared nor what was", a.Name, have[a.Name])
		}
		if want.IsNull() && !a.Computed && !have[a.Name].IsNull() {
			p.t.Errorf("%s: the plan has %s, and nothing is declared", a.Name, have[a.Name])
		}
	}
	switch {
	case state.IsNull():
		action = "create"
	case len(resp.RequiresReplace) > 0:
		action = "replace"
	case planned.Equal(state):
		action = "none"
	default:
		action = "update"
	}
	return planned, action, say(resp.Diagnostics)
}

// propose asks for a plan. Terraform proposes what is declared, and what the
// cluster decides as it was.
func (p *plugin) propose(kind string, state tftypes.Value, config attrs) (*tfprotov6.PlanResourceChangeResponse, *tfprotov6.DynamicValue) {
	p.t.Helper()
	t := p.resource(kind).ValueType()
	was, proposed := open(state), maps.Clone(config)
	for _, a := range p.resource(kind).Block.Attributes {
		switch {
		case a.WriteOnly:
			proposed[a.Name] = tftypes.NewValue(a.Type, nil)
		case a.Computed && config[a.Name].IsNull() && was != nil:
			proposed[a.Name] = was[a.Name]
		case a.Computed && config[a.Name].IsNull():
			proposed[a.Name] = tftypes.NewValue(a.Type, tftypes.UnknownValue)
		}
	}
	resp, err := p.server.PlanResourceChange(p.t.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: kind, PriorState: p.wire(t, state), ProposedNewState: p.value(t, proposed), Config: p.value(t, config),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, p.value(t, config)
}

func (p *plugin) wire(t tftypes.Type, v tftypes.Value) *tfprotov6.DynamicValue {
	d, err := tfprotov6.NewDynamicValue(t, v)
	if err != nil {
		p.t.Fatal(err)
	}
	return &d
}

func open(v tftypes.Value) attrs {
	var m map[string]tftypes.Value
	if v.IsNull() || v.As(&m) != nil {
		return nil
	}
	return m
}

// apply plans again, as Terraform does, and applies that.
func (w *walk) apply(state tftypes.Value, config attrs) (tftypes.Value, string) {
	w.Helper()
	p := w.plugin()
	planned, given := p.propose(w.resource(), state, config)
	return w.finish(p, state, planned, given)
}

func (w *walk) finish(p *plugin, state tftypes.Value, planned *tfprotov6.PlanResourceChangeResponse, config *tfprotov6.DynamicValue) (tftypes.Value, string) {
	w.Helper()
	t := p.resource(w.resource()).ValueType()
	resp, err := p.server.ApplyResourceChange(w.Context(), &tfprotov6.ApplyResourceChangeRequest{
		TypeName: w.resource(), PriorState: p.wire(t, state), PlannedState: planned.PlannedState, Config: config, PlannedPrivate: planned.PlannedPrivate,
	})
	if err != nil {
		w.Fatal(err)
	}
	next, err := resp.NewState.Unmarshal(t)
	if err != nil {
		w.Fatal(err)
	}
	if !next.IsNull() && resp.NewIdentity == nil {
		w.Error("an apply returns no identity")
	}
	return next, errorsOf(resp.Diagnostics)
}

// errorsOf leaves out warnings.
func errorsOf(diags []*tfprotov6.Diagnostic) string {
	return say(slices.DeleteFunc(slices.Clone(diags), func(d *tfprotov6.Diagnostic) bool { return d.Severity != tfprotov6.DiagnosticSeverityError }))
}

// agrees expects that what was known in a plan is what came.
func (w *walk) agrees(what string, planned, got tftypes.Value) {
	w.Helper()
	came := open(got)
	for name, v := range open(planned) {
		if v.IsFullyKnown() && !v.Equal(came[name]) {
			w.Errorf("%s: %s was planned as %s and is %s: inconsistent", what, name, v, came[name])
		}
	}
}

// differ names the attributes in which two states differ.
func differ(a, b tftypes.Value) (out []string) {
	x, y := open(a), open(b)
	for name := range x {
		if !x[name].Equal(y[name]) {
			out = append(out, fmt.Sprintf("%s: %s, not %s", name, y[name], x[name]))
		}
	}
	return out
}

// refresh reads the object.
func (w *walk) refresh() tftypes.Value { w.Helper(); return w.readFrom(w.plugin(), w.state) }

func (w *walk) readFrom(p *plugin, state tftypes.Value) tftypes.Value {
	w.Helper()
	t := p.resource(w.resource()).ValueType()
	resp, err := p.server.ReadResource(w.Context(), &tfprotov6.ReadResourceRequest{TypeName: w.resource(), CurrentState: p.wire(t, state)})
	if err != nil || errorsOf(resp.Diagnostics) != "" {
		w.Fatalf("refresh says %s (%v)", say(resp.Diagnostics), err)
	}
	fresh, err := resp.NewState.Unmarshal(t)
	if err != nil {
		w.Fatal(err)
	}
	return fresh
}

// unknown plans a change whose attributes, and then keys of them, are known
// only to apply: the plan is no error, and what it knows is what comes.
func (w *walk) unknown(change string) {
	w.Helper()
	config := w.read(change)
	p := w.plugin()
	certain, _ := w.planBy(p, w.state, config)
	for name, v := range config {
		if v.IsNull() || name == "name" || v.Equal(w.config[name]) {
			continue
		}
		late := maps.Clone(config)
		late[name] = tftypes.NewValue(v.Type(), tftypes.UnknownValue)
		planned, _ := w.planBy(p, w.state, late)
		w.agrees("unknown "+name, planned, certain)
		var keys map[string]tftypes.Value
		if !v.Type().Is(tftypes.Object{}) || v.As(&keys) != nil {
			continue
		}
		for k, e := range keys {
			some := maps.Clone(keys)
			some[k] = tftypes.NewValue(e.Type(), tftypes.UnknownValue)
			late[name] = tftypes.NewValue(v.Type(), some)
			planned, _ := w.planBy(p, w.state, late)
			w.agrees("unknown "+name+"."+k, planned, certain)
		}
	}
}

// object is what the cluster keeps.
func (w *walk) object() map[string]json.RawMessage {
	w.Helper()
	name, namespace := w.names()
	var o map[string]json.RawMessage
	if err := w.c.Client().Call(w.Context(), http.MethodGet, client.Path(w.kind, namespace, name), nil, nil, &o); err != nil {
		w.Fatal(err)
	}
	return o
}

func (w *walk) names() (name, namespace string) {
	_ = open(w.state)["name"].As(&name)
	if v, ok := open(w.state)["namespace"]; ok {
		_ = v.As(&namespace)
	}
	return name, namespace
}

// meddle makes somebody else declare what an object was before.
func (w *walk) meddle(before map[string]json.RawMessage) (changed bool) {
	w.Helper()
	now := w.object()
	var was, is struct {
		Labels map[string]string `json:"labels"`
	}
	if json.Unmarshal(before["meta"], &was) != nil || json.Unmarshal(now["meta"], &is) != nil {
		w.Fatal("no meta")
	}
	if bytes.Equal(before["spec"], now["spec"]) && maps.Equal(was.Labels, is.Labels) {
		return false
	}
	name, namespace := w.names()
	body := map[string]any{"kind": w.kind.Name, "meta": map[string]any{"name": name, "namespace": namespace, "labels": was.Labels}, "spec": before["spec"]}
	if err := w.c.Client().Call(w.Context(), http.MethodPut, client.Path(w.kind, namespace, name), nil, body, nil); err != nil {
		w.Fatal(err)
	}
	return true
}

// drift: what somebody else declared shows in a refresh, and the plan is to put
// it right. Options of Terraform alone cannot drift.
func (w *walk) drift(base map[string]json.RawMessage, change string) {
	w.Helper()
	if !w.meddle(base) {
		return
	}
	fresh := w.refresh()
	if fresh.Equal(w.state) {
		w.Fatalf("%s: somebody else's change does not show", change)
	}
	w.state = fresh
	w.to(change, "update")
}

// loses: an apply whose plan was made from something else writes nothing, leaves
// the state of before, and the next plan is the same again.
func (w *walk) loses(base map[string]json.RawMessage, change string) {
	w.Helper()
	w.to(change, "update")
	p := w.plugin()
	planned, config := p.propose(w.resource(), w.state, w.read(`{"labels": {"mine": "yes"}}`))
	if !w.meddle(base) {
		w.Fatalf("%s is no change of what the cluster keeps", change)
	}
	state, said := w.finish(p, w.state, planned, config)
	if !strings.Contains(said, "outside of this plan") || !state.Equal(w.state) {
		w.Errorf("an apply over somebody else's change says %q, and leaves %v", said, differ(w.state, state))
	}
	if got := w.object(); !bytes.Equal(got["spec"], base["spec"]) {
		w.Errorf("a failed apply wrote %s", got["spec"])
	}
	w.state = w.refresh()
}

// imports: by id and by identity comes the same, and what is declared is no
// change of it.
func (w *walk) imports() {
	w.Helper()
	p := w.plugin()
	name, namespace := w.names()
	id := map[string]tftypes.Value{"name": str(name)}
	given, types := name, map[string]tftypes.Type{"name": tftypes.String}
	if _, namespaced := open(w.state)["namespace"]; namespaced {
		given = namespace + "/" + name
		id["namespace"], types["namespace"] = str(namespace), tftypes.String
	}
	it := tftypes.Object{AttributeTypes: types}
	for how, req := range map[string]*tfprotov6.ImportResourceStateRequest{
		"id":       {ID: given},
		"identity": {Identity: &tfprotov6.ResourceIdentityData{IdentityData: p.wire(it, tftypes.NewValue(it, id))}},
	} {
		req.TypeName = w.resource()
		resp, err := p.server.ImportResourceState(w.Context(), req)
		if err != nil || len(resp.Diagnostics) > 0 || len(resp.ImportedResources) != 1 {
			w.Fatalf("import by %s says %s (%v)", how, say(resp.Diagnostics), err)
		}
		state, err := resp.ImportedResources[0].State.Unmarshal(p.resource(w.resource()).ValueType())
		if err != nil {
			w.Fatal(err)
		}
		state = w.readFrom(w.plugin(), state)
		planned, _ := w.plan(state, w.config)
		was, will := open(state), open(planned)
		for _, a := range p.resource(w.resource()).Block.Attributes {
			_, declared := jsonField(w.kind.Spec, a.Name)
			if (declared || a.Computed) && !slices.Contains(w.silent, a.Name) && !will[a.Name].Equal(was[a.Name]) {
				w.Errorf("imported by %s, %s is %s and planned to be %s", how, a.Name, was[a.Name], will[a.Name])
			}
		}
	}
}

// disappears: what somebody else deleted is planned anew.
func (w *walk) disappears() {
	w.Helper()
	old := w.state
	w.destroy()
	w.state = old
	if w.state = w.refresh(); !w.state.IsNull() {
		w.Errorf("a refresh still finds what was deleted: %s", w.state)
	}
}

// protects: an object that is protected from deletion outlives a destroy, which
// says the way out.
func (w *walk) protects() {
	w.Helper()
	var on bool
	if v, ok := w.config["deletion_protection"]; !ok || v.As(&on) != nil || !on {
		return
	}
	p := w.plugin()
	t := p.resource(w.resource()).ValueType()
	resp, err := p.server.PlanResourceChange(w.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: w.resource(), PriorState: p.wire(t, w.state), ProposedNewState: p.null(t), Config: p.null(t)})
	if err != nil {
		w.Fatal(err)
	}
	state, said := w.finish(p, w.state, resp, p.null(t))
	if !strings.Contains(said, "deletion_protection") || !state.Equal(w.state) {
		w.Errorf("destroy of what is protected says %q, and leaves %s", said, state)
	}
	w.object()
}

// destroy returns once nothing is left.
func (w *walk) destroy() {
	w.Helper()
	p := w.plugin()
	t := p.resource(w.resource()).ValueType()
	resp, err := p.server.PlanResourceChange(w.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: w.resource(), PriorState: p.wire(t, w.state), ProposedNewState: p.null(t), Config: p.null(t)})
	if err != nil || errorsOf(resp.Diagnostics) != "" {
		w.Fatalf("plan of destroy says %s (%v)", say(resp.Diagnostics), err)
	}
	name, namespace := w.names()
	state, said := w.finish(p, w.state, resp, p.null(t))
	if said != "" || !state.IsNull() {
		w.Fatalf("destroy says %q and leaves %s", said, state)
	}
	w.state = state
	if err := w.c.Client().Call(w.Context(), http.MethodGet, client.Path(w.kind, namespace, name), nil, nil, nil); !api.Is(err, api.NotFound) {
		w.Errorf("%s %s is still there after destroy (%v)", w.kind.Name, name, err)
	}
}
