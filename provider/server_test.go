package provider_test

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/provider"
)

// agrees plans again in a server that is only the framework's, and in this one:
// with the identity Terraform knows of the state, and as Terraform before 1.12
// does, without. What is answered without the framework is what it says, and
// what stays as it is is answered without it.
func (p *plugin) agrees(req *tfprotov6.PlanResourceChangeRequest, state attrs) {
	p.t.Helper()
	plain := providerserver.NewProtocol6(provider.New("test"))()
	if _, err := plain.ConfigureProvider(p.t.Context(), &tfprotov6.ConfigureProviderRequest{Config: p.config}); err != nil {
		p.t.Fatal(err)
	}
	id, types := attrs{}, map[string]tftypes.Type{}
	for _, name := range []string{"name", "namespace"} {
		if v, ok := state[name]; ok {
			id[name], types[name] = v, tftypes.String
		}
	}
	it := tftypes.Object{AttributeTypes: types}
	known := &tfprotov6.ResourceIdentityData{IdentityData: p.wire(it, tftypes.NewValue(it, map[string]tftypes.Value(id)))}
	for _, req.PriorIdentity = range []*tfprotov6.ResourceIdentityData{nil, known} {
		want, err1 := plain.PlanResourceChange(p.t.Context(), req)
		got, err2 := p.server.PlanResourceChange(p.t.Context(), req)
		if err1 != nil || err2 != nil {
			p.t.Fatal(err1, err2)
		}
		a, b := p.answer(req.TypeName, it, want), p.answer(req.TypeName, it, got)
		if a != b {
			p.t.Errorf("identity %v: the framework plans\n%s\nand the provider\n%s", req.PriorIdentity != nil, a, b)
		}
		stays := bytes.Equal(req.PriorState.MsgPack, req.ProposedNewState.MsgPack) && bytes.Equal(got.PlannedState.MsgPack, req.PriorState.MsgPack)
		if _, hidden := state["data_wo"]; stays && !hidden && got.PlannedState != req.PriorState {
			p.t.Error("the framework was asked about what stays as it is")
		}
	}
}

// answer renders all of a plan.
func (p *plugin) answer(kind string, it tftypes.Type, r *tfprotov6.PlanResourceChangeResponse) string {
	p.t.Helper()
	state, err := r.PlannedState.Unmarshal(p.resource(kind).ValueType())
	if err != nil {
		p.t.Fatal(err)
	}
	identity, err := r.PlannedIdentity.IdentityData.Unmarshal(it)
	if err != nil {
		p.t.Fatal(err)
	}
	var replace []string
	for _, at := range r.RequiresReplace {
		replace = append(replace, at.String())
	}
	slices.Sort(replace)
	return fmt.Sprintf("%s\nidentity %s\nprivate %q\nreplaces %s\n%s", state, identity, r.PlannedPrivate, replace, say(r.Diagnostics))
}
