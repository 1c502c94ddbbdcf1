package command

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) image() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Look at the images on the nodes, bring some without a registry, and remove some"}
	load := &cobra.Command{
		Use:     "load <file>…",
		Short:   "Load the images of an OCI layout tar onto every node",
		Example: `  clusterd image load .cache/images/nginx-1.0.tar`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			for _, path := range args {
				if err := c.load(cmd, cl, path); err != nil {
					return fmt.Errorf("load %s: %w", path, err)
				}
			}
			return nil
		},
	}
	cmd.AddCommand(c.imageList(), load, c.imageRemove())
	return cmd
}

func (c *cli) imageList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the images on the connected nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			nodes, _, err := client.Of(cl, api.Nodes).List(cmd.Context(), "", nil)
			if err != nil {
				return err
			}
			at := map[api.NodeImage][]string{}
			for _, n := range nodes {
				var have api.NodeImages
				err := cl.Call(cmd.Context(), http.MethodGet, client.Path(api.Nodes.Info(), "", n.Meta.Name)+"/images", nil, nil, &have)
				if err != nil {
					fmt.Fprintln(plain{c.err}, "Error:", message(err))
					continue
				}
				for _, i := range have.Items {
					at[i] = append(at[i], n.Meta.Name)
				}
			}
			t := table{header: []string{"REFERENCE", "DIGEST", "SIZE", "NODES"}}
			for _, i := range slices.SortedFunc(maps.Keys(at), func(a, b api.NodeImage) int {
				return cmp.Or(strings.Compare(a.Reference, b.Reference), strings.Compare(a.Digest, b.Digest))
			}) {
				t.rows = append(t.rows, []string{i.Reference, i.Digest[:min(len(i.Digest), 19)], fmt.Sprintf("%dMi", (i.Size+1<<20-1)>>20), strings.Join(at[i], ",")})
			}
			return t.print(plain{c.out})
		},
	}
}

func (c *cli) imageRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "rm <image>…",
		Short:   "Remove images from every connected node; where a pod needs one, it stays",
		Example: `  clusterd image rm nginx:1.0`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			for _, ref := range args {
				err := c.told(cl.Do(cmd.Context(), client.Request{Method: http.MethodDelete, Path: "/v1/images", Query: url.Values{"reference": {ref}}}))
				if err != nil {
					return fmt.Errorf("remove %s: %w", ref, err)
				}
			}
			return nil
		},
	}
}

func (c *cli) load(cmd *cobra.Command, cl *client.Client, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.told(cl.Do(cmd.Context(), client.Request{
		Method: http.MethodPost, Path: "/v1/images", Stream: f,
		Header: http.Header{"Content-Type": {"application/x-tar"}},
	}))
}

// told prints what a server tells while it does something on every node.
func (c *cli) told(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var line api.ImageProgress
		if err := d.Decode(&line); err != nil {
			return fmt.Errorf("the answer broke off before its end: %w", err)
		}
		switch {
		case line.Node == "" && line.Status == api.ImageFailed:
			return errors.New(line.Message)
		case line.Node == "" && line.Status == api.ImageDone:
			fmt.Fprintf(c.out, "%s: %s\n", strings.Join(line.Images, ", "), line.Message)
			return nil
		case line.Node == "":
			fmt.Fprintf(c.err, "%s %s: %s\n", line.Status, strings.Join(line.Images, ", "), line.Message)
		case line.Message != "":
			fmt.Fprintf(c.err, "  %s: %s: %s\n", line.Node, line.Status, line.Message)
		default:
			fmt.Fprintf(c.err, "  %s: %s\n", line.Node, line.Status)
		}
	}
}
