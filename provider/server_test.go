package provider_test

import (
	"slices"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// agrees plans again with the identity that Terraform knows of the state: what
// the provider answers without the framework is what the framework said.
func (p *plugin) agrees(req *tfprotov6.PlanResourceChangeRequest, said *tfprotov6.PlanResourceChangeResponse, state attrs) {
	p.t.Helper()
	id, types := attrs{}, map[string]tftypes.Type{}
	for _, name := range []string{"name", "namespace"} {
		if v, ok := state[name]; ok {
			id[name], types[name] = v, tftypes.String
		}
	}
	it := tftypes.Object{AttributeTypes: types}
	req.PriorIdentity = &tfprotov6.ResourceIdentityData{IdentityData: p.wire(it, tftypes.NewValue(it, map[string]tftypes.Value(id)))}
	resp, err := p.server.PlanResourceChange(p.t.Context(), req)
	if err != nil {
		p.t.Fatal(err)
	}
	if say(resp.Diagnostics) != say(said.Diagnostics) || !slices.EqualFunc(resp.RequiresReplace, said.RequiresReplace, (*tftypes.AttributePath).Equal) {
		p.t.Errorf("with an identity the plan says %s and replaces for %v; without one %s, %v", say(resp.Diagnostics), resp.RequiresReplace, say(said.Diagnostics), said.RequiresReplace)
	}
	t := p.resource(req.TypeName).ValueType()
	got, err1 := resp.PlannedState.Unmarshal(t)
	want, err2 := said.PlannedState.Unmarshal(t)
	if err1 != nil || err2 != nil || !got.Equal(want) {
		p.t.Errorf("with an identity the plan is %s, without one %s (%v, %v)", got, want, err1, err2)
	}
	if resp.PlannedIdentity == nil {
		p.t.Error("the plan has lost the identity")
	}
}
