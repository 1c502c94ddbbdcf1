//go:build !race

package provider_test

import (
	"path/filepath"
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// TestNode: a machine is waited for, labelled, tainted, drained and taken back;
// destroy drains it and forgets it. The example is the first step.
func TestNode(t *testing.T) {
	acceptance(t)
	c := &cluster{Cluster: testcluster.Start(t, testcluster.Config{Nodes: 1})}
	nodes := client.Of(c.Client(), api.Nodes)
	const w9 = "clusterd_node.w9"
	step := func(rest string, action plancheck.ResourceActionType, checks ...resource.TestCheckFunc) resource.TestStep {
		return resource.TestStep{Config: c.config("default", "resource \"clusterd_node\" \"w9\" {\n  name = \"w9\"\n%s\n}\n", rest),
			ConfigPlanChecks: plans(w9, action), Check: resource.ComposeTestCheckFunc(checks...)}
	}
	node := func() *api.Node {
		n, err := nodes.Get(t.Context(), "", "w9")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	late := resource.TestStep{Config: step(`timeouts = { create = "1s" }`, plancheck.ResourceActionCreate).Config,
		ExpectError: regexp.MustCompile(`(?s)no\s+machine\s+of\s+this\s+name`)}
	apply(t, late)
	c.AddNode("w9") // it is ready a moment later
	example := read(t, filepath.Join("../examples/resources/clusterd_node", "resource.tf"))
	apply(t,
		resource.TestStep{Config: c.config("default", "%s", example), ConfigPlanChecks: plans(w9, plancheck.ResourceActionCreate), Check: resource.ComposeTestCheckFunc(
			resource.TestCheckResourceAttr(w9, "id", "w9"),
			resource.TestCheckResourceAttrSet(w9, "address"))},
		resource.TestStep{ResourceName: w9, ImportState: true, ImportStateVerify: true, ImportStateVerifyIgnore: []string{"timeouts"}},
		step(`  labels   = { zone = "b" }
  cordoned = true`, plancheck.ResourceActionUpdate),
		step(`  drain = { deadline = "1m" }`, plancheck.ResourceActionUpdate, func(*terraform.State) error {
			if d := node().Status.Drain; d == nil || d.Phase != api.DrainDone {
				t.Errorf("apply returned before the drain was over: %+v", d)
			}
			return nil
		}),
		step(``, plancheck.ResourceActionUpdate, func(*terraform.State) error {
			if n := node(); n.Spec.Drain != nil || n.Spec.Cordoned || len(n.Meta.Labels) > 0 {
				t.Errorf("%+v", n.Spec)
			}
			return nil
		}),
	)
	if _, err := nodes.Get(t.Context(), "", "w9"); !api.Is(err, api.NotFound) {
		t.Errorf("the node is still there after destroy (%v)", err)
	}
}

// TestNodeAttributes takes a node through what every other kind is taken
// through. Its machine joins before it is declared, and again once it is lost.
func TestNodeAttributes(t *testing.T) {
	acceptance(t)
	c := &cluster{Cluster: testcluster.Start(t, testcluster.Config{})}
	c.AddNode("w9")
	n, err := client.Of(c.Client(), api.Nodes).Get(t.Context(), "", "w9")
	if err != nil {
		t.Fatal(err)
	}
	s := &subject{
		kind:   api.Nodes.Info(),
		always: `{"name": "w9"}`,
		changes: []string{
			`{"cordoned": true}`,
			`{"labels": {"zone": "b"}}`,
			`{"taints": {"dedicated": "shop:no_schedule"}}`,
			`{"drain": {"deadline": "1m"}}`,
			`{"subnet": "` + n.Effective.Subnet + `"}`,
			`{"adopt": true}`, `{"timeouts": {"create": "2m", "update": "2m", "delete": "1m"}}`,
		},
		replaces: []string{`{"name": "w10"}`},
		again:    func() { c.AddNode("w9") },
	}
	t.Run("walk", func(t *testing.T) { s.run(t, c) })
}
