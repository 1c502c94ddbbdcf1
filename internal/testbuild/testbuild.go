// Package testbuild builds our programs for tests.
//
// Invariant: the compiler is told what `make build` tells it, so that what that
// has compiled is not compiled once more.
package testbuild

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const module = "github.com/clusterd/terraform-provider-clusterd/"

// Programs builds packages of this module, such as "nodeagent/clusterd-shim",
// into dir; each is called as the last part of its path.
func Programs(dir string, packages ...string) error {
	args := []string{"build", "-trimpath", "-gcflags", "all=-dwarf=false", "-ldflags", "-s -w", "-o", dir + "/"}
	for _, pkg := range packages {
		args = append(args, module+pkg)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(packages, ", "), err, out)
	}
	return nil
}
