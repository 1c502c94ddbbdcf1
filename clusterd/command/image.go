package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
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
	for d := json.NewDecoder(resp.Body); ; {
		var line api.ImageProgress
		if err := d.Decode(&line); err != nil {
			return fmt.Errorf("the answer broke off: %w", err)
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
