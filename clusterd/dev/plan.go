// Package dev makes a real cluster on one Linux machine: a hub network
// namespace with a bridge, and each server and node a network namespace of its
// own with its own processes and state. The root namespace has one link to the
// hub, by which the command line, Terraform and browsers reach the cluster.
//
// Invariants: two clusters of different names never meet; what is started is
// found again by what it is in (network namespace, cgroup) or by process id and
// start time, and nothing else is ever signalled; every step may be repeated;
// after Down nothing of the cluster is left, and that is checked.
package dev

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
)

// Plan is what a cluster is made of. It is kept as cluster.json.
type Plan struct {
	Name    string       `json:"name"`
	Subnet  netip.Prefix `json:"subnet"` // of the link between its machines
	Servers int          `json:"servers"`
	Nodes   int          `json:"nodes"`
}

// MaxNodes is how many nodes one cluster can have: a subnet's worth of addresses.
const MaxNodes = 100

// MaxServers is how many servers one cluster can have: more make no store safer.
const MaxServers = 7

// Check reports what cannot be.
func (p Plan) Check() error {
	switch {
	case !nameRE.MatchString(p.Name):
		return fmt.Errorf("--name %q: want lower-case letters, digits and dashes, starting with a letter, at most 30", p.Name)
	case p.Nodes < 1 || p.Nodes > MaxNodes:
		return fmt.Errorf("--nodes %d: want 1 to %d", p.Nodes, MaxNodes)
	case len(p.Name) > p.maxName():
		return fmt.Errorf("--name %q: at most %d characters with %d nodes: the paths of their sockets have room for no more", p.Name, p.maxName(), p.Nodes)
	case p.Servers < 1 || p.Servers > MaxServers:
		return fmt.Errorf("--servers %d: want 1 to %d", p.Servers, MaxServers)
	}
	return nil
}

// maxName is what a Unix socket's path of 107 bytes leaves for the name, beside
// that of the last node: /run/clusterd/dev/NAME/w9/containerd/s/ and 64 digits.
func (p Plan) maxName() int { return 10 - len(fmt.Sprintf("w%d", p.Nodes)) }

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,29}$`)

// Member is one machine of the cluster.
type Member struct {
	Name   string
	Addr   netip.Addr
	Server bool
}

// Members are the servers s1, s2, … and the nodes w1, w2, ….
func (p Plan) Members() []Member {
	var out []Member
	for i := range p.Servers {
		out = append(out, Member{fmt.Sprintf("s%d", i+1), p.host(11 + i), true})
	}
	for i := range p.Nodes {
		out = append(out, Member{fmt.Sprintf("w%d", i+1), p.host(101 + i), false})
	}
	return out
}

// url is where the API of a server is.
func (m Member) url() string { return "https://" + netip.AddrPortFrom(m.Addr, 7443).String() }

// addresses are where the API is, of every server.
func (p Plan) addresses() (out []string) {
	for _, m := range p.Members() {
		if m.Server {
			out = append(out, m.url())
		}
	}
	return out
}

// Member finds a member of the role by its number, given as 2 or with its letter.
func (p Plan) Member(word string, server bool) (Member, error) {
	letter, what, most := "w", "node", p.Nodes
	if server {
		letter, what, most = "s", "server", p.Servers
	}
	for _, m := range p.Members() {
		if m.Server == server && (m.Name == word || m.Name == letter+word) {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("cluster %s has no %s %q: want 1 to %d", p.Name, what, word, most)
}

// Gateway is the root namespace's address on the cluster's link.
func (p Plan) Gateway() netip.Addr { return p.host(1) }

func (p Plan) host(n int) netip.Addr {
	a := p.Subnet.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// freeSubnet returns the first network for a cluster that overlaps none taken.
func freeSubnet(taken []netip.Prefix) (netip.Prefix, error) {
next:
	for i := range 256 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 89, byte(i), 0}), 24)
		for _, t := range taken {
			if t.Bits() > 0 && t.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, errors.New("all of 10.89.0.0/16 is in use on this machine: remove a cluster with clusterd dev down --name …")
}

// rootLink names the root namespace's end of the link to the hub. Its length
// is bounded by the kernel, so it is made of the subnet, not of the name.
func (p Plan) rootLink() string { return fmt.Sprintf("clusterd%d", p.Subnet.Addr().As4()[2]) }

// share is what one of n nodes may give to pods: the machine divided by n.
func share(cores int, memory uint64, n int) (cpu, mem string) {
	return fmt.Sprintf("%dm", cores*1000/n), fmt.Sprintf("%dMi", memory>>20/uint64(n))
}
