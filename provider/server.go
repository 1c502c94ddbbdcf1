package provider

import (
	"bytes"
	"cmp"
	"context"
	"maps"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// Server is the provider as Terraform speaks to it: the framework's, but for
// plans that change nothing.
//
// Of a large configuration nearly every plan is one, and for it the framework
// copies the schema once for each attribute and pass: half of the provider's
// CPU. The answer is the one the framework gives; the tests ask for both.
type Server struct {
	tfprotov6.ProviderServer
	provider *clusterd
	steady   map[string]steady // by the type's name; the same for the whole run
}

// steady is a resource whose unchanged plans need no framework.
type steady struct {
	standing
	of tftypes.Type
}

type standing interface {
	// stands reports whether the plan to leave a resource as its state says is
	// all there is to say.
	stands(prior, config values) bool
}

// NewServer returns the provider. The cluster records its version as who wrote.
func NewServer(version string) *Server {
	p := &clusterd{version: version}
	return &Server{ProviderServer: providerserver.NewProtocol6(p)(), provider: p}
}

// ConfigureProvider satisfies tfprotov6.ProviderServer. Terraform plans nothing
// before its answer.
func (s *Server) ConfigureProvider(ctx context.Context, req *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	resp, err := s.ProviderServer.ConfigureProvider(ctx, req)
	if s.provider.cluster != nil {
		s.steady = s.provider.standing(ctx)
	}
	return resp, err
}

// PlanResourceChange satisfies tfprotov6.ProviderServer.
func (s *Server) PlanResourceChange(ctx context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	if s.stands(req) {
		return &tfprotov6.PlanResourceChangeResponse{
			PlannedState: req.PriorState, PlannedPrivate: req.PriorPrivate, PlannedIdentity: cmp.Or(req.PriorIdentity, nobody),
		}, nil
	}
	return s.ProviderServer.PlanResourceChange(ctx, req)
}

// nobody is the identity of what has none yet: Terraform before 1.12 keeps none.
var nobody = &tfprotov6.ResourceIdentityData{IdentityData: &tfprotov6.DynamicValue{MsgPack: []byte{msgpackNull}}}

const msgpackNull = 0xc0

// stands reports whether neither the configuration nor the provider's own block
// changes anything of a resource.
func (s *Server) stands(req *tfprotov6.PlanResourceChangeRequest) bool {
	r, ok := s.steady[req.TypeName]
	if !ok || req.PriorState == nil || req.ProposedNewState == nil || req.Config == nil {
		return false
	}
	if same := bytes.Equal(req.PriorState.MsgPack, req.ProposedNewState.MsgPack); !same || len(req.PriorState.MsgPack) == 0 {
		return false
	}
	prior, err1 := req.PriorState.Unmarshal(r.of)
	config, err2 := req.Config.Unmarshal(r.of)
	return err1 == nil && err2 == nil && r.stands(valuesOf(prior), valuesOf(config))
}

// standing makes each resource that can judge its own unchanged plans.
func (p *clusterd) standing(ctx context.Context) map[string]steady {
	all := map[string]steady{}
	for _, newResource := range p.Resources(ctx) {
		r := newResource()
		known, ok := r.(standing)
		if !ok {
			continue
		}
		r.(resource.ResourceWithConfigure).Configure(ctx, resource.ConfigureRequest{ProviderData: p.cluster}, &resource.ConfigureResponse{})
		var (
			name   resource.MetadataResponse
			schema resource.SchemaResponse
		)
		r.Metadata(ctx, resource.MetadataRequest{ProviderTypeName: providerName}, &name)
		r.Schema(ctx, resource.SchemaRequest{}, &schema)
		all[name.TypeName] = steady{known, schema.Schema.Type().TerraformType(ctx)}
	}
	return all
}

func (r *kindResource[O]) stands(prior, config values) bool {
	if prior == nil || r.hidden != nil { // what is hidden is in no state to compare with
		return false
	}
	plan := maps.Clone(prior)
	r.place(plan, prior, config)
	o, _ := r.object(plan)
	r.foresee(plan, prior, o)
	return maps.EqualFunc(plan, prior, tftypes.Value.Equal)
}
