package command

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func (c *cli) keys() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "The keys that servers and nodes share: see by their ids, change for new ones"}
	var output string
	show := &cobra.Command{
		Use:   "show",
		Short: "Which keys there are, by their ids, and what a rotation waits for",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var now api.Keys
			if err := c.call(cmd, http.MethodGet, "/v1/keys", nil, &now); err != nil {
				return err
			}
			if output == "json" {
				b, err := json.MarshalIndent(now, "", "  ")
				if err != nil {
					return err
				}
				fmt.Fprintln(c.out, string(b))
				return nil
			}
			c.showKeys(now)
			return nil
		},
	}
	show.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	cmd.AddCommand(show, c.rotateKeys())
	return cmd
}

// call asks the API once.
func (c *cli) call(cmd *cobra.Command, method, path string, query url.Values, out any) error {
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.Call(cmd.Context(), method, path, query, nil, out)
}

func (c *cli) showKeys(now api.Keys) {
	list := func(what, ids, role string) {
		fmt.Fprintf(c.out, "%-12s %s%s\n", what, strings.ReplaceAll(ids, ",", ", "), role)
	}
	list(api.KeysGossip, now.Gossip, "  (the last is spoken)")
	list(api.KeysAuthorities, now.Authorities, "  (the first signs)")
	list(api.KeysSecrets, strings.Join(now.Secrets, ","), "  (the last seals)")
	if now.Next == "" {
		return
	}
	fmt.Fprintf(c.out, "next         %s\n", now.Next)
	for _, w := range now.Waits {
		fmt.Fprintf(c.out, "waits        %s\n", w)
	}
}

func (c *cli) rotateKeys() *cobra.Command {
	var forget bool
	cmd := &cobra.Command{
		Use:   "rotate gossip|authorities|secrets",
		Short: "Change keys for new ones; nothing that runs notices",
		Long: `Change keys for new ones; nothing that runs notices.

gossip       the key that members gossip with. Once all have the new one it is
             spoken, and then the old one is forgotten, by itself.
authorities  the certificate authority. The new one signs from now on, and all
             renew their certificates; the old one is trusted until --forget.
             Before that, give users and Terraform the new ca.crt of a server,
             and make join tokens anew.
secrets      the key that seals secrets. All are sealed anew; servers keep older
             keys, which backups of before need, until --forget.`,
		Example: `  clusterd keys rotate gossip
  clusterd keys rotate authorities
  clusterd keys rotate secrets --forget    # after a key may have leaked`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{api.KeysGossip, api.KeysAuthorities, api.KeysSecrets},
		RunE: func(cmd *cobra.Command, args []string) error {
			var now api.Keys
			if err := c.call(cmd, http.MethodPost, "/v1/keys/"+args[0], url.Values{"forget": {strconv.FormatBool(forget)}}, &now); err != nil {
				return err
			}
			if args[0] == api.KeysSecrets {
				fmt.Fprintf(c.out, "versions of secrets sealed anew: %d\n", now.Sealed)
			}
			if len(now.Removed) > 0 {
				fmt.Fprintf(c.out, "removed: %s\n", strings.Join(now.Removed, ", "))
			}
			c.showKeys(now)
			return nil
		},
	}
	cmd.Flags().BoolVar(&forget, "forget", false, "of authorities, trust the newest alone; of secrets, remove older keys: backups made before cannot be read then")
	return cmd
}
