package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) plan() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "plan -f <file>",
		Short: "Say what writing an object would do: what changes, what rolls, and whether it fits",
		Long: `Say what writing an object would do, and write nothing.

The file has one object as clusterd get -o json prints it, edited; - is standard
input. The exit code is 1 if the cluster would refuse the object.`,
		Example: `  clusterd get app web -o json > web.json
  clusterd plan -f web.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ref, p, err := c.askPlan(cmd.Context(), file)
			if err != nil {
				return err
			}
			if len(p.Errors) > 0 { // nothing else of the plan holds then
				return &api.Error{Code: api.Invalid, Message: "the cluster would refuse it", Ref: &ref, Fields: p.Errors}
			}
			printPlan(plain{c.out}, ref, p)
			return nil
		},
	}
	fileFlag(cmd, &file)
	return cmd
}

func (c *cli) diff() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff -f <file>",
		Short: "Say how an object in a file differs from what is declared",
		Example: `  clusterd get app web -o json > web.json
  clusterd diff -f web.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, p, err := c.askPlan(cmd.Context(), file)
			if err != nil {
				return err
			}
			for _, change := range p.Changes {
				fmt.Fprintln(plain{c.out}, change)
			}
			return nil
		},
	}
	fileFlag(cmd, &file)
	return cmd
}

func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "file with the object in JSON; - is standard input")
	cmd.MarkFlagRequired("file") // the flag exists
}

// askPlan sends the declared part of the object in a file.
func (c *cli) askPlan(ctx context.Context, file string) (ref api.Ref, p api.WritePlan, err error) {
	var raw []byte
	if file == "-" {
		raw, err = io.ReadAll(c.in)
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return ref, p, err
	}
	var o struct {
		Kind string          `json:"kind"`
		Meta api.Meta        `json:"meta"`
		Spec json.RawMessage `json:"spec"`
	}
	var list struct{ Items []json.RawMessage }
	if json.Unmarshal(raw, &list) == nil && len(list.Items) == 1 { // as get prints one
		raw = list.Items[0]
	}
	if err := json.Unmarshal(raw, &o); err != nil || o.Kind == "" {
		return ref, p, fmt.Errorf("%s: want one object in JSON, as clusterd get <kind> <name> -o json prints it", file)
	}
	k, err := api.Lookup(o.Kind)
	if err != nil {
		return ref, p, fmt.Errorf("%s: kind: %w", file, err)
	}
	if o.Meta.Namespace == "" && k.Info().Scope == api.Namespaced {
		o.Meta.Namespace = c.to.ns()
	}
	ref = api.Ref{Kind: o.Kind, Namespace: o.Meta.Namespace, Name: o.Meta.Name}
	o.Meta = api.Meta{Name: o.Meta.Name, Namespace: o.Meta.Namespace, Labels: o.Meta.Labels}
	cl, err := c.to.client()
	if err != nil {
		return ref, p, err
	}
	defer cl.Close()
	err = cl.Call(ctx, http.MethodPost, client.Path(k.Info(), ref.Namespace, ref.Name)+"/plan", nil, o, &p)
	return ref, p, err
}

// printPlan says what a write would do.
func printPlan(w io.Writer, ref api.Ref, p api.WritePlan) {
	fmt.Fprintln(w, ref)
	if len(p.Changes) == 0 {
		fmt.Fprintln(w, "  nothing changes")
	}
	for _, change := range p.Changes {
		fmt.Fprintf(w, "  %s\n", change)
	}
	if p.Rolls != nil {
		fmt.Fprintf(w, "\n%s.\n", p.Rolls)
	}
	if p.Runs {
		fmt.Fprintln(w, "\nThe job runs.")
	}
	for i, ref := range slices.Sorted(maps.Keys(p.Images)) {
		if i == 0 {
			fmt.Fprintln(w, "\nImages")
		}
		fmt.Fprintf(w, "  %s is %s\n", ref, p.Images[ref])
	}
	for i, q := range p.Quota {
		if i == 0 {
			fmt.Fprintf(w, "\nQuota of namespace %s\n", ref.Namespace)
		}
		fmt.Fprintf(w, "  %s\n", q)
	}
	if at := p.Placement; at != nil && at.Fits == at.Wanted {
		fmt.Fprintf(w, "\nAll %d pods fit.\n", at.Wanted)
	}
	for _, warning := range p.Warnings {
		fmt.Fprintf(w, "\nWarning: %s", warning.Summary)
		if warning.Path != "" {
			fmt.Fprintf(w, " (%s)", warning.Path)
		}
		fmt.Fprintf(w, "\n  %s\n", strings.ReplaceAll(warning.Message, "\n", "\n  "))
	}
}
