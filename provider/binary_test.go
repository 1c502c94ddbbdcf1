//go:build !race

package provider_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testbuild"
)

// workspace is a directory in which the real Terraform runs the real binary.
type workspace struct {
	t   testing.TB
	dir string
	env map[string]string
	cpu time.Duration // that Terraform and the provider used
}

// plainPlugin takes the TLS from between Terraform and the provider's process,
// which is neither's that is tested here. Half of what they compute is its keys:
// two pairs for each start of the provider, and a plan starts it five times.
const plainPlugin = "TF_DISABLE_PLUGIN_TLS"

// program builds the provider, in a folder that lives as long as the test.
func program(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := testbuild.Programs(dir, "provider/terraform-provider-clusterd"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newWorkspace lets Terraform find the provider's program without init.
func newWorkspace(t testing.TB, provider string, env map[string]string) *workspace {
	t.Helper()
	w := &workspace{t, t.TempDir(), maps.Clone(env), 0}
	w.env[plainPlugin] = "1"
	w.env["TF_CLI_CONFIG_FILE"] = filepath.Join(w.dir, "dev.tfrc")
	w.write("dev.tfrc", fmt.Sprintf("provider_installation {\n  dev_overrides { \"clusterd/clusterd\" = %q }\n}\n", provider))
	w.write("versions.tf", "terraform {\n  required_providers {\n    clusterd = { source = \"clusterd/clusterd\" }\n  }\n}\n")
	return w
}

func (w *workspace) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// terraform runs a command and returns what it says and how it exits.
func (w *workspace) terraform(args ...string) (output string, code int) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "terraform", append(args, "-no-color")...)
	cmd.Dir, cmd.Env = w.dir, append(os.Environ(), "TF_INPUT=0")
	for k, v := range w.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		w.t.Fatalf("terraform %s: %v", args, err)
	}
	w.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return string(out), cmd.ProcessState.ExitCode()
}

// must runs a command that has to exit with code.
func (w *workspace) must(code int, args ...string) string {
	w.t.Helper()
	out, got := w.terraform(args...)
	if got != code {
		w.t.Fatalf("terraform %s exits with %d, want %d:\n%s", strings.Join(args, " "), got, code, out)
	}
	return out
}

// testBinary: the program that is shipped, from import to destroy. What
// Terraform generates for objects that exist already plans to change nothing.
func testBinary(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	two := 2
	app := &api.App{Meta: api.Meta{Namespace: ns, Name: "web", Labels: map[string]string{"team": "shop"}}, Spec: api.AppSpec{
		Container: api.Container{Image: "nginx:1", Env: map[string]string{"A": "1"}, Args: []string{"-x"}, Ports: map[string]api.Port{"http": "80"}, Health: &api.Health{HTTP: "/", Threshold: &two}},
		Replicas:  &two,
		Sidecars:  map[string]api.Container{"log": {Image: "vector:1", Args: []string{"-q"}, Env: map[string]string{"A": "1"}}},
		Placement: &api.Placement{Require: map[string]string{}},
		Update:    &api.Update{HealthyFor: "0s"},
	}}
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	svc := &api.Service{Meta: api.Meta{Namespace: ns, Name: "web"}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80, Target: "http"}}}}
	if _, err := client.Of(c.Client(), api.Services).Create(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	w := newWorkspace(t, c.provider(), c.Env())
	delete(w.env, plainPlugin)
	w.write("import.tf", fmt.Sprintf("import {\n  to = clusterd_app.web\n  id = %q\n}\nimport {\n  to = clusterd_service.web\n  id = %q\n}\nimport {\n  to = clusterd_namespace.here\n  id = %q\n}\n",
		ns+"/web", ns+"/web", ns))
	out := w.must(0, "plan", "-generate-config-out=generated.tf")
	if !strings.Contains(out, "3 to import, 0 to add, 0 to change, 0 to destroy") {
		t.Errorf("generated configuration plans to change something:\n%s\n%s", out, read(t, filepath.Join(w.dir, "generated.tf")))
	}
	w.must(0, "apply", "-auto-approve")
	w.must(0, "plan", "-detailed-exitcode")

	generated := read(t, filepath.Join(w.dir, "generated.tf"))
	w.write("generated.tf", strings.Replace(generated, "nginx:1", "exit-3:1", 1))
	out = w.must(1, "apply", "-auto-approve")
	for _, want := range []string{"rolled back to nginx:1", "  about to exit with 3\n", "  clusterd describe app web -n " + ns + "\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("a failed apply does not say %q:\n%s", want, out)
		}
	}
	out = w.must(2, "plan", "-detailed-exitcode")
	if !strings.Contains(out, `"nginx:1" -> "exit-3:1"`) || strings.Count(out, "~ ") != 3 {
		t.Errorf("the plan after a failed apply does not show just that change:\n%s", out)
	}
	w.must(0, "destroy", "-auto-approve")
	c.gone(t, ns, "web")
}
