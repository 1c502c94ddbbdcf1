package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// joinTTL is how long a join token is good for unless told: enough for an
// afternoon of machines, too little to lie around.
const joinTTL = 24 * time.Hour

func (c *cli) token() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make tokens that let users in, and machines join"}
	var role, description, name string
	var ttl time.Duration
	var uses int
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it; it is shown this once",
		Example: `  clusterd token create --role node --ttl 1h           # then: nodeagent run --token …
  clusterd token create --role server --uses 1 --for s2  # then: clusterd server --join … --token-file …
  clusterd token create --role admin --description ci`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			o := &api.Token{Spec: api.TokenSpec{Role: role, Description: description, MaxUses: uses, Name: name}}
			if o.Spec.Joins() && !cmd.Flags().Changed("ttl") {
				ttl = joinTTL
			}
			if ttl > 0 {
				o.Spec.ExpiresAt = api.Now().Add(ttl)
			}
			var secret string
			switch role {
			case api.RoleNode, api.RoleServer:
				pin, err := c.pin()
				if err != nil {
					return err
				}
				tok := pki.NewJoinToken(pin)
				o.Meta.Name, o.Spec.Hash, secret = tok.ID, tok.Hash(), tok.Reveal()
			case api.RoleAdmin:
				if uses > 0 || name != "" {
					return errors.New("--uses and --for are for join tokens, of --role node or server")
				}
				tok := pki.NewUserToken()
				o.Meta.Name, o.Spec.Hash, secret = tok.ID, tok.Hash(), tok.Reveal()
			default:
				return fmt.Errorf("--role %q: want %s or %s (machines join as that with it) or %s (a user who may do everything)", role, api.RoleNode, api.RoleServer, api.RoleAdmin)
			}
			if _, err := client.Of(cl, api.Tokens).Create(cmd.Context(), o); err != nil {
				return err
			}
			fmt.Fprintln(c.out, secret)
			return nil
		},
	}
	f := create.Flags()
	f.StringVar(&role, "role", "", "node or server: machines join as that with it; admin: a user")
	f.StringVar(&name, "for", "", "only the machine of this name may join with it")
	f.DurationVar(&ttl, "ttl", 0, "how long it is good for; 0 is without end (when unset: a day to join, no end for a user)")
	f.IntVar(&uses, "uses", 0, "how many machines may join with it; 0 is without limit")
	f.StringVar(&description, "description", "", "what it is for")
	create.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{api.RoleNode, api.RoleServer, api.RoleAdmin}, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(create)
	return cmd
}

// pin is that of the cluster's CA, by which a joining machine knows its server.
func (c *cli) pin() (string, error) {
	ca, err := c.to.ca()
	if err != nil {
		return "", err
	}
	if len(ca) == 0 {
		return "", errors.New("no CLUSTERD_CACERT: a join token pins the cluster's CA, so it must be known; it is ca.crt in a server's data directory")
	}
	pin, err := pki.PinOf(ca)
	if err != nil {
		return "", fmt.Errorf("CLUSTERD_CACERT: %w", err)
	}
	return pin, nil
}
