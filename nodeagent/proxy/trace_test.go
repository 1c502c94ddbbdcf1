package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// packet is the first of a connection, as it enters the node.
type packet struct {
	src, dst netip.AddrPort
	protocol Protocol
}

// machine is what the tracer knows of the node beside the rules.
type machine struct {
	ranges
	addresses []netip.Addr // of the node
}

// trace follows a packet through the table (table.go) and says where it may
// end up and who it seems to come from. It is the rules' meaning in Go: the
// machine tests show that the kernel agrees.
func (m machine) trace(rules Ruleset, p packet) string {
	local := slices.Contains(m.addresses, p.dst.Addr())
	f := Frontend{p.dst.Addr(), p.protocol, p.dst.Port()}
	b, ok := rules[f]
	if !ok && local && !loopback.Contains(p.dst.Addr()) {
		f.IP = netip.IPv4Unspecified()
		b, ok = rules[f]
	}
	switch {
	case ok && b.Closed(), !ok && m.services.Contains(p.dst.Addr()):
		return "rejected"
	case !ok && local:
		return "node"
	case !ok:
		return fmt.Sprintf("%s from %s", p.dst, m.source(p.src.Addr(), p.dst.Addr(), false))
	}
	var out []string
	for _, pod := range slices.SortedFunc(maps.Keys(b.shares()), netip.AddrPort.Compare) {
		out = append(out, fmt.Sprintf("%s from %s", pod, m.source(p.src.Addr(), pod.Addr(), true)))
	}
	return strings.Join(out, ", ")
}

// source is the postrouting chain.
func (m machine) source(src, dst netip.Addr, translated bool) string {
	switch {
	case src == dst && m.subnet.Contains(src): // hairpin
		return "node"
	case translated && !m.pods.Contains(src) && m.pods.Contains(dst) && !m.subnet.Contains(dst):
		return "node"
	case m.subnet.Contains(src) && !m.pods.Contains(dst):
		return "node"
	case slices.Contains(m.addresses, src):
		return "node"
	}
	return src.String()
}
