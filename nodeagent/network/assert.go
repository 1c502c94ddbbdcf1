package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	settle = 20 * time.Millisecond // a flush comes as many events: look once they are over
	resync = 30 * time.Second      // looks even when no event said so
)

// Run keeps the network as it should be until ctx is done: the kernel says
// when a link, an address or a route changes.
func (n *Network) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := n.watch(ctx)
		if ctx.Err() != nil {
			break
		}
		// The kernel drops events of a reader that is too slow. Nothing is lost:
		// the next watch begins with a look at everything.
		n.log.Debug("watch of links and routes ended", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return ctx.Err()
}

func (n *Network) watch(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	var (
		links  = make(chan netlink.LinkUpdate, 64)
		addrs  = make(chan netlink.AddrUpdate, 64)
		routes = make(chan netlink.RouteUpdate, 64)
	)
	err := errors.Join(
		netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &n.ns}),
		netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &n.ns}),
		netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &n.ns}),
	)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	slow := time.NewTicker(resync)
	defer slow.Stop()
	soon := time.NewTimer(0)
	defer soon.Stop()
	for {
		ok := true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok = <-links:
			soon.Reset(settle)
		case _, ok = <-addrs:
			soon.Reset(settle)
		case _, ok = <-routes:
			soon.Reset(settle)
		case <-slow.C:
			soon.Reset(0)
		case <-n.wake:
			soon.Reset(0)
		case <-soon.C:
			if err := n.Assert(); err != nil {
				n.log.Warn("network is not as it should be, trying again", "error", err)
				soon.Reset(time.Second)
			}
		}
		if !ok {
			return errors.New("subscription closed")
		}
	}
}

// Assert compares the network with what it should be and puts back what is
// missing. It changes nothing when all is well.
func (n *Network) Assert() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	want, podErr := n.assertPods()
	want = append(want, nowhere(n.cfg.Subnet))
	if n.cfg.Services.IsValid() {
		// Connections of the node itself to a virtual IP need a route before the
		// output hook can send them elsewhere; any link will do.
		want = append(want, hop{dst: n.cfg.Services.Masked(), link: lo.Attrs().Index})
	}
	for subnet, via := range n.routes {
		want = append(want, hop{dst: subnet, via: via})
	}
	return errors.Join(podErr, n.assertForwarding(), n.assertGateway(lo), n.assertRoutes(want))
}

// assertPods repairs the wire of every pod that has a sandbox, removes wires
// of no pod, and returns the routes to the pods.
func (n *Network) assertPods() (want []hop, err error) {
	links, err := n.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	ours := map[string]*netlink.LinkAttrs{}
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "veth" && hostLinkRE.MatchString(a.Name) {
			ours[a.Name] = a
		}
	}
	var errs []error
	for uid, l := range n.leases.Pods {
		if l.hostNetwork() {
			continue
		}
		name := hostLink(uid)
		a := ours[name]
		delete(ours, name)
		if !isPinned(n.dir(uid)) {
			continue // not set up since the reboot
		}
		if a == nil || a.Flags&net.FlagUp == 0 {
			if err := n.wire(uid, l.IP); err != nil {
				errs = append(errs, fmt.Errorf("network of pod %s: %w", uid, err))
				continue
			}
			link, err := n.nl.LinkByName(name)
			if err != nil {
				errs = append(errs, fmt.Errorf("link %s: %w", name, err))
				continue
			}
			n.log.Info("repaired the network of a pod", "uid", uid, "ip", l.IP)
			a = link.Attrs()
		}
		want = append(want, podRoute(l.IP, a.Index))
	}
	for name, a := range ours { // a pod's namespace outlives its sandbox while a process holds it
		if err := n.nl.LinkDel(&netlink.GenericLink{LinkAttrs: *a}); err != nil && !notFound(err) {
			errs = append(errs, fmt.Errorf("remove link %s: %w", name, err))
		}
	}
	return want, errors.Join(errs...)
}

func (n *Network) assertForwarding() error {
	var b [1]byte
	if _, err := n.forward.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return fmt.Errorf("net.ipv4.ip_forward: %w", err)
	}
	if bytes.Equal(b[:], []byte("1")) {
		return nil
	}
	if _, err := n.forward.WriteAt([]byte("1"), 0); err != nil {
		return fmt.Errorf("net.ipv4.ip_forward: %w", err)
	}
	return nil
}

// assertGateway keeps the pods' gateway an address of this node. Its scope is
// host, so that no connection of the node's own takes it as its source.
func (n *Network) assertGateway(lo netlink.Link) error {
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := n.nl.LinkSetUp(lo); err != nil {
			return fmt.Errorf("link lo: %w", err)
		}
	}
	addrs, err := n.nl.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses of lo: %w", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(n.cfg.Gateway.AsSlice()) {
			return nil
		}
	}
	a := &netlink.Addr{IPNet: ipNet(host(n.cfg.Gateway)), Scope: unix.RT_SCOPE_HOST}
	if err := n.nl.AddrReplace(lo, a); err != nil {
		return fmt.Errorf("address %s: %w", n.cfg.Gateway, err)
	}
	return nil
}

func (n *Network) assertRoutes(want []hop) error {
	have, err := n.ownRoutes()
	if err != nil {
		return err
	}
	remove, add := planRoutes(have, want)
	var errs []error
	for _, h := range remove {
		if h.via.IsValid() && n.routes == nil {
			continue // to another node, and a restarted agent does not know yet which there are
		}
		errs = append(errs, n.removeRoute(h))
	}
	for _, h := range add {
		err := n.route(h)
		if h.via.IsValid() && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)) {
			// Said once, and not an error to try again at once: the next change of a
			// link or of the node's address is a new chance.
			if !n.warned[h.dst] {
				n.log.Warn("pods of a node cannot be reached: its address is on no network of this node", "subnet", h.dst, "address", h.via)
				n.warned[h.dst] = true
			}
			continue
		}
		delete(n.warned, h.dst)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
