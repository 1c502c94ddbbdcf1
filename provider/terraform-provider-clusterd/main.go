// Command terraform-provider-clusterd is the plugin Terraform starts.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/provider"
)

func main() {
	debugger := flag.Bool("debug", false, "serve for a debugger: print what to set TF_REATTACH_PROVIDERS to")
	flag.Parse()
	quicken()
	var options []tf6server.ServeOpt
	if *debugger {
		options = append(options, tf6server.WithManagedDebug())
	}
	err := tf6server.Serve("registry.terraform.io/clusterd/clusterd", func() tfprotov6.ProviderServer { return provider.NewServer(daemon.Version()) }, options...)
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
