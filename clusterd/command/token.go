package command

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	var description, name string
	var roles []string
	var ttl time.Duration
	var uses int
	create := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a token and print it; it is shown this once",
		Example: `  clusterd token create --role node --ttl 1h           # then: nodeagent run --token …
  clusterd token create --role server --uses 1 --for s2  # then: clusterd server --join … --token-file …
  clusterd token create ci --role deployer --ttl 720h    # may do what the role gives: clusterd get roles -o wide
  clusterd token create --role admin --description me`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			o := &api.Token{Spec: api.TokenSpec{Description: description, MaxUses: uses, Name: name}}
			switch {
			case len(roles) == 0:
				return fmt.Errorf("--role is required: %s or %s (machines join as that with it), %s (a user who may do everything), or names of roles (clusterd get roles)", api.RoleNode, api.RoleServer, api.RoleAdmin)
			case len(roles) == 1 && api.BuiltIn(roles[0]):
				o.Spec.Role = roles[0]
			case slices.ContainsFunc(roles, api.BuiltIn):
				return fmt.Errorf("--role %s: %s, %s and %s go with no other role", strings.Join(roles, ","), api.RoleNode, api.RoleServer, api.RoleAdmin)
			default:
				o.Spec.Roles = roles
			}
			if o.Spec.Joins() && !cmd.Flags().Changed("ttl") {
				ttl = joinTTL
			}
			if ttl < 0 {
				return fmt.Errorf("--ttl %s is over before it begins: want such as 1h, or 0 for no end", ttl)
			}
			if ttl > 0 {
				o.Spec.ExpiresAt = api.Now().Add(ttl)
			}
			if !o.Spec.Joins() && (uses > 0 || name != "") {
				return errors.New("--uses and --for are for join tokens, of --role node or server")
			}
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			secret, err := c.newToken(o, id)
			if err != nil {
				return err
			}
			if _, err := client.Of(cl, api.Tokens).Create(cmd.Context(), o); err != nil {
				return err
			}
			fmt.Fprintln(c.out, secret)
			return nil
		},
	}
	f := create.Flags()
	f.StringSliceVar(&roles, "role", nil, "node or server: machines join as that with it; admin: a user who may do everything; else what the user may do, by names of roles; may be repeated")
	f.StringVar(&name, "for", "", "only the machine of this name may join with it")
	f.DurationVar(&ttl, "ttl", 0, "how long it is good for; 0 is without end (when unset: a day to join, no end for a user)")
	f.IntVar(&uses, "uses", 0, "how many machines may join with it; 0 is without limit")
	f.StringVar(&description, "description", "", "what it is for")
	create.RegisterFlagCompletionFunc("role", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		known := []string{api.RoleNode, api.RoleServer, api.RoleAdmin}
		there, _ := list(cmd.Context(), &c.to, api.Roles)
		for _, r := range there {
			known = append(known, r.Meta.Name)
		}
		return known, cobra.ShellCompDirectiveNoFileComp
	})
	cmd.AddCommand(create)
	return cmd
}

// newToken makes the secret of a token, and its name unless id is one. It
// returns what its holder is given.
func (c *cli) newToken(o *api.Token, id string) (secret string, err error) {
	if o.Spec.Joins() {
		pin, err := c.pin()
		if err != nil {
			return "", err
		}
		tok := pki.NewJoinToken(pin)
		tok.ID = cmp.Or(id, tok.ID)
		o.Meta.Name, o.Spec.Hash = tok.ID, tok.Hash()
		return tok.Reveal(), nil
	}
	tok := pki.NewUserToken()
	tok.ID = cmp.Or(id, tok.ID)
	o.Meta.Name, o.Spec.Hash = tok.ID, tok.Hash()
	return tok.Reveal(), nil
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
