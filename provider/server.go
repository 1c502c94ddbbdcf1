package provider

import (
	"bytes"
	"context"
	"maps"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// NewServer returns the provider as Terraform talks to it. Most of a large plan
// changes nothing, and the framework takes milliseconds of each resource to find
// that out: it copies the schema for every attribute it looks at. What Terraform
// proposes to leave as it is, and ModifyPlan would too, is answered without it.
func NewServer(version string) tfprotov6.ProviderServer {
	p := &clusterd{version: version}
	s := &server{ProviderServer: providerserver.NewProtocol6(p)(), provider: p, kinds: map[string]standing{}}
	ctx := context.Background()
	for _, newResource := range p.Resources(ctx) {
		made := newResource()
		var (
			name resource.MetadataResponse
			of   resource.SchemaResponse
			by   resource.IdentitySchemaResponse
		)
		made.Metadata(ctx, resource.MetadataRequest{ProviderTypeName: providerName}, &name)
		made.Schema(ctx, resource.SchemaRequest{}, &of)
		r, ok := made.(stander)
		if !ok {
			continue
		}
		r.IdentitySchema(ctx, resource.IdentitySchemaRequest{}, &by)
		it := by.IdentitySchema.Type().TerraformType(ctx)
		if none, err := tfprotov6.NewDynamicValue(it, tftypes.NewValue(it, nil)); err == nil {
			s.kinds[name.TypeName] = standing{r, of.Schema.Type().TerraformType(ctx), &tfprotov6.ResourceIdentityData{IdentityData: &none}}
		}
	}
	return s
}

// server is the framework's, and what it need not be asked.
type server struct {
	tfprotov6.ProviderServer
	provider *clusterd
	kinds    map[string]standing
}

// stander is a resource that can tell whether its plan is its state.
type stander interface {
	resource.ResourceWithIdentity
	stands(c *cluster, state, config values) bool
}

type standing struct {
	stander
	typ       tftypes.Type                    // on the wire
	anonymous *tfprotov6.ResourceIdentityData // where Terraform sends no identity with a plan
}

// PlanResourceChange plans one resource.
func (s *server) PlanResourceChange(ctx context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	if !s.stands(req) {
		return s.ProviderServer.PlanResourceChange(ctx, req)
	}
	identity := req.PriorIdentity
	if identity == nil {
		identity = s.kinds[req.TypeName].anonymous
	}
	return &tfprotov6.PlanResourceChangeResponse{
		PlannedState: req.PriorState, PlannedPrivate: req.PriorPrivate, PlannedIdentity: identity,
	}, nil
}

// stands reports whether the plan is the state. Then nothing in it is unknown,
// and no attribute's own modifier has a change to look at.
func (s *server) stands(req *tfprotov6.PlanResourceChangeRequest) bool {
	kind, ok := s.kinds[req.TypeName]
	c := s.provider.cluster.Load()
	if !ok || c == nil || req.PriorState == nil || req.ProposedNewState == nil || req.Config == nil ||
		len(req.PriorState.MsgPack) == 0 || !bytes.Equal(req.PriorState.MsgPack, req.ProposedNewState.MsgPack) {
		return false
	}
	state, err1 := req.PriorState.Unmarshal(kind.typ)
	config, err2 := req.Config.Unmarshal(kind.typ)
	return err1 == nil && err2 == nil && kind.stands(c, valuesOf(state), valuesOf(config))
}

// stands reports whether ModifyPlan leaves a plan that is the state as it is.
func (r *kindResource[S, T]) stands(c *cluster, state, config values) bool {
	if state == nil || config == nil || r.hidden != nil {
		return false // it goes, or its plan depends on what no state has
	}
	here := *r
	here.cluster = c
	plan := maps.Clone(state)
	here.place(plan, state, config)
	o, _ := here.object(plan)
	here.foresee(plan, state, o)
	return maps.EqualFunc(plan, state, tftypes.Value.Equal)
}
