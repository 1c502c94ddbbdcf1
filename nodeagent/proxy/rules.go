package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Protocol is an IP protocol number.
type Protocol uint8

// Protocols of a service port.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (p Protocol) String() string {
	if p == UDP {
		return "udp"
	}
	return "tcp"
}

// Frontend is where clients connect to: a virtual IP and port or, with the
// unspecified address, a port of the node.
type Frontend struct {
	IP       netip.Addr
	Protocol Protocol
	Port     uint16
}

func (f Frontend) String() string {
	if f.IP.IsUnspecified() {
		return fmt.Sprintf("node:%d/%s", f.Port, f.Protocol)
	}
	return fmt.Sprintf("%s:%d/%s", f.IP, f.Port, f.Protocol)
}

func (f Frontend) compare(g Frontend) int {
	return cmp.Or(f.IP.Compare(g.IP), cmp.Compare(f.Port, g.Port), cmp.Compare(f.Protocol, g.Protocol))
}

// Balance is how the connections of a frontend spread over pods: each takes a
// slot, by chance or, if sticky, by the hash of the client's address.
type Balance struct {
	Sticky   bool
	Slots    []netip.AddrPort // empty: connections are rejected
	Draining []netip.AddrPort // get no new connections, keep those they have
}

// Closed reports whether connections are rejected.
func (b Balance) Closed() bool { return len(b.Slots) == 0 }

func (b Balance) equal(o Balance) bool {
	return b.Sticky == o.Sticky && slices.Equal(b.Slots, o.Slots) && slices.Equal(b.Draining, o.Draining)
}

// holds reports whether connections to the pod's address may go on.
func (b Balance) holds(pod netip.AddrPort) bool {
	return slices.Contains(b.Slots, pod) || slices.Contains(b.Draining, pod)
}

// Ruleset says what becomes of a connection to each frontend.
type Ruleset map[Frontend]Balance

// String lists the frontends and their pods' shares, in a fixed order.
func (r Ruleset) String() string {
	var out strings.Builder
	for _, f := range slices.SortedFunc(maps.Keys(r), Frontend.compare) {
		fmt.Fprintf(&out, "%s %s\n", f, r[f])
	}
	return out.String()
}

func (b Balance) String() string {
	if b.Closed() {
		return "rejected"
	}
	var out strings.Builder
	if b.Sticky {
		out.WriteString("by client ")
	}
	shares := b.shares()
	for i, pod := range slices.SortedFunc(maps.Keys(shares), netip.AddrPort.Compare) {
		if i > 0 {
			out.WriteString(", ")
		}
		fmt.Fprintf(&out, "%s %d/%d", pod, shares[pod], len(b.Slots))
	}
	for _, pod := range b.Draining {
		fmt.Fprintf(&out, ", %s draining", pod)
	}
	return out.String()
}

func (b Balance) shares() map[netip.AddrPort]int {
	shares := map[netip.AddrPort]int{}
	for _, pod := range b.Slots {
		shares[pod]++
	}
	return shares
}

// planService returns the frontends of one service. have is what they are now:
// a slot moves only if its pod is gone or has too many.
func planService(svc *api.Service, eps []*api.Endpoints, have Ruleset) Ruleset {
	want := Ruleset{}
	vip, _ := netip.ParseAddr(svc.Effective.IP)
	for _, name := range slices.Sorted(maps.Keys(svc.Effective.Ports)) {
		p := svc.Effective.Ports[name]
		ready, draining := backends(eps, name)
		if len(ready) == 0 {
			ready, draining = draining, nil // better late than refused
		}
		proto := TCP
		if p.Protocol == "udp" {
			proto = UDP
		}
		sticky := svc.Effective.Affinity == "client_ip"
		add := func(f Frontend) {
			want[f] = Balance{sticky, assign(have[f].Slots, ready, classOf(len(ready), sticky), f), draining}
		}
		if vip.Is4() {
			add(Frontend{vip, proto, uint16(p.Port)})
		}
		if p.NodePort != nil {
			add(Frontend{netip.IPv4Unspecified(), proto, uint16(*p.NodePort)})
		}
	}
	return want
}

// backends returns the addresses behind a service port, sorted. A pod that is
// in two slices while it moves from one to the other counts as not draining if
// one of them says so.
func backends(all []*api.Endpoints, port string) (ready, draining []netip.AddrPort) {
	isDraining := map[netip.AddrPort]bool{}
	for _, s := range all {
		for _, e := range s.Spec.Addresses {
			ip, err := netip.ParseAddr(e.IP)
			n, ok := e.Ports[port]
			if err != nil || !ip.Is4() || !ok || n < 1 || n > 65535 {
				continue
			}
			pod := netip.AddrPortFrom(ip, uint16(n))
			was, twice := isDraining[pod]
			isDraining[pod] = e.Draining && (was || !twice)
		}
	}
	for pod, d := range isDraining {
		if d {
			draining = append(draining, pod)
		} else {
			ready = append(ready, pod)
		}
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	slices.SortFunc(draining, netip.AddrPort.Compare)
	return ready, draining
}
