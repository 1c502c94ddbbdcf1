package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// flow is a connection the kernel tracks: where the client sent it, and who
// answers.
type flow struct {
	protocol Protocol
	to       netip.AddrPort // the frontend, as the client sees it
	pod      netip.AddrPort // where its packets go
	opening  bool           // TCP: nobody has answered yet
}

// staleFlows returns what tells the flows that must be forgotten. A UDP
// "connection" to a pod that is behind its frontend no more would go on for as
// long as the client sends. A TCP one whose SYN nobody answered, because it was
// lost or the pod is gone, is tried again a second later: then it must go to a
// pod that takes connections. Open TCP connections are the pod's own matter.
func staleFlows(rules Ruleset) func(flow) bool {
	return func(f flow) bool {
		if f.protocol == TCP && !f.opening {
			return false
		}
		b, ok := rules[Frontend{f.to.Addr(), f.protocol, f.to.Port()}]
		if !ok && f.pod != f.to { // translated: perhaps by a node port
			b, ok = rules[Frontend{netip.IPv4Unspecified(), f.protocol, f.to.Port()}]
		}
		if f.protocol == TCP {
			return ok && !slices.Contains(b.Slots, f.pod)
		}
		return ok && !b.holds(f.pod)
	}
}

// conntrack is the kernel's table of connections.
type conntrack struct{ nl *netlink.Handle }

func openConntrack() (*conntrack, error) {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	return &conntrack{h}, nil
}

func (c *conntrack) close() { c.nl.Close() }

func (c *conntrack) sweep(stale func(flow) bool) (int, error) {
	n, err := c.nl.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter(stale))
	if err != nil {
		return int(n), fmt.Errorf("conntrack: %w", err)
	}
	return int(n), nil
}

// filter adapts a predicate to netlink's interface.
type filter func(flow) bool

func (stale filter) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	to, ok1 := netip.AddrFromSlice(f.Forward.DstIP.To4())
	pod, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP.To4())
	if !ok1 || !ok2 {
		return false
	}
	out := flow{
		protocol: Protocol(f.Forward.Protocol),
		to:       netip.AddrPortFrom(to, f.Forward.DstPort),
		pod:      netip.AddrPortFrom(pod, f.Reverse.SrcPort),
	}
	switch out.protocol {
	case TCP:
		tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		out.opening = ok && tcp.State == nl.TCP_CONNTRACK_SYN_SENT
	case UDP:
	default:
		return false
	}
	return stale(out)
}
