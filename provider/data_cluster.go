package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// clusterView is the cluster as a whole.
type clusterView struct {
	Version  string                `json:"version" doc:"Version of the leading server."`
	Leader   string                `json:"leader" doc:"Name of the leading server."`
	Servers  map[string]serverView `json:"servers" doc:"The servers of the control plane by name."`
	Nodes    int                   `json:"nodes" doc:"Nodes."`
	Ready    int                   `json:"ready" doc:"Nodes that take pods."`
	Capacity amountsView           `json:"capacity" doc:"What pods may reserve on the nodes that take some."`
	Reserved amountsView           `json:"reserved" doc:"What the pods on those nodes reserve."`
	Free     amountsView           `json:"free" doc:"What is left. One pod can have no more than one node has left."`
}

type serverView struct {
	Address string `json:"address" doc:"Host and port of its API."`
	Role    string `json:"role" doc:"leader, voter, or learner while it joins; standby is one that does not lead where an etcd of the operator's has the state."`
	Version string `json:"version" doc:"Its version."`
}

type amountsView struct {
	MilliCPU int    `json:"millicpu" doc:"Thousandths of a core."`
	Memory   string `json:"memory" doc:"Memory, in Mi."`
	Pods     int    `json:"pods" doc:"Pods."`
}

// room is sums on the way to an amountsView.
type room struct{ cpu, memory, pods int64 }

func (a room) view() amountsView {
	return amountsView{int(a.cpu), fmt.Sprintf("%dMi", a.memory>>20), int(a.pods)}
}

// newClusterData returns the data source clusterd_cluster.
func newClusterData() datasource.DataSource {
	return &dataSource[clusterView]{
		name: "cluster", doc: "The cluster as a whole: its servers, and how much room its nodes have.",
		read: readCluster,
	}
}

func readCluster(ctx context.Context, c *cluster, _ values, diags *diag.Diagnostics) *clusterView {
	v := &clusterView{Servers: map[string]serverView{}}
	for _, s := range listAll(ctx, c, api.Servers, "", nil, diags) {
		v.Servers[s.Meta.Name] = serverView{s.Spec.Address, string(s.Status.Role), s.Status.Version}
		if s.Status.Role == api.ServerLeader {
			v.Leader, v.Version = s.Meta.Name, s.Status.Version
		}
	}
	var has, taken room
	open := map[string]bool{}
	for _, n := range listAll(ctx, c, api.Nodes, "", nil, diags) {
		v.Nodes++
		if !n.Status.Health.Schedulable() || n.Spec.Cordoned || n.Spec.Drain != nil {
			continue
		}
		can := n.Status.Allocatable
		open[n.Meta.Name] = true
		v.Ready++
		has = room{has.cpu + can.CPU.Milli(), has.memory + can.Memory.Bytes(), has.pods + int64(can.Pods)}
	}
	for _, p := range listAll(ctx, c, api.Pods, "", nil, diags) {
		if open[p.Spec.Node] && !p.Status.Phase.Ended() {
			cpu, memory := p.Spec.Requests()
			taken = room{taken.cpu + cpu, taken.memory + memory, taken.pods + 1}
		}
	}
	v.Capacity, v.Reserved = has.view(), taken.view()
	v.Free = room{has.cpu - taken.cpu, has.memory - taken.memory, has.pods - taken.pods}.view()
	v.Version = strings.TrimPrefix(v.Version, "v")
	return v
}
