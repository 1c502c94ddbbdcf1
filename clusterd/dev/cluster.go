//go:build linux

package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Where clusters live.
const (
	Root    = "/var/lib/clusterd/dev" // what survives a reboot of this machine
	runRoot = "/run/clusterd/dev"     // what does not
)

// dirLink in the run directory leads to the state of a cluster that runs: only
// `dev up` has to be told where that is.
const dirLink = "dir"

// Config says which cluster, and where the programs are.
type Config struct {
	Name string
	Dir  string // of the cluster's state; when unset where it runs, else Root/Name
	Bin  string // directory of nodeagent, clusterd-shim and the provider
	Exe  string // clusterd itself
	Say  func(format string, args ...any)
}

// Cluster is a local cluster, whether it runs or not.
type Cluster struct {
	cfg Config
	run string
	// before is the boot the control plane knows of a node that boots now: until
	// it has heard of the new one, its verdict is about the old.
	before map[string]string
}

// Open returns the cluster called cfg.Name. It changes nothing.
func Open(cfg Config) (*Cluster, error) {
	if !nameRE.MatchString(cfg.Name) {
		return nil, Plan{Name: cfg.Name}.Check()
	}
	run := filepath.Join(runRoot, cfg.Name)
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(Root, cfg.Name)
		if d, err := os.Readlink(filepath.Join(run, dirLink)); err == nil {
			cfg.Dir = d
		}
	}
	var err error
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Say == nil {
		cfg.Say = func(string, ...any) {}
	}
	return &Cluster{cfg: cfg, run: run, before: map[string]string{}}, nil
}

func (c *Cluster) space(member string) space { return space{filepath.Join(c.run, "netns", member)} }
func (c *Cluster) runDir(m Member) string    { return filepath.Join(c.run, m.Name) }
func (c *Cluster) dataDir(m Member) string   { return filepath.Join(c.cfg.Dir, m.Name) }
func (c *Cluster) pidFile(m Member) string   { return filepath.Join(c.run, m.Name+".pid") }
func (c *Cluster) logs() string              { return filepath.Join(c.cfg.Dir, "logs") }
func (c *Cluster) log(m Member) string       { return filepath.Join(c.logs(), m.Name+".log") }
func (c *Cluster) planFile() string          { return filepath.Join(c.cfg.Dir, "cluster.json") }
func (c *Cluster) mirrorDir() string         { return filepath.Join(c.cfg.Dir, "mirror") }
func (c *Cluster) cliConfigFile() string     { return filepath.Join(c.cfg.Dir, "terraform.tfrc") }

// cgroup is the parent of a member's cgroups; of all when the name is empty.
func (c *Cluster) cgroup(member string) string {
	return strings.TrimSuffix("/clusterd/"+c.cfg.Name+"/"+member, "/")
}

// ErrNone says that there is no cluster of the name.
var ErrNone = errors.New("there is no such cluster")

// Plan returns what the cluster is made of, or ErrNone.
func (c *Cluster) Plan() (p Plan, err error) {
	b, err := os.ReadFile(c.planFile())
	if errors.Is(err, os.ErrNotExist) {
		return p, fmt.Errorf("cluster %[1]s: %[2]w: start it with clusterd dev up --name %[1]s", c.cfg.Name, ErrNone)
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s: %w", c.planFile(), err)
	}
	return p, p.Check()
}

// plan returns the cluster's plan, made now if need be, with at least so many nodes.
func (c *Cluster) plan(nodes, servers int) (Plan, error) {
	p, err := c.Plan()
	switch {
	case errors.Is(err, ErrNone):
		taken, err := c.taken()
		if err != nil {
			return p, err
		}
		p = Plan{Name: c.cfg.Name, Servers: servers}
		if p.Subnet, err = freeSubnet(taken); err != nil {
			return p, err
		}
	case err != nil:
		return p, err
	}
	if p.Nodes > nodes {
		c.cfg.Say("cluster %s has %d nodes, and keeps them", p.Name, p.Nodes)
	}
	p.Nodes, p.Servers = max(p.Nodes, nodes), max(p.Servers, servers)
	if err := p.Check(); err != nil {
		return p, err
	}
	if err := errors.Join(os.MkdirAll(c.cfg.Dir, 0o755), os.MkdirAll(c.run, 0o755)); err != nil {
		return p, err
	}
	link := filepath.Join(c.run, dirLink)
	if err := errors.Join(removeFile(link), os.Symlink(c.cfg.Dir, link)); err != nil {
		return p, err
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return p, err
	}
	return p, os.WriteFile(c.planFile(), append(b, '\n'), 0o644)
}

// taken are the networks that a new cluster must keep away from: those in use,
// and those of clusters that do not run at the moment.
func (c *Cluster) taken() ([]netip.Prefix, error) {
	out, err := networksInUse()
	if err != nil {
		return nil, err
	}
	others, _ := filepath.Glob(filepath.Join(Root, "*", "cluster.json"))
	for _, path := range others {
		var p Plan
		if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &p) == nil && p.Subnet.IsValid() {
			out = append(out, p.Subnet)
		}
	}
	return out, nil
}

// lock keeps two commands from changing clusters of this machine at once.
func lock() (unlock func(), err error) {
	if err := os.MkdirAll(runRoot, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(runRoot)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", runRoot, err)
	}
	return func() { d.Close() }, nil
}

// credentials are what a user of the cluster needs.
func (c *Cluster) credentials(p Plan) (addr, token, cacert string, err error) {
	s := p.Members()[0]
	b, err := os.ReadFile(filepath.Join(c.dataDir(s), "admin.token"))
	if err != nil {
		return "", "", "", fmt.Errorf("cluster %s has no admin token yet: %w", p.Name, err)
	}
	return strings.Join(p.addresses(), ","), strings.TrimSpace(string(b)), filepath.Join(c.dataDir(s), "ca.crt"), nil
}

// client returns a client of the cluster.
func (c *Cluster) client(p Plan) (*client.Client, error) {
	addr, token, cacert, err := c.credentials(p)
	if err != nil {
		return nil, err
	}
	roots, err := pki.LoadRoots(cacert)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Addresses: strings.Split(addr, ","), Token: token, TLS: roots, UserAgent: "clusterd-dev"})
}
