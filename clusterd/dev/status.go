//go:build linux

package dev

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// State is how a member does.
type State struct {
	Member
	Process string // running (pid 12), ended, stopped
	Link    string // up, down, none
	Health  string // of nodes: what the cluster thinks
	Log     string
}

// Status tells of every member.
func (c *Cluster) Status(ctx context.Context) ([]State, error) {
	p, err := c.Plan()
	if err != nil {
		return nil, err
	}
	health := c.health(ctx, p)
	var out []State
	for _, m := range p.Members() {
		s := State{Member: m, Process: "ended", Link: "down", Health: health(m), Log: c.log(m)}
		if pid, ok := c.running(m); ok {
			s.Process = fmt.Sprintf("running (pid %d)", pid)
		} else if !c.space(m.Name).exists() {
			s.Process = "stopped"
		}
		switch {
		case !c.space(m.Name).exists():
			s.Link = "none"
		case c.linkUp(m):
			s.Link = "up"
		}
		out = append(out, s)
	}
	return out, nil
}

// health asks the cluster once and answers for each member.
func (c *Cluster) health(ctx context.Context, p Plan) func(Member) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cl, err := c.client(p)
	var nodes []*api.Node
	if err == nil {
		defer cl.Close()
		nodes, _, err = client.Of(cl, api.Nodes).List(ctx, "", nil)
	}
	return func(m Member) string {
		if m.Server || err != nil {
			return map[bool]string{true: "answers", false: "unknown: the control plane does not answer"}[err == nil]
		}
		for _, n := range nodes {
			if n.Meta.Name == m.Name {
				return healthOf(n, nil)
			}
		}
		return "not joined yet"
	}
}

// Env returns the shell's export lines for the cluster's users: address,
// credentials, and a Terraform configuration with the provider as built now.
func (c *Cluster) Env() (string, error) {
	p, err := c.Plan()
	if err != nil {
		return "", err
	}
	addr, token, cacert, err := c.credentials(p)
	if err != nil {
		return "", err
	}
	if _, err := mirror(c.mirrorDir(), filepath.Join(c.cfg.Bin, "terraform-provider-clusterd"), time.Now()); err != nil {
		return "", err
	}
	if err := os.WriteFile(c.cliConfigFile(), []byte(cliConfig(c.mirrorDir())), 0o644); err != nil {
		return "", err
	}
	return exports("CLUSTERD_ADDR", addr, "CLUSTERD_TOKEN", token, "CLUSTERD_CACERT", cacert, "TF_CLI_CONFIG_FILE", c.cliConfigFile()), nil
}
