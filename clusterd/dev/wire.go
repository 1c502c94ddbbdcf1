//go:build linux

package dev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const bridge = "br0"

// hubUp makes the hub: a namespace with a bridge, linked to the root namespace.
func (c *Cluster) hubUp(p Plan) error {
	hub := c.space("hub")
	if err := hub.make(); err != nil {
		return err
	}
	in, err := hub.links()
	if err != nil {
		return err
	}
	defer in.Close()
	br, err := in.LinkByName(bridge)
	if err != nil {
		if err := in.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
			return fmt.Errorf("make the hub's bridge: %w", err)
		}
		if br, err = in.LinkByName(bridge); err != nil {
			return err
		}
	}
	if err := in.LinkSetUp(br); err != nil {
		return err
	}
	if _, err := netlink.LinkByName(p.rootLink()); err == nil {
		return nil
	}
	root, err := netns.Get()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := connect(in, "root", root, p.rootLink(), netip.PrefixFrom(p.Gateway(), p.Subnet.Bits())); err != nil {
		return fmt.Errorf("link this machine to the hub: %w", err)
	}
	return nil
}

// plug makes the member's namespace and its link to the hub.
func (c *Cluster) plug(p Plan, m Member) error {
	s := c.space(m.Name)
	if err := s.make(); err != nil {
		return err
	}
	in, err := c.space("hub").links()
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := in.LinkByName(m.Name); err == nil {
		return nil
	}
	h, err := netns.GetFromPath(s.path)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := connect(in, m.Name, h, "eth0", netip.PrefixFrom(m.Addr, p.Subnet.Bits())); err != nil {
		return fmt.Errorf("link %s to the hub: %w", m.Name, err)
	}
	return nil
}

// connect lays a cable: port of the hub's bridge ↔ name inside peer, with an address.
func connect(hub *netlink.Handle, port string, peer netns.NsHandle, name string, addr netip.Prefix) error {
	br, err := hub.LinkByName(bridge)
	if err != nil {
		return err
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index}, PeerName: name, PeerNamespace: netlink.NsFd(peer)}
	if err := hub.LinkAdd(cable); err != nil {
		return err
	}
	if err := hub.LinkSetUp(cable); err != nil {
		return err
	}
	there, err := netlink.NewHandleAt(peer)
	if err != nil {
		return err
	}
	defer there.Close()
	end, err := there.LinkByName(name)
	if err != nil {
		return err
	}
	ip := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}}
	if err := there.AddrAdd(end, ip); err != nil {
		return err
	}
	return there.LinkSetUp(end)
}

// setLink connects a member to the hub, or pulls its plug at the hub's end:
// the member sees its link without carrier, as when a cable is cut.
func (c *Cluster) setLink(m Member, up bool) error {
	in, err := c.space("hub").links()
	if err != nil {
		return err
	}
	defer in.Close()
	port, err := in.LinkByName(m.Name)
	if err != nil {
		return fmt.Errorf("%s has no link: start it first: %w", m.Name, err)
	}
	if up {
		return in.LinkSetUp(port)
	}
	return in.LinkSetDown(port)
}

// linkUp reports whether the member is connected to the hub.
func (c *Cluster) linkUp(m Member) bool {
	in, err := c.space("hub").links()
	if err != nil {
		return false
	}
	defer in.Close()
	port, err := in.LinkByName(m.Name)
	return err == nil && port.Attrs().Flags&net.FlagUp != 0
}

// unplug removes the member's cable, if there is one.
func (c *Cluster) unplug(name string) error {
	if !c.space("hub").exists() {
		return nil
	}
	in, err := c.space("hub").links()
	if err != nil {
		return err
	}
	defer in.Close()
	return removeLink(in, name)
}

func removeLink(in *netlink.Handle, name string) error {
	link, err := in.LinkByName(name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err != nil {
		return err
	}
	return in.LinkDel(link)
}

// networksInUse are those this machine routes somewhere, its own included.
func networksInUse() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return nil, fmt.Errorf("list this machine's routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok {
			out = append(out, netip.PrefixFrom(a, ones))
		}
	}
	return out, nil
}
