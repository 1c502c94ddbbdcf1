package command

import (
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/settings/settingstest"
)

func TestSettingsExample(t *testing.T) {
	cmd := (&cli{}).server()
	settingstest.Example(t, cmd, "../../packaging/etc/server.hcl", "help")
	if got := cmd.Flag("join").Value.String(); got != "[10.0.0.1]" {
		t.Errorf("join is %s", got)
	}
}
