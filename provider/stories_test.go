//go:build !race

package provider_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
)

// story is what happens to some resources, which no other story has or names.
type story struct {
	// steps have a configuration without the provider's block, and of all else
	// that a step may have: what comes before it, what its plan is checked for, and
	// what is there afterwards. What is about the story alone may have more.
	steps []resource.TestStep
	// after looks at what is left once all is destroyed.
	after func()
}

// testStories is one configuration in which much happens at once.
func testStories(t *testing.T, c *cluster) {
	together(t, c, appLife, appEverything, appEmpties, appCanary, appCanaryOfConfig, appDrift, appClash, appPowers,
		jobLife, jobEverything, serviceLife, volumeLife, namespaceLife, namespaceQuota, twoTeams, secretVersion, tokenLife, prefetch)
}

// testFailing is of changes that fail, and leave what was there before. The last
// story alone may leave something to do after a failure.
func testFailing(t *testing.T, c *cluster) { together(t, c, configLife, secretLife, appFailures) }

// testReading is of what only reads, beside what there is to read.
func testReading(t *testing.T, c *cluster) {
	together(t, c, dataLists, dataApp, functions, readingExamples)
}

// together tells stories side by side: their first configurations are one, then
// their second ones. A process of Terraform costs the same for one resource as
// for many, and a step is nine of them. In between comes what is about one story
// alone: an import, or a configuration that is refused. A story that is over
// stays as it is, and every plan after a step is empty of all of them.
func together(t *testing.T, c *cluster, stories ...func(t *testing.T, c *cluster, namespace string) story) {
	ns := c.namespace(t)
	var told []story
	for _, tell := range stories {
		told = append(told, tell(t, c, ns))
	}
	configs := make([]string, len(told))
	join := func(configs []string) string { return c.config(ns, "%s", strings.Join(configs, "\n")) }
	alone := func(s resource.TestStep) bool { return s.ImportState || s.ExpectError != nil }
	left := make([][]resource.TestStep, len(told))
	for i, s := range told {
		left[i] = s.steps
	}
	var steps []resource.TestStep
	for slices.ContainsFunc(left, func(s []resource.TestStep) bool { return len(s) > 0 }) {
		var before []func()
		var planned []plancheck.PlanCheck
		var checks []resource.TestCheckFunc
		for i, s := range left {
			if len(s) == 0 || alone(s[0]) {
				continue
			}
			configs[i], left[i] = s[0].Config, s[1:]
			planned = append(planned, s[0].ConfigPlanChecks.PreApply...)
			if s[0].PreConfig != nil {
				before = append(before, s[0].PreConfig)
			}
			if s[0].Check != nil {
				checks = append(checks, s[0].Check)
			}
		}
		steps = append(steps, resource.TestStep{
			PreConfig: func() {
				for _, do := range before {
					do()
				}
			},
			Config:           join(configs),
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: planned, PostApplyPostRefresh: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()}},
			Check:            resource.ComposeAggregateTestCheckFunc(checks...),
		})
		for i := range left {
			for len(left[i]) > 0 && alone(left[i][0]) {
				s := left[i][0]
				if left[i] = left[i][1:]; !s.ImportState {
					others := slices.Clone(configs)
					others[i] = s.Config
					s.Config = join(others)
				}
				steps = append(steps, s)
			}
		}
	}
	apply(t, steps...)
	for _, s := range told {
		if s.after != nil {
			s.after()
		}
	}
}
