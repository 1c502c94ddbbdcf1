package provider

import (
	"cmp"
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// nodesView is the cluster's machines.
type nodesView struct {
	Nodes map[string]nodeView `json:"nodes" doc:"The nodes by name."`
}

type nodeView struct {
	Health   string            `json:"health" doc:"The cluster's verdict: joining, ready, agent_down, partitioned, dead, left."`
	Message  string            `json:"message" doc:"Why, in words."`
	Cordoned bool              `json:"cordoned" doc:"No new pods are placed here."`
	Address  string            `json:"address" doc:"Where other nodes reach it."`
	Subnet   string            `json:"subnet" doc:"Addresses of its pods."`
	CPU      string            `json:"cpu" doc:"CPU that pods may reserve."`
	Memory   string            `json:"memory" doc:"Memory that pods may reserve."`
	Pods     int               `json:"pods" doc:"How many pods fit."`
	Version  string            `json:"version" doc:"Version of its agent."`
	OS       string            `json:"os" doc:"Operating system."`
	Arch     string            `json:"arch" doc:"Processor architecture."`
	Labels   map[string]string `json:"labels" doc:"Labels that apps place their pods by."`
}

// newNodesData returns the data source clusterd_nodes.
func newNodesData() datasource.DataSource {
	return &dataSource[nodesView]{
		name: "nodes",
		doc:  "The machines that run pods: their capacity, labels and health.",
		inputs: map[string]schema.Attribute{
			"labels": inputLabels,
		},
		read: readNodes,
	}
}

func readNodes(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *nodesView {
	v := &nodesView{Nodes: map[string]nodeView{}}
	for _, n := range listAll(ctx, c, api.Nodes, "", labelFilter(in), diags) {
		can := n.Status.Allocatable
		v.Nodes[n.Meta.Name] = nodeView{
			Health: string(cmp.Or(n.Status.Health.Verdict, api.VerdictJoining)), Message: n.Status.Health.Message, Cordoned: n.Spec.Cordoned,
			Address: n.Status.Address, Subnet: n.Effective.Subnet, CPU: string(can.CPU), Memory: string(can.Memory), Pods: can.Pods,
			Version: n.Status.Version, OS: n.Status.OS, Arch: n.Status.Arch, Labels: n.Meta.Labels,
		}
	}
	return v
}
