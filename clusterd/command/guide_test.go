package command

import (
	"slices"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/guidetest"
)

const operations = "../../docs/guides/operations.md"

// others are the programs in the guide that are not ours.
var others = strings.Fields("apt-get cat chown curl echo etcdctl export install journalctl make mv nodeagent openssl rm scp sudoedit systemctl tee terraform")

// TestGuideTellsWhatExists: each command of the operator's guide can be given,
// with its flags, its arguments and its kind.
func TestGuideTellsWhatExists(t *testing.T) {
	seen := map[string]bool{}
	for _, said := range guidetest.Commands(t, operations) {
		if said.Words[0] != "clusterd" {
			if !slices.Contains(others, said.Words[0]) {
				t.Errorf("%s:%d: is %s a program? Then name it here", operations, said.Line, said.Words[0])
			}
			continue
		}
		cmd, err := guidetest.Check((&cli{}).root(), said.Words)
		if err == nil && slices.Contains([]string{"get", "describe", "delete", "why", "events", "logs"}, cmd.Name()) {
			_, _, err = find(cmd.Flags().Args())
		}
		if err != nil {
			t.Errorf("%s:%d: %s: %v", operations, said.Line, strings.Join(said.Words, " "), err)
			continue
		}
		seen[cmd.CommandPath()] = true
	}
	for _, path := range []string{"token create", "snapshot save", "snapshot inspect", "snapshot restore", "recover", "keys show", "keys rotate", "delete", "why", "node drain"} {
		if !seen["clusterd "+path] {
			t.Errorf("the guide does not tell of clusterd %s", path)
		}
	}
	for _, wrong := range []string{"clusterd snapshot", "clusterd snapshot save", "clusterd get nodes --wide", "clusterd frob", "clusterd recover now"} {
		if _, err := guidetest.Check((&cli{}).root(), strings.Fields(wrong)); err == nil {
			t.Errorf("%q is taken for a command", wrong)
		}
	}
}

// TestGuideSettings: a server can be given the settings of the guide.
func TestGuideSettings(t *testing.T) {
	guidetest.Settings(t, (&cli{}).server, operations, "/etc/clusterd/server.hcl")
}
