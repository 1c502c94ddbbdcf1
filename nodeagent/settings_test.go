//go:build linux

package main

import (
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/settings/settingstest"
)

func TestSettingsExample(t *testing.T) {
	cmd := runCommand()
	settingstest.Example(t, cmd, "../packaging/etc/nodeagent.hcl", "help", "token")
	if got, err := cmd.Flags().GetStringToString("labels"); err != nil || len(got) != 2 || got["disk"] != "ssd" {
		t.Errorf("labels are %v, %v", got, err)
	}
}
