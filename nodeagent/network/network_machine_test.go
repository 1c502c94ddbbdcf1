package network

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network/networktest"
)

const patience = 2 * time.Second

type node struct {
	*Network
	*networktest.Machine
	cfg Config
}

// nodes opens the network on n machines.
func nodes(t testing.TB, n int) []*node {
	var all []*node
	var objects []*api.Node
	for i, m := range networktest.New(t, n) {
		cfg := Config{
			RunDir: t.TempDir(), DataDir: t.TempDir(), Node: m.Name,
			Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 0}), 24), Services: netip.MustParsePrefix("10.96.0.0/16"),
		}
		nd := &node{Machine: m, cfg: cfg}
		nd.open(t)
		all = append(all, nd)
		o := &api.Node{Effective: api.NodeSpec{Subnet: cfg.Subnet.String()}, Status: api.NodeStatus{Address: m.IP.String()}}
		o.Meta.Name = m.Name
		objects = append(objects, o)
	}
	for _, nd := range all {
		nd.SetNodes(objects)
		must(t, nd.Assert())
	}
	return all
}

func (n *node) open(t testing.TB) {
	t.Helper()
	var err error
	n.Do(func() { n.Network, err = Open(n.cfg) })
	must(t, err)
	opened := n.Network
	t.Cleanup(func() {
		for uid := range opened.Pods() {
			opened.Teardown(t.Context(), uid)
		}
		opened.Close()
	})
}

func (n *node) pod(t testing.TB, uid string) (*networktest.Machine, Sandbox) {
	t.Helper()
	s, err := n.Setup(t.Context(), uid, uid, false)
	must(t, err)
	return networktest.At(t, s.Net), s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reach fails unless a server in pod to answers pod from, who is seen under its own address.
func reach(t *testing.T, from *networktest.Machine, fromIP, to netip.Addr, port string) {
	t.Helper()
	_, client, err := from.Ask("tcp", net.JoinHostPort(to.String(), port), patience)
	must(t, err)
	if client != fromIP.String() {
		t.Fatalf("the pod sees %s instead of %s", client, fromIP)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	n := nodes(t, 2)
	a, as := n[0].pod(t, "a")
	b, bs := n[0].pod(t, "b")
	c, cs := n[1].pod(t, "c")
	b.Serve(t, "b", 80)
	c.Serve(t, "c", 80)
	reach(t, a, as.IP, bs.IP, "80") // same node
	reach(t, a, as.IP, cs.IP, "80") // across
	reach(t, b, bs.IP, cs.IP, "80")
	n[0].Serve(t, "node", 7000)
	for _, p := range []*networktest.Machine{a, b} { // the gateway is the node, whoever asks
		if name, _, err := p.Ask("tcp", "169.254.1.1:7000", patience); err != nil || name != "node" {
			t.Fatalf("gateway: %q, %v", name, err)
		}
	}
}

func TestSandboxIsWhatPodsShare(t *testing.T) {
	n := nodes(t, 1)[0]
	a, s := n.pod(t, "0a1b")
	a.Do(func() {
		for name, want := range map[string]string{"ping_group_range": "0\t2147483647", "ip_unprivileged_port_start": "0"} {
			if b, err := os.ReadFile("/proc/sys/net/ipv4/" + name); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s is %q, %v: want %q", name, b, err, want)
			}
		}
	})
	for _, path := range []string{s.Net, s.IPC, s.UTS} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || st.Type != unix.NSFS_MAGIC {
			t.Errorf("%s is no namespace: %v", path, err)
		}
	}
	again, err := n.Setup(t.Context(), "0a1b", "0a1b", false)
	must(t, err)
	if !s.Fresh || again.Fresh {
		t.Errorf("fresh at first: %v, then: %v", s.Fresh, again.Fresh)
	}
	if again.Fresh = true; again != s {
		t.Errorf("a second Setup gave %+v instead of %+v", again, s)
	}
	must(t, n.Teardown(t.Context(), "0a1b"))
	must(t, n.Teardown(t.Context(), "0a1b"))
	if _, err := os.Stat(filepath.Dir(s.Net)); !os.IsNotExist(err) {
		t.Errorf("the sandbox is still there: %v", err)
	}
	if _, next := n.pod(t, "other"); next.IP == s.IP {
		t.Errorf("address %s was handed out again at once", s.IP)
	}
	if _, err := n.Setup(t.Context(), "../evil", "x", false); err == nil {
		t.Error("a UID with a path in it was accepted")
	}
}

func TestRestartAdoptsPods(t *testing.T) {
	two := nodes(t, 2)
	n := two[0]
	a, as := n.pod(t, "a")
	b, bs := n.pod(t, "b")
	b.Serve(t, "b", 80)
	orphan := n.dir("orphan") // of a Setup that was killed before its address was kept
	must(t, pin(orphan, "orphan", netns.None()))

	n.Close()
	n.open(t)
	if _, err := os.Stat(orphan); !os.IsNotExist(err) {
		t.Errorf("the orphan is still there: %v", err)
	}
	if got := n.Pods(); len(got) != 2 || got["a"] != as.IP || got["b"] != bs.IP {
		t.Fatalf("pods after the restart: %v", got)
	}
	reach(t, a, as.IP, bs.IP, "80")
	hops, err := n.ownRoutes()
	must(t, err)
	if !slices.Contains(hops, hop{dst: netip.MustParsePrefix("10.244.2.0/24"), via: two[1].IP}) {
		t.Errorf("the way to the other node is gone before the nodes are known: %v", hops)
	}
	n.SetNodes(nil)
	must(t, n.Assert())
	if hops, err = n.ownRoutes(); err != nil || slices.ContainsFunc(hops, func(h hop) bool { return h.via.IsValid() }) {
		t.Errorf("the way to a node that is no more is still there: %v, %v", hops, err)
	}
}

