package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) image() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Bring images to nodes without a registry"}
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
	cmd.AddCommand(load)
	return cmd
}

// loaded is a line of the answer: how it went on one node.
type loaded struct {
	Node   string `json:"node"`
	Images []struct {
		Reference string `json:"reference"`
		Digest    string `json:"digest"`
	} `json:"images"`
	Error string `json:"error"`
}

func (c *cli) load(cmd *cobra.Command, cl *client.Client, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	resp, err := cl.Do(cmd.Context(), client.Request{
		Method: http.MethodPost, Path: "/v1/images", Stream: f,
		Header: http.Header{"Content-Type": {"application/x-tar"}},
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	failed := 0
	for d := json.NewDecoder(resp.Body); ; {
		var l loaded
		switch err := d.Decode(&l); {
		case errors.Is(err, io.EOF) && failed > 0:
			return fmt.Errorf("%d nodes do not have it", failed)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the answer broke off: %w", err)
		}
		if l.Error != "" {
			failed++
			fmt.Fprintf(c.err, "%s: %s\n", l.Node, l.Error)
			continue
		}
		for _, i := range l.Images {
			fmt.Fprintf(c.out, "%s: %s %s\n", l.Node, i.Reference, i.Digest)
		}
	}
}
