//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// peers remember the other nodes, so that their pods can be reached while no
// server can be asked.
type peers struct {
	path string
	log  hclog.Logger
	last []byte
}

// recall returns the nodes of the last run: name, subnet and address.
func (p *peers) recall() (nodes []*api.Node) {
	b, err := os.ReadFile(p.path)
	if err == nil {
		err = json.Unmarshal(b, &nodes)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("cannot read the nodes of the last run: waiting for a server", "error", err)
	}
	return nodes
}

func (p *peers) remember(all []*api.Node) {
	short := make([]*api.Node, len(all))
	for i, n := range all {
		short[i] = &api.Node{}
		short[i].Meta.Name, short[i].Effective.Subnet, short[i].Status.Address = n.Meta.Name, n.Effective.Subnet, n.Status.Address
	}
	slices.SortFunc(short, func(a, b *api.Node) int { return strings.Compare(a.Meta.Name, b.Meta.Name) })
	b, err := json.Marshal(short)
	if err == nil && !bytes.Equal(b, p.last) {
		if err = pki.WriteFile(p.path, b); err == nil {
			p.last = b
		}
	}
	if err != nil {
		p.log.Warn("cannot remember the nodes", "error", err)
	}
}
