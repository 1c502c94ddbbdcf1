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
		)
		made.Metadata(ctx, resource.MetadataRequest{ProviderTypeName: providerName}, &name)
		made.Schema(ctx, resource.SchemaRequest{}, &of)
		if r, ok := made.(stander); ok {
			s.kinds[name.TypeName] = standing{r, of.Schema.Type().TerraformType(ctx)}
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
	stands(c *cluster, state, config values) bool
}

type standing struct {
	stander
	typ tftypes.Type // on the wire
}

// PlanResourceChange plans one resource.
func (s *server) PlanResourceChange(ctx context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	if !s.stands(req) {
		return s.ProviderServer.PlanResourceChange(ctx, req)
	}
	return &tfprotov6.PlanResourceChangeResponse{
		PlannedState: req.PriorState, PlannedPrivate: req.PriorPrivate, PlannedIdentity: req.PriorIdentity,
	}, nil
}

// stands reports whether the plan is the state. Then nothing in it is unknown,
// and no attribute's own modifier has a change to look at.
func (s *server) stands(req *tfprotov6.PlanResourceChangeRequest) bool {
	kind, ok := s.kinds[req.TypeName]
	c := s.provider.cluster.Load()
	if !ok || c == nil || req.PriorState == nil || req.PriorIdentity == nil || req.ProposedNewState == nil || req.Config == nil ||
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
