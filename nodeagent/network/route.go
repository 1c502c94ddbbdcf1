package network

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// protocol marks our routes among those of the main table, so that stale ones
// are told from other people's.
const protocol = 205

// A hop is a route of ours, comparable.
type hop struct {
	dst  netip.Prefix
	via  netip.Addr // zero: dst is on the link
	link int        // zero: wherever via is; or nowhere
}

// nowhere drops what is for a subnet. Packets to a pod that is gone must not
// follow the default route; and as nobody answers, a connection that is being
// opened tries again, by then perhaps to another pod.
func nowhere(subnet netip.Prefix) hop { return hop{dst: subnet.Masked()} }

func podRoute(ip netip.Addr, link int) hop { return hop{dst: host(ip), link: link} }

func (h hop) String() string {
	if h.via.IsValid() {
		return fmt.Sprintf("%s via %s", h.dst, h.via)
	}
	if h.link == 0 {
		return fmt.Sprintf("%s nowhere", h.dst)
	}
	return fmt.Sprintf("%s dev %d", h.dst, h.link)
}

// A problem says why a node's pods have no route.
type problem struct{ node, text string }

// planNodes returns the way to the pods of every other node.
func planNodes(self string, own netip.Prefix, nodes []*api.Node) (map[netip.Prefix]netip.Addr, []problem) {
	routes := map[netip.Prefix]netip.Addr{}
	var problems []problem
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *api.Node) int { return cmp.Compare(a.Meta.Name, b.Meta.Name) })
	for _, node := range nodes {
		name := node.Meta.Name
		subnet := cmp.Or(node.Effective.Subnet, node.Spec.Subnet)
		if name == self || subnet == "" || node.Status.Address == "" {
			continue // this node, or one that has not reported yet
		}
		p, err := netip.ParsePrefix(subnet)
		if err != nil {
			problems = append(problems, problem{name, fmt.Sprintf("subnet %q: %s", subnet, err)})
			continue
		}
		via, err := parseHost(node.Status.Address)
		if err != nil {
			problems = append(problems, problem{name, fmt.Sprintf("address %q: want an IPv4 address", node.Status.Address)})
			continue
		}
		p = p.Masked()
		if _, taken := routes[p]; taken || p.Overlaps(own) {
			problems = append(problems, problem{name, fmt.Sprintf("subnet %s belongs to another node", p)})
			continue
		}
		routes[p] = via
	}
	return routes, problems
}

// parseHost reads an IPv4 address, with or without a port.
func parseHost(s string) (netip.Addr, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		s = ap.Addr().String()
	}
	a, err := netip.ParseAddr(s)
	if err == nil && !a.Is4() {
		err = errors.New("not IPv4")
	}
	return a, err
}

// planRoutes returns what must be deleted and added to get from have to want.
func planRoutes(have, want []hop) (remove, add []hop) {
	for _, h := range have {
		if !slices.Contains(want, h) && !slices.ContainsFunc(want, func(w hop) bool { return w.dst == h.dst }) {
			remove = append(remove, h)
		}
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			add = append(add, w) // replaces another way to the same destination
		}
	}
	return remove, add
}

// ownRoutes reads our routes from the kernel.
func (n *Network) ownRoutes() ([]hop, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: protocol}
	list, err := n.nl.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var hops []hop
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		bits, _ := r.Dst.Mask.Size()
		h := hop{dst: netip.PrefixFrom(a, bits), link: r.LinkIndex}
		if via, ok := netip.AddrFromSlice(r.Gw.To4()); ok {
			h.via, h.link = via, 0
		}
		if r.Type == unix.RTN_BLACKHOLE {
			h.link = 0
		}
		hops = append(hops, h)
	}
	return hops, nil
}

// route adds a route, in place of another to the same destination.
func (n *Network) route(h hop) error {
	r := &netlink.Route{Dst: ipNet(h.dst), LinkIndex: h.link, Protocol: protocol, Table: unix.RT_TABLE_MAIN}
	switch {
	case h.via.IsValid():
		r.Gw = net.IP(h.via.AsSlice())
	case h.link == 0:
		r.Type = unix.RTN_BLACKHOLE
	default:
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s: %w", h, err)
	}
	return nil
}

// unroute removes the route to a pod, if there is one.
func (n *Network) unroute(ip netip.Addr) error {
	return n.removeRoute(hop{dst: host(ip)})
}

func (n *Network) removeRoute(h hop) error {
	err := n.nl.RouteDel(&netlink.Route{Dst: ipNet(h.dst), Protocol: protocol, Table: unix.RT_TABLE_MAIN, Scope: netlink.SCOPE_NOWHERE})
	if err != nil && !notFound(err) {
		return fmt.Errorf("remove route %s: %w", h, err)
	}
	return nil
}
