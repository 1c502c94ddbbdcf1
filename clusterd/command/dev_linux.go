package command
import "github.com/spf13/cobra"
func (c *cli) dev() *cobra.Command { return &cobra.Command{Use:"dev"} }
