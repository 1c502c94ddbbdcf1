//go:build !race

package provider_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// TestAcceptance drives the real Terraform against a real cluster whose nodes
// run nothing: layer 5. It and all that only it needs is left out under the race
// detector: its time goes into hundreds of processes that the detector does not see.
func TestAcceptance(t *testing.T) {
	acceptance(t)
	c := &cluster{testcluster.Start(t, testcluster.Config{Nodes: 3}), sync.OnceValue(func() string { return program(t) })}
	for name, test := range map[string]func(*testing.T, *cluster){
		"Stories":         testStories,
		"Failing":         testFailing,
		"Reading":         testReading,
		"BadConfig":       testBadConfig,
		"AppCreateFails":  testAppCreateFails,
		"AppConflict":     testAppConflict,
		"AppNoWait":       testAppNoWait,
		"Unknown":         testUnknown,
		"JobFails":        testJobFails,
		"Quota":           testQuota,
		"LeadsNowhere":    testServiceLeadsNowhere,
		"Powers":          testPowers,
		"NoNamespace":     testNoNamespace,
		"PlanWarnings":    testPlanWarnings,
		"DryRun":          testDryRun,
		"Interrupt":       testInterrupt,
		"Examples":        testExamples,
		"ProviderExample": testProviderExample,
		"NginxExample":    testNginxExample,
		"Binary":          testBinary,
		"EphemeralToken":  testEphemeralToken,
		"JoinToken":       testJoinToken,
		"Modules":         testModules,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
	for kind, s := range subjects {
		t.Run("Attributes"+kind, func(t *testing.T) {
			t.Parallel()
			s.run(t, c)
		})
	}
}

// acceptance skips what drives the real Terraform where that is not wanted.
func acceptance(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("layer 5: make testacc runs it, without -short")
	}
}

// config is HCL with the provider's block of the cluster before it.
func (c *cluster) config(namespace, hcl string, args ...any) string {
	return fmt.Sprintf("provider \"clusterd\" {\n  address   = %q\n  token     = %q\n  ca_file   = %q\n  namespace = %q\n}\n", c.URL(), c.Token(), c.CAFile(), namespace) +
		fmt.Sprintf(hcl, args...)
}

// apply runs the steps, and then destroys what is left.
func apply(t *testing.T, steps ...resource.TestStep) {
	t.Helper()
	applyCase(t, resource.TestCase{}, steps...)
}

// applyCase is apply with options.
func applyCase(t *testing.T, options resource.TestCase, steps ...resource.TestStep) {
	t.Helper()
	options.Steps = steps
	options.ProtoV6ProviderFactories = map[string]func() (tfprotov6.ProviderServer, error){
		"clusterd": func() (tfprotov6.ProviderServer, error) { return newServer(t), nil },
	}
	resource.UnitTest(t, options)
}

// refused plans a configuration of mistakes, each in a resource of its own, and
// expects what Terraform says of each resource; and that it says nothing else.
func refused(t *testing.T, config string, want map[string]string) {
	t.Helper()
	at := regexp.MustCompile(`in resource "(\w+)" "(\w+)":`)
	said := map[string]string{}
	applyCase(t, resource.TestCase{ErrorCheck: func(err error) error {
		for _, e := range strings.Split(err.Error(), "\nError: ")[1:] {
			address := "no resource"
			if m := at.FindStringSubmatch(e); m != nil {
				address = m[1] + "." + m[2]
			}
			if said[address] += e + "\n"; want[address] == "" {
				t.Errorf("of %s Terraform says %s", address, e)
			}
		}
		return nil
	}}, resource.TestStep{Config: config, PlanOnly: true})
	for address, w := range want {
		if !regexp.MustCompile("(?is)" + w).MatchString(said[address]) {
			t.Errorf("of %s Terraform says %q, not %s", address, said[address], w)
		}
	}
}

// plans expects what the plan of a step does to a resource, and that nothing is
// left to do afterwards.
func plans(address string, action plancheck.ResourceActionType, more ...plancheck.PlanCheck) resource.ConfigPlanChecks {
	return resource.ConfigPlanChecks{
		PreApply:             append([]plancheck.PlanCheck{plancheck.ExpectResourceAction(address, action)}, more...),
		PostApplyPostRefresh: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()},
	}
}