func TestRebootKeepsAddress(t *testing.T) {
	n := nodes(t, 1)[0]
	_, s := n.pod(t, "a")
	n.Close()
	must(t, unpin(n.dir("a"))) // what a reboot does to namespaces
	n.open(t)
	again, err := n.Setup(t.Context(), "a", "a", false)
	must(t, err)
	if again.IP != s.IP {
		t.Errorf("after the reboot the pod has %s instead of %s", again.IP, s.IP)
	}
}

// TestFlushIsRepaired deletes what the network is made of, one at a time, and
// waits for Run to put it back.
func TestFlushIsRepaired(t *testing.T) {
	n := nodes(t, 2)
	a, as := n[0].pod(t, "a")
	_, bs := n[0].pod(t, "b")
	c, cs := n[1].pod(t, "c")
	c.Serve(t, "c", 80)
	a.Serve(t, "a", 81)
	for _, nd := range n {
		done := make(chan struct{})
		go func() { nd.Run(t.Context()); close(done) }()
		t.Cleanup(func() { <-done })
	}
	h := n[0].Netlink(t)
	link := func(name string) netlink.Link {
		l, err := h.LinkByName(name)
		must(t, err)
		return l
	}
	for what, breakIt := range map[string]func(){
		"routes": func() {
			list, err := h.RouteList(nil, netlink.FAMILY_V4)
			must(t, err)
			for _, r := range list {
				if r.Protocol == protocol {
					must(t, h.RouteDel(&r))
				}
			}
		},
		"veth":    func() { must(t, h.LinkDel(link(hostLink("a")))) },
		"down":    func() { must(t, h.LinkSetDown(link(hostLink("a")))) },
		"gateway": func() { must(t, h.AddrDel(link("lo"), &netlink.Addr{IPNet: ipNet(host(DefaultGateway))})) },
	} {
		breakIt()
		begun := time.Now()
		for n[0].whole(t, map[string]netip.Addr{"a": as.IP, "b": bs.IP}) != "" {
			if time.Since(begun) > 5*time.Second {
				t.Fatalf("%s: not repaired: %s", what, n[0].whole(t, map[string]netip.Addr{"a": as.IP, "b": bs.IP}))
			}
			time.Sleep(5 * time.Millisecond)
		}
		reach(t, a, as.IP, cs.IP, "80")
		t.Logf("%s: repaired after %s", what, time.Since(begun).Round(time.Millisecond))
	}
}

// whole says what is missing of the node's own part of the network.
func (n *node) whole(t *testing.T, pods map[string]netip.Addr) string {
	h := n.Netlink(t)
	lo, err := h.LinkByName("lo")
	must(t, err)
	addrs, err := h.AddrList(lo, netlink.FAMILY_V4)
	must(t, err)
	gateway := false
	for _, a := range addrs {
		gateway = gateway || a.IP.Equal(DefaultGateway.AsSlice())
	}
	if !gateway {
		return "gateway"
	}
	n.mu.Lock()
	hops, err := n.ownRoutes()
	n.mu.Unlock()
	must(t, err)
	if want := len(pods) + 3; len(hops) != want { // services, the other node, nowhere
		return "routes"
	}
	for uid := range pods {
		l, err := h.LinkByName(hostLink(uid))
		if err != nil || l.Attrs().Flags&net.FlagUp == 0 {
			return "link of " + uid
		}
	}
	return ""
}

func TestStrangeNextHopIsNoError(t *testing.T) {
	n := nodes(t, 1)[0]
	o := &api.Node{Effective: api.NodeSpec{Subnet: "10.244.9.0/24"}, Status: api.NodeStatus{Address: "203.0.113.9"}}
	o.Meta.Name = "far"
	n.SetNodes([]*api.Node{o})
	must(t, n.Assert())
	must(t, n.Assert())
}

func BenchmarkSetup(b *testing.B) {
	n := nodes(b, 1)[0]
	i := 0
	for b.Loop() {
		uid := string(rune('a'+i%26)) + "-bench"
		i++
		if _, err := n.Setup(b.Context(), uid, uid, false); err != nil {
			b.Fatal(err)
		}
		if err := n.Teardown(b.Context(), uid); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHostNetwork: such a pod has the node's own network namespace, no address
// and no link of its own, and is the same after a restart of the agent.
func TestHostNetwork(t *testing.T) {
	n := nodes(t, 1)[0]
	s, err := n.Setup(t.Context(), "h", "h", true)
	must(t, err)
	for range 2 {
		ns, err := netns.GetFromPath(s.Net)
		must(t, err)
		if !ns.Equal(n.ns) || s.IP.IsValid() {
			t.Errorf("not the node's network: %+v", s)
		}
		ns.Close()
		must(t, n.Assert())
		if _, err := n.nl.LinkByName(hostLink("h")); !notFound(err) {
			t.Errorf("it has a link: %v", err)
		}
		must(t, n.Network.Close())
		n.open(t)
		again, err := n.Setup(t.Context(), "h", "h", true)
		must(t, err)
		if again.Fresh || again.Net != s.Net {
			t.Errorf("after a restart: %+v", again)
		}
	}
	must(t, n.Teardown(t.Context(), "h"))
	if _, err := os.Stat(s.Net); !os.IsNotExist(err) || len(n.Pods()) > 0 {
		t.Errorf("something is left: %v", err)
	}
}
