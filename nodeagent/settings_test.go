//go:build linux

package main

import (
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/guidetest"
	"github.com/clusterd/terraform-provider-clusterd/internal/settings/settingstest"
)

func TestSettingsExample(t *testing.T) {
	cmd := runCommand()
	settingstest.Example(t, cmd, "../packaging/etc/nodeagent.hcl", "help", "token")
	if got, err := cmd.Flags().GetStringToString("labels"); err != nil || len(got) != 2 || got["disk"] != "ssd" {
		t.Errorf("labels are %v, %v", got, err)
	}
}

// TestGuide: a node can be given the settings, and whoever reads it the
// commands, of the operator's guide.
func TestGuide(t *testing.T) {
	const operations = "../docs/guides/operations.md"
	guidetest.Settings(t, runCommand, operations, "/etc/clusterd/nodeagent.hcl")
	for _, said := range guidetest.Commands(t, operations) {
		if said.Words[0] != "nodeagent" {
			continue
		}
		if _, err := guidetest.Check(root(), said.Words); err != nil {
			t.Errorf("%s:%d: %v", operations, said.Line, err)
		}
	}
}
