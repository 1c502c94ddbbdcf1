// Command terraform-provider-clusterd is the plugin Terraform starts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	tfprovider "github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/provider"
)

func main() {
	debugger := flag.Bool("debug", false, "serve for a debugger: print what to set TF_REATTACH_PROVIDERS to")
	flag.Parse()
	quicken()
	err := providerserver.Serve(context.Background(), func() tfprovider.Provider { return provider.New(daemon.Version()) }, providerserver.ServeOpts{
		Address: "registry.terraform.io/clusterd/clusterd", Debug: *debugger,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "terraform-provider-clusterd:", err)
		os.Exit(1)
	}
}

// quicken makes large plans fast. Unless somebody reads the log, the SDK's
// traces only cost time: Terraform parses and drops them, a third of the
// provider's CPU. And a process that lives for one plan can afford garbage.
func quicken() {
	debug.SetGCPercent(400)
	if os.Getenv("TF_LOG") != "" || os.Getenv("TF_LOG_PROVIDER") != "" {
		return
	}
	for _, subsystem := range []string{"TF_LOG_SDK", "TF_LOG_SDK_FRAMEWORK", "TF_LOG_SDK_PROTO"} {
		if os.Getenv(subsystem) == "" {
			os.Setenv(subsystem, "OFF")
		}
	}
}
