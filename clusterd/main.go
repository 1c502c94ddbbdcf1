// Command clusterd is the control plane and its command line in one binary:
// `clusterd server` runs the cluster, everything else talks to it.
package main

import (
	"os"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/command"
)

func main() {
	os.Exit(command.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
