package command

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func (c *cli) secret() *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Look after how secrets are kept; their values are shown to nobody"}
	var forget bool
	rotate := &cobra.Command{
		Use:   "rotate-keys",
		Short: "Seal all secrets with a new key; nothing that runs notices",
		Long: `Seal all secrets with a new key; nothing that runs notices.

The server keeps older keys, which backups of before need, until --forget.`,
		Example: `  clusterd secret rotate-keys
  clusterd secret rotate-keys --forget    # after a key may have leaked`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			var out api.KeyRotation
			query := url.Values{"forget": {strconv.FormatBool(forget)}}
			if err := cl.Call(cmd.Context(), http.MethodPost, "/v1/secrets/keys", query, nil, &out); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "key %s seals from now on: %d versions of secrets were sealed anew\n", out.Key, out.Sealed)
			if len(out.Kept) > 0 {
				fmt.Fprintf(c.out, "kept for backups of before: %s\n", strings.Join(out.Kept, ", "))
			}
			if len(out.Removed) > 0 {
				fmt.Fprintf(c.out, "removed: %s\n", strings.Join(out.Removed, ", "))
			}
			return nil
		},
	}
	rotate.Flags().BoolVar(&forget, "forget", false, "remove older keys: backups made before cannot be read then")
	cmd.AddCommand(rotate)
	return cmd
}
