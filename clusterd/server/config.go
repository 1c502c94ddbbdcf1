package server

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Ports and networks of a cluster that says nothing else.
const (
	DefaultPort       = "7443"
	DefaultPeerPort   = "7444"
	DefaultGossipPort = "7946"
	DefaultPods       = apiserver.DefaultPods
	DefaultServices   = apiserver.DefaultServices
)

// Config of a server. The zero value of a field is its default.
type Config struct {
	Name      string   // of this server; the machine's host name
	DataDir   string   // required, unless InMemory
	Listen    string   // host:port of the API; all addresses, port 7443
	Advertise string   // host or host:port others reach the API by; the machine's address
	Gossip    string   // host:port of the gossip, UDP and TCP; all addresses, port 7946
	Peer      string   // port, or host:port, that the other servers reach its store by; port 7444
	Hosts     []string // more names and addresses for the certificate

	// Join is host:port of servers of a cluster to become a member of, with a
	// token of role server. Ignored by one that is a member already.
	Join      []string
	JoinToken string

	// Etcd is where the operator runs an etcd that has the cluster's state; without
	// endpoints the servers keep it themselves.
	Etcd Etcd

	Pods     netip.Prefix // addresses of pods, a /24 for each node
	Services netip.Prefix // virtual addresses of services

	// Lease is how long a node that is cut off goes on with stateful pods of
	// on_isolation = stop, before it stops them and they may run elsewhere.
	Lease time.Duration // 20 s

	// AuditLog is the file that tells who did what; audit.log in DataDir when
	// unset, AuditOff for none.
	AuditLog string

	// Registry finds the digests of images; by default, it asks their registries. For tests.
	Registry apiserver.Registry `json:"-"`

	// InMemory keeps the objects nowhere but in memory. Credentials are in
	// DataDir all the same. For tests.
	InMemory bool
	// NoSync trades durability for speed. For tests.
	NoSync bool
	// Level is what the server knows of what others write; api.Level. For tests.
	Level int

	Log hclog.Logger
}

// withDefaults fills in what is unset and reports what cannot be.
func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		return c, errors.New("--data-dir is required: the directory that keeps the cluster's state")
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("--name is required: %w", err)
		}
		c.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if !nameRE.MatchString(c.Name) {
		return c, fmt.Errorf("--name %q: want lower-case letters, digits and dashes, starting with a letter", c.Name)
	}
	var err error
	if c.Listen, err = hostPort("--listen", c.Listen, DefaultPort); err != nil {
		return c, err
	}
	if c.Gossip, err = hostPort("--gossip", c.Gossip, DefaultGossipPort); err != nil {
		return c, err
	}
	if !c.Pods.IsValid() {
		c.Pods = netip.MustParsePrefix(DefaultPods)
	}
	if !c.Services.IsValid() {
		c.Services = netip.MustParsePrefix(DefaultServices)
	}
	c.Etcd.Prefix = cmp.Or(c.Etcd.Prefix, DefaultEtcdPrefix)
	if err := c.Etcd.check(); err != nil {
		return c, err
	}
	if c.Pods.Overlaps(c.Services) {
		return c, fmt.Errorf("the pods' network %s and the services' network %s overlap: choose others", c.Pods, c.Services)
	}
	if c.Lease = cmp.Or(c.Lease, apiserver.LeaseDefault); c.Lease < 5*time.Second || c.Lease > time.Hour {
		return c, fmt.Errorf("--lease %s: want 5s to 1h", c.Lease)
	}
	switch c.AuditLog {
	case "":
		c.AuditLog = filepath.Join(c.DataDir, auditFile)
	case AuditOff:
		c.AuditLog = ""
	}
	c.Level = cmp.Or(c.Level, api.Level)
	if c.Log == nil {
		c.Log = hclog.NewNullLogger()
	}
	return c, nil
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// hostPort completes an address that may lack its port or be empty.
func hostPort(flag, addr, port string) (string, error) {
	host, p, err := net.SplitHostPort(addr)
	switch {
	case err == nil && p != "":
		return addr, nil
	case err == nil:
		return net.JoinHostPort(host, port), nil
	case net.ParseIP(addr) != nil || !strings.Contains(addr, ":"):
		return net.JoinHostPort(addr, port), nil
	}
	return "", fmt.Errorf("%s %q: want host:port", flag, addr)
}

// advertised is host:port by which others reach what listens on bound, and
// the host alone.
func (c Config) advertised(bound string) (addr, host string, err error) {
	listenHost, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", "", err
	}
	host = c.Advertise
	if h, p, err := net.SplitHostPort(c.Advertise); err == nil {
		host, port = h, p
	}
	if host == "" {
		if host = listenHost; net.ParseIP(host).IsUnspecified() {
			if host, err = ownAddress(); err != nil {
				return "", "", err
			}
		}
	}
	return net.JoinHostPort(host, port), host, nil
}

// ownAddress is the machine's first IPv4 address that is not loopback.
func ownAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("--advertise is required: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("--advertise is required: this machine has no IPv4 address but loopback")
}

// peer is host:port by which the other servers reach this one's store; host is
// what it advertises for everything else.
func (c Config) peer(host string) (string, error) {
	if c.Peer == "" {
		return net.JoinHostPort(host, DefaultPeerPort), nil
	}
	if !strings.Contains(c.Peer, ":") {
		return net.JoinHostPort(host, c.Peer), nil
	}
	if h, p, err := net.SplitHostPort(c.Peer); err != nil || h == "" || p == "" {
		return "", fmt.Errorf("--peer %q: want a port, or host:port", c.Peer)
	}
	return c.Peer, nil
}

// peerIsLocal reports whether the store's peers are all on this machine, so
// that nobody else need reach it.
func (c Config) peerIsLocal() bool {
	h, _, err := net.SplitHostPort(c.Peer)
	return err == nil && net.ParseIP(h).IsLoopback()
}

// hosts are the names and addresses that go into the certificate.
func (c Config) hosts(advertised string) []string {
	out := append([]string{advertised, "localhost", "127.0.0.1", "::1", c.Name}, c.Hosts...)
	out = slices.DeleteFunc(out, func(h string) bool { return h == "" })
	slices.Sort(out)
	return slices.Compact(out)
}
