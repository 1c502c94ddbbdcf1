//go:build !linux

package command

import (
	"errors"

	"github.com/spf13/cobra"
)

// dev exists everywhere, so that its absence explains itself.
func (c *cli) dev() *cobra.Command {
	return &cobra.Command{
		Use:                "dev",
		Short:              "Have a whole cluster on this machine (Linux only)",
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a local cluster is made of Linux network namespaces and containers: run this on Linux, or in a virtual machine that has it")
		},
	}
}
