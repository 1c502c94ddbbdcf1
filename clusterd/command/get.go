package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

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
		ValidArgsFunction: completeKinds,
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
			return t.print(c.out)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.output, "output", "o", "table", "table, wide or json")
	f.BoolVarP(&all, "all-namespaces", "A", false, "objects of all namespaces")
	f.StringSliceVarP(&labels, "label", "l", nil, "only objects with this label, key=value")
	f.BoolVarP(&q.watch, "watch", "w", false, "go on printing what changes")
	return cmd
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

// change is one line of a watch, with its object as the server sent it.
type change struct {
	Type     api.EventType   `json:"type"`
	Revision int64           `json:"revision,omitempty"`
	Object   json.RawMessage `json:"object,omitempty"`
	Error    *api.Error      `json:"error,omitempty"`
}

// watch prints what is and then every change, until ctx ends. When the stream
// breaks it goes on where it was; when that is too long ago, it lists again.
func (c *cli) watch(ctx context.Context, cl *client.Client, q query) error {
	show := c.shower(q)
	var from int64
	for again := true; ; {
		if again {
			items, rev, err := q.list(ctx, cl)
			if err != nil && !(q.name != "" && api.Is(err, api.NotFound)) {
				return err
			}
			for _, o := range items {
				if err := show(change{Type: api.EventPut, Object: o}); err != nil {
					return err
				}
			}
			from, again = rev, false
		}
		err := q.follow(ctx, cl, &from, show)
		switch {
		case ctx.Err() != nil:
			return nil
		case api.Is(err, api.Gone):
			again = true
		case !api.Is(err, api.Unready):
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// follow hands every change after *from to show, and keeps *from current.
func (q query) follow(ctx context.Context, c *client.Client, from *int64, show func(change) error) error {
	params := url.Values{"watch": {"true"}, "from": {strconv.FormatInt(*from, 10)}}
	for k, v := range q.filter {
		params[k] = v
	}
	resp, err := c.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(q.kind.Info(), q.ns, ""), Query: params})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var ev change
		if err := d.Decode(&ev); err != nil {
			return api.Errorf(api.Unready, "the watch broke: %s", err)
		}
		switch ev.Type {
		case api.EventError:
			return ev.Error
		case api.EventPut, api.EventDelete:
			if err := show(ev); err != nil {
				return err
			}
		}
		*from = max(*from, ev.Revision)
	}
}

// shower returns what prints changes: rows of a table, or a JSON object a line.
func (c *cli) shower(q query) func(change) error {
	if q.output == "json" {
		enc := json.NewEncoder(c.out)
		return func(ev change) error {
			if !q.wants(ev) {
				return nil
			}
			return enc.Encode(change{Type: ev.Type, Object: ev.Object})
		}
	}
	var widths []int
	return func(ev change) error {
		if !q.wants(ev) {
			return nil
		}
		t, err := tableOf(q, []json.RawMessage{ev.Object})
		if err != nil {
			return err
		}
		if ev.Type == api.EventDelete {
			last := len(t.rows[0]) - 1
			t.rows[0][last] += " (deleted)"
		}
		if widths != nil {
			t.header = nil
		}
		widths = t.widths(widths)
		return t.printWidths(c.out, widths)
	}
}

// wants reports whether the change is of the object asked for.
func (q query) wants(ev change) bool {
	if q.name == "" {
		return true
	}
	var o struct{ Meta api.Meta }
	return json.Unmarshal(ev.Object, &o) == nil && o.Meta.Name == q.name
}

func completeKinds(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if len(args) == 0 {
		for _, k := range api.Kinds {
			if p := k.Info().Plural; strings.HasPrefix(p, prefix) {
				out = append(out, p+"\t"+k.Info().Doc)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
