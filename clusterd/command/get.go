package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// query is what `get` was asked for.
type query struct {
	kind   api.AnyKind
	ns     string // empty: all, or cluster-scoped
	name   string // empty: all
	filter url.Values
	output string
	watch  bool
}

func (c *cli) get() *cobra.Command {
	var q query
	var all bool
	var labels []string
	cmd := &cobra.Command{
		Use:   "get <kind> [name]",
		Short: "List objects of a kind, or show one",
		Example: `  clusterd get nodes
  clusterd get pods -o wide
  clusterd get app web -o json
  clusterd get pods -A -w`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.complete(),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.kind, q.name, err = find(args); err != nil {
				return err
			}
			if q.output != "table" && q.output != "wide" && q.output != "json" {
				return fmt.Errorf("-o %s: want table, wide or json", q.output)
			}
			if q.kind.Info().Scope == api.Namespaced && !all {
				q.ns = c.to.ns()
			}
			if all && q.name != "" {
				return fmt.Errorf("-A lists a kind: %q needs its namespace, with -n", q.name)
			}
			if len(labels) > 0 {
				q.filter = url.Values{"label": labels}
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if q.watch {
				return c.watch(cmd.Context(), cl, q)
			}
			items, _, err := q.list(cmd.Context(), cl)
			if err != nil {
				return err
			}
			if q.output == "json" {
				return printJSON(c.out, items)
			}
			if len(items) == 0 {
				fmt.Fprintf(c.err, "No %s%s.\n", q.kind.Info().Plural, where(q))
				return nil
			}
			t, err := tableOf(q, items)
			if err != nil {
				return err
			}
			return t.print(plain{c.out})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.output, "output", "o", "table", "table, wide or json")
	f.BoolVarP(&all, "all-namespaces", "A", false, "objects of all namespaces")
	f.StringSliceVarP(&labels, "label", "l", nil, "only objects with this label, key=value")
	f.BoolVarP(&q.watch, "watch", "w", false, "go on printing what changes")
	return cmd
}

// object reads the arguments of a command about one object.
func (c *cli) object(cmd *cobra.Command, args []string) (q query, err error) {
	if q.kind, q.name, err = find(args); err != nil {
		return q, err
	}
	if q.name == "" {
		return q, fmt.Errorf("which one? want: clusterd %s %s <name>", cmd.Name(), args[0])
	}
	if q.kind.Info().Scope == api.Namespaced {
		q.ns = c.to.ns()
	}
	return q, nil
}

func where(q query) string {
	if q.ns == "" {
		return ""
	}
	return " in namespace " + q.ns
}

// list returns the objects asked for, each as the server sent it.
func (q query) list(ctx context.Context, c *client.Client) (items []json.RawMessage, revision int64, err error) {
	path := client.Path(q.kind.Info(), q.ns, q.name)
	if q.name != "" {
		var one json.RawMessage
		if err := c.Call(ctx, http.MethodGet, path, nil, nil, &one); err != nil {
			return nil, 0, err
		}
		var o struct{ Meta api.Meta }
		if err := json.Unmarshal(one, &o); err != nil {
			return nil, 0, fmt.Errorf("decode %s: %w", path, err)
		}
		return []json.RawMessage{one}, o.Meta.Revision, nil
	}
	params := url.Values{}
	for k, v := range q.filter {
		params[k] = v
	}
	for {
		var page struct {
			Items    []json.RawMessage `json:"items"`
			Revision int64             `json:"revision"`
			Continue string            `json:"continue"`
		}
		if err := c.Call(ctx, http.MethodGet, path, params, nil, &page); err != nil {
			return nil, 0, err
		}
		items = append(items, page.Items...)
		if page.Continue == "" {
			return items, page.Revision, nil
		}
		params.Set("continue", page.Continue)
	}
}

// printJSON prints whole objects, in the shape every `-o json` has.
func printJSON(w io.Writer, items []json.RawMessage) error {
	if items == nil {
		items = []json.RawMessage{}
	}
	b, err := json.Marshal(map[string]any{"items": items})
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b, "", "  "); err != nil {
		return err
	}
	pretty.WriteByte('\n')
	_, err = w.Write(pretty.Bytes())
	return err
}
