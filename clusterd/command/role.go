package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) role() *cobra.Command {
	cmd := &cobra.Command{Use: "role", Short: "Say what tokens may do"}
	var rules []string
	var description string
	set := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a role, or give it other rules",
		Example: `  clusterd role set deployer --rule "read,write,delete apps,services,configs in shop" --rule "read,logs pods in shop"
  clusterd role set auditor --rule "read * in *"
  clusterd token create ci --role deployer --ttl 720h

A rule gives each of its verbs on each of its kinds in each of its namespaces; *
stands for all, and kinds that are in no namespace take none. What no rule gives
is denied. Nobody gives what he has not.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			o := &api.Role{Meta: api.Meta{Name: args[0]}, Spec: api.RoleSpec{Description: description, Rules: map[string]api.Rule{}}}
			for i, text := range rules {
				rule, err := api.ParseRule(text)
				if err != nil {
					return fmt.Errorf("--rule %w", err)
				}
				o.Spec.Rules[fmt.Sprintf("rule-%d", i+1)] = rule
			}
			if _, err := client.Of(cl, api.Roles).Put(cmd.Context(), o); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "role %s gives %s\n", o.Meta.Name, strings.Join(rules, "; "))
			return nil
		},
	}
	set.Flags().StringArrayVar(&rules, "rule", nil, "verbs, kinds, and after \"in\" namespaces; may be repeated; takes the place of what the role gave")
	set.Flags().StringVar(&description, "description", "", "what it is for")
	set.MarkFlagRequired("rule")
	cmd.AddCommand(set)
	return cmd
}
