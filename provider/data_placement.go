package provider

import (
	"context"
	"net/http"
	"net/url"
	"reflect"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// placementAsk is what pods would ask of their nodes.
type placementAsk struct {
	Replicas  *int           `json:"replicas"`
	CPU       api.CPU        `json:"cpu"`
	Memory    api.Memory     `json:"memory"`
	Placement *api.Placement `json:"placement"`
}

// placementView is where such pods would run.
type placementView struct {
	Namespace string              `json:"namespace" doc:"Namespace they would be in. Default: the provider's."`
	Fits      int                 `json:"fits" doc:"How many of them would find a node now."`
	Message   string              `json:"message" doc:"Why the others would not; empty when all would."`
	Nodes     map[string]nodeFits `json:"nodes" doc:"Every node by name."`
}

type nodeFits struct {
	Fits   bool   `json:"fits" doc:"One more of the pods could run there now."`
	Reason string `json:"reason" doc:"Why not."`
}

// newPlacementData returns the data source clusterd_placement.
func newPlacementData() datasource.DataSource {
	return &dataSource[placementView]{
		name: "placement", doc: "Where pods would run now, by the scheduler's own word, and why not elsewhere. Nothing is kept free for them.",
		inputs: map[string]schema.Attribute{
			"namespace": inputNamespace,
			"replicas":  schema.NumberAttribute{Optional: true, MarkdownDescription: "How many pods. Default: `1`."},
			"cpu":       schema.StringAttribute{Optional: true, MarkdownDescription: "CPU each asks for, such as 500m. Default: the namespace's."},
			"memory":    schema.StringAttribute{Optional: true, MarkdownDescription: "Memory each asks for, such as 256Mi. Default: the namespace's."},
			"placement": schema.DynamicAttribute{Optional: true, MarkdownDescription: "Where they may and should run, as in `clusterd_app`. " + keysOf(reflect.TypeFor[api.Placement](), 1)},
		},
		read: readPlacement,
	}
}

func readPlacement(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *placementView {
	var ask placementAsk
	var r reader
	for _, f := range fields(reflect.TypeFor[placementAsk]()) {
		r.expand(in[f.name], reflect.ValueOf(&ask).Elem().FieldByIndex(f.index), path.Root(f.name))
	}
	for _, f := range r.faults {
		diags.AddAttributeError(f.at, "Bad "+f.at.String(), sentence(f.message))
	}
	if diags.HasError() {
		return nil
	}
	v := &placementView{Namespace: c.namespaceOf(in), Nodes: map[string]nodeFits{}}
	// An app that is not there, and never will be: only its pods' wishes count.
	app := &api.App{Kind: api.Apps.Name, Meta: api.Meta{Name: "placement-is-asked", Namespace: v.Namespace}}
	app.Spec.Image = "any"
	app.Spec.Replicas, app.Spec.CPU, app.Spec.Memory, app.Spec.Placement = ask.Replicas, ask.CPU, ask.Memory, ask.Placement
	var p api.WritePlan
	err := c.client.Call(ctx, http.MethodPost, client.Path(api.Apps.Info(), v.Namespace, app.Meta.Name)+"/plan", url.Values{"nodes": {"true"}}, app, &p)
	switch {
	case err != nil:
		diags.AddError("Cannot ask where pods would run", sentence(err.Error()))
		return nil
	case len(p.Errors) > 0:
		for _, e := range p.Errors {
			diags.AddAttributeError(visible(attributePath(e.Path, reflect.TypeFor[api.AppSpec]())), "Bad value", sentence(e.Message))
		}
		return nil
	case p.Placement == nil: // refused before anybody looked for nodes
		for _, w := range p.Warnings {
			v.Message = w.Message
		}
		return v
	}
	v.Fits, v.Message = p.Placement.Fits, p.Placement.Message
	for name, why := range p.Placement.Nodes {
		v.Nodes[name] = nodeFits{why == "", why}
	}
	return v
}
