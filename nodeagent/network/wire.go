package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podLink is the pod's end of its veth.
const podLink = "eth0"

// Every veth is a wire between two, so its ends may have the same addresses on
// all of them. Both sides know the other's beforehand and never ask.
var (
	hostMAC = net.HardwareAddr{0x0a, 0xc1, 0x05, 0x7e, 0x4d, 0x01}
	podMAC  = net.HardwareAddr{0x0a, 0xc1, 0x05, 0x7e, 0x4d, 0x02}
)

var hostLinkRE = regexp.MustCompile(`^pod[0-9a-f]{12}$`)

// hostLink names the node's end of a pod's veth: 15 bytes are the most Linux allows.
func hostLink(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return "pod" + hex.EncodeToString(sum[:6])
}

// wire connects a pod's namespace to the node's, and leaves alone what is right.
func (n *Network) wire(uid string, ip netip.Addr) error {
	ns, err := netns.GetFromPath(filepath.Join(n.dir(uid), "net"))
	if err != nil {
		return err
	}
	defer ns.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer pod.Close()

	host, err := n.veth(pod, ns, hostLink(uid))
	if err != nil {
		return err
	}
	if err := n.wirePod(pod, ip); err != nil {
		return err
	}
	neigh := &netlink.Neigh{LinkIndex: host.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: podMAC}
	if err := n.nl.NeighSet(neigh); err != nil {
		return fmt.Errorf("neighbour %s: %w", ip, err)
	}
	if err := n.route(podRoute(ip, host.Attrs().Index)); err != nil {
		return err
	}
	return errors.Join(carry(n.nl, host.Attrs().Name), carry(pod, podLink))
}

// carry waits until a link that was set up carries packets. The kernel gets to
// that a moment later, and drops what is sent before: a SYN costs a second then.
func carry(h *netlink.Handle, name string) error {
	for late := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		l, err := h.LinkByName(name) // from Linux 6.8 on, asking is enough
		switch {
		case err != nil:
			return fmt.Errorf("link %s: %w", name, err)
		case l.Attrs().OperState == netlink.OperUp:
			return nil
		case time.Now().After(late):
			return fmt.Errorf("link %s is %s", name, l.Attrs().OperState)
		}
	}
}

// veth returns the node's end of the pair, up; the other end is born in the pod.
func (n *Network) veth(pod *netlink.Handle, ns netns.NsHandle, name string) (netlink.Link, error) {
	host, err := n.nl.LinkByName(name)
	if err != nil && !notFound(err) {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	_, podErr := pod.LinkByName(podLink)
	if podErr != nil && !notFound(podErr) {
		return nil, fmt.Errorf("link %s: %w", podLink, podErr)
	}
	if err == nil && podErr == nil {
		if err := n.nl.LinkSetUp(host); err != nil {
			return nil, fmt.Errorf("link %s: %w", name, err)
		}
		return host, nil
	}
	if err == nil { // its other end is in a namespace of the past
		if err := n.nl.LinkDel(host); err != nil && !notFound(err) {
			return nil, fmt.Errorf("remove link %s: %w", name, err)
		}
	}
	mtu := n.mtu()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hostMAC, Flags: net.FlagUp, MTU: mtu},
		PeerName:  podLink, PeerHardwareAddr: podMAC, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(ns)),
	}
	if err := n.nl.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("add link %s: %w", name, err)
	}
	if host, err = n.nl.LinkByName(name); err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	return host, nil
}

// wirePod gives the pod its address and the way out.
func (n *Network) wirePod(pod *netlink.Handle, ip netip.Addr) error {
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	if err := pod.LinkSetUp(lo); err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	eth, err := pod.LinkByName(podLink)
	if err != nil {
		return fmt.Errorf("link %s: %w", podLink, err)
	}
	at := eth.Attrs().Index
	if err := pod.AddrReplace(eth, &netlink.Addr{IPNet: ipNet(host(ip))}); err != nil {
		return fmt.Errorf("address %s: %w", ip, err)
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return fmt.Errorf("link %s: %w", podLink, err)
	}
	gw := net.IP(n.cfg.Gateway.AsSlice())
	if err := pod.NeighSet(&netlink.Neigh{LinkIndex: at, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: hostMAC}); err != nil {
		return fmt.Errorf("neighbour %s: %w", gw, err)
	}
	if err := pod.RouteReplace(&netlink.Route{LinkIndex: at, Gw: gw, Flags: int(netlink.FLAG_ONLINK)}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// mtu returns the largest packet that leaves the node whole: the smallest MTU
// of its links that are neither pods' nor loopback.
func (n *Network) mtu() int {
	links, err := n.nl.LinkList()
	if err != nil {
		return 1500
	}
	least := 0
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 || hostLinkRE.MatchString(a.Name) || a.MTU < 1280 {
			continue
		}
		if least == 0 || a.MTU < least {
			least = a.MTU
		}
	}
	if least == 0 {
		return 1500
	}
	return least
}

func notFound(err error) bool {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return true
	}
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok
}

func host(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
