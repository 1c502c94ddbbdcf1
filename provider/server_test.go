package provider_test

import (
	"context"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/provider"
)

// server is the provider of all these tests. What it answers without the
// framework must be what the framework says.
type server struct {
	*provider.Server
	t testing.TB
}

func newServer(t testing.TB) *server { return &server{provider.NewServer("test"), t} }

func (s *server) PlanResourceChange(ctx context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	resp, err := s.Server.PlanResourceChange(ctx, req)
	if err != nil || resp.PlannedState != req.PriorState {
		return resp, err
	}
	want, err := s.ProviderServer.PlanResourceChange(ctx, req)
	if err != nil {
		return nil, err
	}
	schema, err := s.GetProviderSchema(ctx, &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		return nil, err
	}
	identities, err := s.GetResourceIdentitySchemas(ctx, &tfprotov6.GetResourceIdentitySchemasRequest{})
	if err != nil {
		return nil, err
	}
	state, identity := schema.ResourceSchemas[req.TypeName].ValueType(), identities.IdentitySchemas[req.TypeName].ValueType()
	switch {
	case !alike(s.t, state, resp.PlannedState, want.PlannedState),
		!alike(s.t, identity, resp.PlannedIdentity.IdentityData, want.PlannedIdentity.IdentityData),
		!slices.Equal(resp.PlannedPrivate, want.PlannedPrivate),
		len(want.Diagnostics)+len(want.RequiresReplace) > 0, want.Deferred != nil:
		s.t.Errorf("%s: the plan of what stands is not what the framework says: %+v", req.TypeName, want)
	}
	return resp, nil
}

func alike(t testing.TB, of tftypes.Type, a, b *tfprotov6.DynamicValue) bool {
	x, err1 := a.Unmarshal(of)
	y, err2 := b.Unmarshal(of)
	if err1 != nil || err2 != nil {
		t.Error(err1, err2)
	}
	return x.Equal(y)
}
