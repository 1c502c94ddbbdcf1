// Package networktest makes machines out of network namespaces, for tests that
// need more than one: they hang on one switch, and everything in them is gone
// when the test ends, because nothing but the test's own files holds them.
//
// Invariants: nothing is visible outside the namespaces; a test that may not
// make them is skipped and says why.
package networktest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Machine is a network namespace.
type Machine struct {
	Name string
	IP   netip.Addr // on the switch
	ns   netns.NsHandle
}

// Need skips tests that may not make network namespaces.
func Need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
}

// New returns n machines on a switch of their own: 192.0.2.1, 192.0.2.2, …
func New(t testing.TB, n int) []*Machine {
	t.Helper()
	Need(t)
	hub := create(t, "hub")
	at := hub.netlink(t)
	must(t, at.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch", Flags: net.FlagUp}}))
	br, err := at.LinkByName("switch")
	must(t, err)
	var all []*Machine
	for i := range n {
		m := create(t, fmt.Sprintf("m%d", i+1))
		m.IP = netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		must(t, at.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: m.Name, MasterIndex: br.Attrs().Index, Flags: net.FlagUp},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(m.ns)),
		}))
		own := m.netlink(t)
		for _, name := range []string{"lo", "eth0"} {
			l, err := own.LinkByName(name)
			must(t, err)
			must(t, own.LinkSetUp(l))
			if name == "eth0" {
				ip := &net.IPNet{IP: m.IP.AsSlice(), Mask: net.CIDRMask(24, 32)}
				must(t, own.AddrAdd(l, &netlink.Addr{IPNet: ip}))
			}
		}
		all = append(all, m)
	}
	return all
}

// create makes a namespace that lives as long as the test.
func create(t testing.TB, name string) *Machine {
	t.Helper()
	m := &Machine{Name: name, ns: netns.None()}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.New()
		m.ns = ns
		done <- err
	}()
	must(t, <-done)
	t.Cleanup(func() { m.ns.Close() })
	return m
}

// At returns the machine, or pod, whose network namespace is the file at path.
func At(t testing.TB, path string) *Machine {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return &Machine{Name: path, ns: ns}
}

func (m *Machine) netlink(t testing.TB) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(m.ns, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

// Netlink returns the machine's links, addresses and routes.
func (m *Machine) Netlink(t testing.TB) *netlink.Handle { return m.netlink(t) }

// FD is the machine's network namespace.
func (m *Machine) FD() int { return int(m.ns) }

// Do calls f in the machine. f must not start goroutines that need it.
func (m *Machine) Do(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, as above
		if err := netns.Set(m.ns); err != nil {
			panic(err)
		}
		f()
	}()
	<-done
}

// Dial connects from the machine.
func (m *Machine) Dial(network, address string, timeout time.Duration) (c net.Conn, err error) {
	m.Do(func() { c, err = net.DialTimeout(network, address, timeout) })
	return c, err
}

// Serve answers every TCP connection, and every UDP packet, to a port of the
// machine with its name and the client's address, as "name client"; TCP
// connections then echo what they are sent. stop ends it.
func (m *Machine) Serve(t testing.TB, name string, port int) (stop func()) {
	t.Helper()
	var (
		l          net.Listener
		u          net.PacketConn
		err1, err2 error
		at         = fmt.Sprintf("0.0.0.0:%d", port)
	)
	m.Do(func() {
		l, err1 = net.Listen("tcp4", at)
		u, err2 = net.ListenPacket("udp4", at)
	})
	must(t, err1)
	must(t, err2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s %s\n", name, host(c.RemoteAddr()))
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		for buf := make([]byte, 2048); ; {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(fmt.Appendf(nil, "%s %s\n", name, host(from)), from)
		}
	}()
	stop = func() { l.Close(); u.Close() }
	t.Cleanup(stop)
	return stop
}

// Ask connects from the machine to what Serve serves and returns the answer.
func (m *Machine) Ask(network, address string, timeout time.Duration) (name, client string, err error) {
	c, err := m.Dial(network, address, timeout)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	return Answer(c, timeout)
}

// Answer reads the first line of what Serve serves.
func Answer(c net.Conn, timeout time.Duration) (name, client string, err error) {
	c.SetDeadline(time.Now().Add(timeout))
	if c.RemoteAddr().Network() == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	buf := make([]byte, 256) // a datagram must be read at once
	n, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	_, err = fmt.Sscan(string(buf[:n]), &name, &client)
	return name, client, err
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
