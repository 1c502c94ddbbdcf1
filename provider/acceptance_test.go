//go:build !race

package provider_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
	"github.com/clusterd/terraform-provider-clusterd/provider"
)

// TestAcceptance drives the real Terraform against a real cluster whose nodes
// run nothing: layer 5. It and all that only it needs is left out under the race
// detector: its time goes into a thousand processes that the detector does not see.
func TestAcceptance(t *testing.T) {
	acceptance(t)
	c := &cluster{testcluster.Start(t, testcluster.Config{Nodes: 3})}
	for name, test := range map[string]func(*testing.T, *cluster){
		"AppLife":         testAppLife,
		"AppEverything":   testAppEverything,
		"AppFailures":     testAppFailures,
		"AppCanary":       testAppCanary,
		"AppCreateFails":  testAppCreateFails,
		"AppDrift":        testAppDrift,
		"AppClash":        testAppClash,
		"AppConflict":     testAppConflict,
		"AppBadConfig":    testAppBadConfig,
		"AppNoWait":       testAppNoWait,
		"Unknown":         testUnknown,
		"Empties":         testEmpties,
		"JobLife":         testJobLife,
		"JobFails":        testJobFails,
		"Quota":           testQuota,
		"Service":         testService,
		"LeadsNowhere":    testServiceLeadsNowhere,
		"Volume":          testVolume,
		"Powers":          testPowers,
		"Namespace":       testNamespace,
		"Config":          testConfig,
		"Secret":          testSecret,
		"SecretVersion":   testSecretVersion,
		"NoNamespace":     testNoNamespace,
		"Prefetch":        testPrefetch,
		"Data":            testData,
		"DataLists":       testDataLists,
		"Functions":       testFunctions,
		"PlanWarnings":    testPlanWarnings,
		"DryRun":          testDryRun,
		"Interrupt":       testInterrupt,
		"Examples":        testExamples,
		"ReadingExamples": testReadingExamples,
		"ProviderExample": testProviderExample,
		"NginxExample":    testNginxExample,
		"Binary":          testBinary,
		"EphemeralToken":  testEphemeralToken,
		"JoinToken":       testJoinToken,
		"Token":           testToken,
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
		"clusterd": providerserver.NewProtocol6WithError(provider.New("test")),
	}
	resource.UnitTest(t, options)
}

// refused plans a configuration of several mistakes, and expects to read all of
// what is wanted in what Terraform says of them.
func refused(t *testing.T, config string, want ...string) {
	t.Helper()
	said := false
	applyCase(t, resource.TestCase{ErrorCheck: func(err error) error {
		said = true
		for _, w := range want {
			if !regexp.MustCompile("(?is)" + w).MatchString(err.Error()) {
				t.Errorf("no %s in what Terraform says: %v", w, err)
			}
		}
		return nil
	}}, resource.TestStep{Config: config, PlanOnly: true})
	if !said {
		t.Error("Terraform refuses nothing")
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
