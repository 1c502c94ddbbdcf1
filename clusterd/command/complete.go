package command

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// completeWithin bounds how long a shell waits for names. A cluster that does
// not answer completes nothing.
const completeWithin = 2 * time.Second

// complete completes an object, as "kind/name" or as two words, with the names
// the cluster has. Kinds, if given, are those that make sense, and are then
// written "kind/name".
func (c *cli) complete(kinds ...api.AnyKind) cobra.CompletionFunc {
	slashed := len(kinds) > 0
	if !slashed {
		kinds = api.Kinds
	}
	return func(cmd *cobra.Command, args []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
		word, rest, named := strings.Cut(prefix, "/")
		switch {
		case len(args) == 1 && !slashed && !strings.Contains(args[0], "/"):
			return c.names(cmd.Context(), args[0], "", prefix, kinds), cobra.ShellCompDirectiveNoFileComp
		case len(args) > 0:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case named:
			return c.names(cmd.Context(), word, word+"/", rest, kinds), cobra.ShellCompDirectiveNoFileComp
		case slashed:
			for _, k := range kinds {
				if p := strings.ToLower(k.Info().Name) + "/"; strings.HasPrefix(p, prefix) {
					out = append(out, p)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		for _, k := range kinds {
			if p := k.Info().Plural; strings.HasPrefix(p, prefix) {
				out = append(out, p+"\t"+k.Info().Doc)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// names returns those of the kind's objects that begin with prefix, each after lead.
func (c *cli) names(ctx context.Context, kind, lead, prefix string, kinds []api.AnyKind) (out []string) {
	q := query{}
	var err error
	if q.kind, err = api.Lookup(kind); err != nil || !slices.ContainsFunc(kinds, func(k api.AnyKind) bool { return k.Info().Name == q.kind.Info().Name }) {
		return nil
	}
	if q.kind.Info().Scope == api.Namespaced {
		q.ns = c.to.ns()
	}
	cl, err := c.to.client()
	if err != nil {
		return nil
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	items, _, err := q.list(ctx, cl)
	if err != nil {
		return nil
	}
	for _, raw := range items {
		var o struct{ Meta api.Meta }
		if json.Unmarshal(raw, &o) == nil && strings.HasPrefix(o.Meta.Name, prefix) {
			out = append(out, lead+o.Meta.Name)
		}
	}
	return out
}
