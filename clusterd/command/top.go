package command

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) top() *cobra.Command {
	cmd := &cobra.Command{Use: "top", Short: "Show what pods and nodes use now, of what is reserved"}
	var all bool
	pods := &cobra.Command{
		Use: "pods", Short: "Show what pods use now, the busiest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ns := c.to.ns()
			if all {
				ns = ""
			}
			return c.usage(cmd.Context(), ns, c.topPods)
		},
	}
	pods.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	cmd.AddCommand(pods, &cobra.Command{
		Use: "nodes", Short: "Show what the pods of each node use now", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.usage(cmd.Context(), "", c.topNodes) },
	})
	return cmd
}

// usage asks for what pods use, and has it shown.
func (c *cli) usage(ctx context.Context, ns string, show func(context.Context, *client.Client, []api.PodUsage, []*api.Pod) error) error {
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	var said api.UsageAnswer
	q := url.Values{}
	if ns != "" {
		q.Set("namespace", ns)
	}
	if err := cl.Call(ctx, http.MethodGet, "/v1/usage", q, nil, &said); err != nil {
		return err
	}
	pods, _, err := client.Of(cl, api.Pods).List(ctx, ns, nil)
	if err != nil {
		return err
	}
	if len(said.Mute) > 0 {
		fmt.Fprintf(plain{c.err}, "%s did not answer: their pods are missing\n", strings.Join(said.Mute, ", "))
	}
	return show(ctx, cl, said.Items, pods)
}

func (c *cli) topPods(_ context.Context, _ *client.Client, used []api.PodUsage, pods []*api.Pod) error {
	of := map[string]*api.Pod{}
	for _, p := range pods {
		of[p.Meta.UID] = p
	}
	slices.SortStableFunc(used, func(a, b api.PodUsage) int { return int(b.CPU - a.CPU) })
	t := table{header: []string{"NAMESPACE", "NAME", "NODE", "CPU", "OF", "MEMORY", "OF"}}
	for _, u := range used {
		pod := of[u.UID]
		if pod == nil {
			continue
		}
		cpu, memory := pod.Spec.Requests()
		t.rows = append(t.rows, append([]string{u.Namespace, u.Pod, u.Node}, shares(u.CPU, cpu, u.Memory, memory)...))
	}
	return c.printTable(t)
}

func (c *cli) topNodes(ctx context.Context, cl *client.Client, used []api.PodUsage, _ []*api.Pod) error {
	nodes, _, err := client.Of(cl, api.Nodes).List(ctx, "", nil)
	if err != nil {
		return err
	}
	t := table{header: []string{"NAME", "PODS", "CPU", "OF", "MEMORY", "OF"}}
	for _, n := range nodes {
		var cpu, memory int64
		pods := 0
		for _, u := range used {
			if u.Node == n.Meta.Name {
				cpu, memory, pods = cpu+u.CPU, memory+u.Memory, pods+1
			}
		}
		has := n.Status.Allocatable
		t.rows = append(t.rows, append([]string{n.Meta.Name, fmt.Sprint(pods)}, shares(cpu, has.CPU.Milli(), memory, has.Memory.Bytes())...))
	}
	return c.printTable(t)
}

func (c *cli) printTable(t table) error {
	for _, l := range t.lines() {
		fmt.Fprintln(plain{c.out}, strings.TrimRight(l, " "))
	}
	return nil
}

// shares are the cells of used and reserved cpu and memory.
func shares(cpu, ofCPU, memory, ofMemory int64) []string {
	percent := func(used, of int64) string {
		if of == 0 {
			return "-"
		}
		return fmt.Sprintf("%d%%", used*100/of)
	}
	return []string{fmt.Sprintf("%dm", cpu), percent(cpu, ofCPU), fmt.Sprintf("%dMi", memory>>20), percent(memory, ofMemory)}
}
