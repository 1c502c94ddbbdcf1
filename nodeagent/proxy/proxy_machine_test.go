package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/hashicorp/go-hclog"
	mdns "github.com/miekg/dns"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/dns"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network/networktest"
)

const patience = 2 * time.Second

// cluster is nodes, with a proxy and a resolver each, and one machine outside.
type cluster struct {
	nodes   []*clusterNode
	outside *networktest.Machine

	services  map[string]*api.Service
	endpoints map[string]*api.Endpoints
	revision  int64
}

type clusterNode struct {
	*networktest.Machine
	network *network.Network
	proxy   *Proxy
	dns     *dns.Server
	cfg     Config
	applied chan int64
}

func newCluster(t testing.TB, nodes int) *cluster {
	machines := networktest.New(t, nodes+1)
	c := &cluster{outside: machines[nodes], services: map[string]*api.Service{}, endpoints: map[string]*api.Endpoints{}}
	var objects []*api.Node
	for i, m := range machines[:nodes] {
		n := &clusterNode{Machine: m, applied: make(chan int64, 100)}
		n.cfg = Config{
			Log:  hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: testWriter{t}}),
			Pods: testNode.pods, Services: testNode.services, Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 0}), 24),
			Applied: func(_ context.Context, revision int64) error { n.applied <- revision; return nil },
		}
		o := &api.Node{}
		o.Meta.Name, o.Effective.Subnet, o.Status.Address = m.Name, n.cfg.Subnet.String(), m.IP.String()
		objects = append(objects, o)
		var err1, err2, err3 error
		n.Do(func() {
			n.network, err1 = network.Open(network.Config{RunDir: t.TempDir(), DataDir: t.TempDir(), Node: m.Name, Subnet: n.cfg.Subnet, Services: n.cfg.Services})
			n.proxy, err2 = Open(n.cfg)
			n.dns, err3 = dns.Listen(dns.Config{Address: netip.AddrPortFrom(network.DefaultGateway, 53)})
		})
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		n.network.SetNodes(objects)
		if err := n.network.Assert(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for uid := range n.network.Pods() {
				n.network.Teardown(context.Background(), uid)
			}
			n.network.Close()
		})
		t.Cleanup(n.proxy.Close)
		run(t, n.proxy.Run)
		run(t, n.dns.Run)
	}
	return c
}

// run runs f until the test ends.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// a pod of the cluster that serves port 8080.
type clusterPod struct {
	*networktest.Machine
	name string
	node *clusterNode
	ip   netip.Addr
	stop func()
}

func (n *clusterNode) pod(t testing.TB, name string) *clusterPod {
	t.Helper()
	s, err := n.network.Setup(t.Context(), name, name, false)
	if err != nil {
		t.Fatal(err)
	}
	m := networktest.At(t, s.Net)
	return &clusterPod{m, name, n, s.IP, m.Serve(t, name, 8080)}
}

// serve makes the pods those behind a service: web is 10.96.0.10, TCP and UDP
// port 80, node port 30080.
func (c *cluster) serve(t testing.TB, spec api.ServiceSpec, pods ...*clusterPod) {
	t.Helper()
	c.serveDraining(t, spec, pods, nil)
}

func (c *cluster) serveDraining(t testing.TB, spec api.ServiceSpec, pods, draining []*clusterPod) {
	t.Helper()
	s := &api.Service{}
	s.Meta.Namespace, s.Meta.Name, s.Effective = "shop", spec.App, spec
	e := &api.Endpoints{}
	e.Meta.Namespace, e.Meta.Name, e.Spec.Service = "shop", spec.App+"-0", spec.App
	for i, p := range append(pods[:len(pods):len(pods)], draining...) {
		e.Spec.Addresses = append(e.Spec.Addresses, api.Endpoint{Pod: p.name, IP: p.ip.String(), Draining: i >= len(pods),
			Ports: map[string]int{"http": 8080, "udp": 8080}})
	}
	_, known := c.services[spec.App]
	c.services[spec.App], c.endpoints[spec.App] = s, e
	c.revision++
	for _, n := range c.nodes {
		for _, sink := range []Sink{n.proxy, n.dns} {
			if !known {
				services, endpoints := []*api.Service{}, []*api.Endpoints{}
				for name := range c.services {
					services, endpoints = append(services, c.services[name]), append(endpoints, c.endpoints[name])
				}
				sink.Reset(services, endpoints, c.revision)
			} else {
				sink.Endpoints(EndpointsEvent{Type: api.EventPut, Revision: c.revision, Object: e})
			}
		}
	}
	for _, n := range c.nodes {
		n.wait(t, c.revision)
	}
}

// wait waits until the node says that it has programmed revision.
func (n *clusterNode) wait(t testing.TB, revision int64) {
	t.Helper()
	for late := time.After(10 * time.Second); ; {
		select {
		case got := <-n.applied:
			if got >= revision {
				return
			}
		case <-late:
			t.Fatalf("%s: revision %d is not applied", n.Name, revision)
		}
	}
}

func webSpec() api.ServiceSpec {
	return api.ServiceSpec{App: "web", IP: "10.96.0.10", Affinity: "none", Ports: map[string]api.ServicePort{
		"http": {Port: 80, Protocol: "tcp", NodePort: new(30080)}, "udp": {Port: 80, Protocol: "udp", NodePort: new(30080)},
	}}
}

const vip = "10.96.0.10:80"

// answers asks n times and counts who answers; all must.
func answers(t testing.TB, from *networktest.Machine, network, address string, n int) (by map[string]int, clients map[string]bool) {
	t.Helper()
	by, clients = map[string]int{}, map[string]bool{}
	for range n {
		name, client, err := from.Ask(network, address, patience)
		if err != nil {
			t.Fatalf("%s %s from %s: %v, after %v", network, address, from.Name, err, by)
		}
		by[name]++
		clients[client] = true
	}
	return by, clients
}

func TestServiceReachesPods(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	a, b, d := n1.pod(t, "a"), n2.pod(t, "b"), n2.pod(t, "d")
	client := n1.pod(t, "client")
	c.serve(t, webSpec(), a, b, d)
	for _, proto := range []string{"tcp", "udp"} {
		by, clients := answers(t, client.Machine, proto, vip, 120)
		if len(by) != 3 || by["a"] < 15 || by["b"] < 15 || by["d"] < 15 {
			t.Errorf("%s: uneven: %v", proto, by)
		}
		if len(clients) != 1 || !clients[client.ip.String()] {
			t.Errorf("%s: pods see %v instead of the client %s", proto, clients, client.ip)
		}
		// A pod behind the service reaches it too, itself included.
		if by, _ := answers(t, a.Machine, proto, vip, 60); len(by) != 3 {
			t.Errorf("%s from a pod of the service: %v", proto, by)
		}
		// The node itself.
		if by, _ := answers(t, n1.Machine, proto, vip, 60); len(by) != 3 {
			t.Errorf("%s from the node: %v", proto, by)
		}
		// From outside by node port, of either node; from a pod, of its own node.
		for _, n := range c.nodes {
			by, clients := answers(t, c.outside, proto, net.JoinHostPort(n.IP.String(), "30080"), 60)
			if len(by) != 3 {
				t.Errorf("%s by node port: %v", proto, by)
			}
			if !clients[c.outside.IP.String()] || !clients[n.IP.String()] { // local pods see the client
				t.Errorf("%s by node port: pods see %v", proto, clients)
			}
			if by, _ := answers(t, client.Machine, proto, net.JoinHostPort(n.IP.String(), "30080"), 60); len(by) != 3 {
				t.Errorf("%s by node port from a pod: %v", proto, by)
			}
		}
	}
}

func TestStickyClients(t *testing.T) {
	c := newCluster(t, 2)
	pods := []*clusterPod{c.nodes[0].pod(t, "a"), c.nodes[1].pod(t, "b"), c.nodes[1].pod(t, "d")}
	spec := webSpec()
	spec.Affinity = "client_ip"
	c.serve(t, spec, pods...)
	first := map[string]string{}
	for i := range 8 {
		client := c.nodes[i%2].pod(t, fmt.Sprintf("client%d", i))
		by, _ := answers(t, client.Machine, "tcp", vip, 10)
		if len(by) != 1 {
			t.Fatalf("a client reaches %v", by)
		}
		for name := range by {
			first[name] = client.name
		}
	}
	if len(first) < 2 {
		t.Errorf("all clients reach the same pod: %v", first)
	}
	// By node port, every node sends a client to the same pod.
	who := map[string]bool{}
	for _, n := range c.nodes {
		by, _ := answers(t, c.outside, "tcp", net.JoinHostPort(n.IP.String(), "30080"), 5)
		for name := range by {
			who[name] = true
		}
	}
	if len(who) != 1 {
		t.Errorf("the nodes send one client to %v", who)
	}
}

func TestNoEndpointsIsRefusedAtOnce(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	client := n.pod(t, "client")
	c.serve(t, webSpec())
	nodePort := net.JoinHostPort(n.IP.String(), "30080")
	if _, _, err := n.Ask("udp", vip, patience); !errors.Is(err, syscall.EPERM) { // no ICMP error reaches the sender itself
		t.Errorf("udp from the node: %v", err)
	}
	for _, try := range []struct {
		from *networktest.Machine
		to   string
	}{
		{client.Machine, vip}, {client.Machine, "10.96.77.77:80"}, {n.Machine, vip}, {c.outside, nodePort}, {client.Machine, nodePort},
	} {
		begun := time.Now()
		_, err := try.from.Dial("tcp", try.to, patience)
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(begun) > time.Second {
			t.Errorf("%s to %s: %v after %s", try.from.Name, try.to, err, time.Since(begun))
		}
	}
	if _, _, err := client.Ask("udp", vip, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("udp: %v", err)
	}
	a := n.pod(t, "a") // and then there is one
	c.serve(t, webSpec(), a)
	answers(t, client.Machine, "tcp", vip, 3)
	answers(t, client.Machine, "udp", vip, 3)
	answers(t, c.outside, "tcp", nodePort, 3)
}

// TestDrainLosesNothing replaces the pods of a service while clients connect
// all the time: no connection fails, and none goes to a pod that drains once
// the change is applied.
func TestDrainLosesNothing(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	old := []*clusterPod{n1.pod(t, "a0"), n2.pod(t, "b0")}
	client := n1.pod(t, "client")
	c.serve(t, webSpec(), old...)

	// One connection stays open across everything that follows.
	kept, err := client.Dial("tcp", vip, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	owner, _, err := networktest.Answer(kept, patience)
	if err != nil {
		t.Fatal(err)
	}

	var wg sync.WaitGroup
	var count, failed atomic.Int64
	stop := make(chan struct{})
	load := func(from *networktest.Machine, address string) {
		wg.Go(func() {
			from.Do(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					conn, err := net.DialTimeout("tcp", address, patience)
					if err == nil {
						_, _, err = networktest.Answer(conn, patience)
						conn.Close()
					}
					count.Add(1)
					if err != nil {
						failed.Add(1)
						t.Errorf("%s: %v", address, err)
					}
				}
			})
		})
	}
	load(client.Machine, vip)
	load(c.outside, net.JoinHostPort(n2.IP.String(), "30080"))
	load(n1.Machine, vip)
	for round := range 5 {
		next := []*clusterPod{n1.pod(t, fmt.Sprintf("a%d", round+1)), n2.pod(t, fmt.Sprintf("b%d", round+1))}
		c.serve(t, webSpec(), append(old[:2:2], next...)...)
		c.serveDraining(t, webSpec(), next, old)
		// Applied: no new connection comes. Those that came before get the time to
		// be accepted, as a server that shuts down well would take it.
		time.Sleep(200 * time.Millisecond)
		for _, p := range old {
			if p.name != owner {
				p.stop()
			}
		}
		by, _ := answers(t, client.Machine, "tcp", vip, 20)
		for _, p := range old {
			if by[p.name] > 0 {
				t.Errorf("a pod that drains got %d connections", by[p.name])
			}
		}
		c.serve(t, webSpec(), next...)
		old = next
	}
	close(stop)
	wg.Wait()
	kept.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(kept, "still there"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(kept, make([]byte, 11)); err != nil {
		t.Errorf("the open connection broke: %v", err)
	}
	t.Logf("%d connections, %d failed", count.Load(), failed.Load())
}

// TestRemovedEndpointIsForgotten: a UDP client that never changes its port, and
// a TCP client that repeats its SYN, reach another pod once theirs is gone.
func TestRemovedEndpointIsForgotten(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.nodes[0].pod(t, "a"), c.nodes[1].pod(t, "b")
	client := c.nodes[0].pod(t, "client")
	c.serve(t, webSpec(), a)
	u, err := client.Dial("udp", vip, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if name, _, err := networktest.Answer(u, patience); err != nil || name != "a" {
		t.Fatalf("%q, %v", name, err)
	}
	// An address where nobody answers at all, as of a node without power.
	dead := &clusterPod{name: "dead", ip: netip.MustParseAddr("10.244.1.200")}
	c.serve(t, webSpec(), dead)
	opened := make(chan error, 1)
	go func() {
		_, _, err := client.Ask("tcp", vip, 10*time.Second)
		opened <- err
	}()
	time.Sleep(200 * time.Millisecond) // the SYN is on its way
	c.serve(t, webSpec(), b)
	if err := <-opened; err != nil {
		t.Errorf("the connection did not find the living pod: %v", err)
	}
	for begun := time.Now(); ; {
		name, _, err := networktest.Answer(u, 200*time.Millisecond)
		if name == "b" {
			break
		}
		if time.Since(begun) > patience {
			t.Fatalf("udp still goes to %q: %v", name, err)
		}
	}
}

// TestDeadNodeIsLeftBehind cuts a node off while clients connect through the
// other one: once the endpoints say so, every connection succeeds, those that
// were being opened to the dead node included.
func TestDeadNodeIsLeftBehind(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	a, b, client := n1.pod(t, "a"), n2.pod(t, "b"), n1.pod(t, "client")
	c.serve(t, webSpec(), a, b)
	answers(t, client.Machine, "tcp", vip, 5)
	h := n2.Netlink(t)
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetDown(eth0); err != nil {
		t.Fatal(err)
	}
	opening := make(chan error)
	for range 8 { // about half of them to the dead node
		go func() {
			_, _, err := client.Ask("tcp", vip, 10*time.Second)
			opening <- err
		}()
	}
	time.Sleep(300 * time.Millisecond)
	c.nodes = c.nodes[:1] // the other one cannot say that it has applied anything
	c.serve(t, webSpec(), a)
	for range 8 {
		if err := <-opening; err != nil {
			t.Errorf("a connection that was being opened: %v", err)
		}
	}
	for range 50 {
		for _, try := range []struct {
			from *networktest.Machine
			to   string
		}{{client.Machine, vip}, {c.outside, net.JoinHostPort(n1.IP.String(), "30080")}} {
			begun := time.Now()
			if _, _, err := try.from.Ask("tcp", try.to, patience); err != nil || time.Since(begun) > time.Second {
				t.Fatalf("%s: %v after %s", try.to, err, time.Since(begun))
			}
		}
	}
}

// TestTouchedTableIsRepaired: others delete the table, or parts of it.
func TestTouchedTableIsRepaired(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	a := n.pod(t, "a")
	client := n.pod(t, "client")
	c.serve(t, webSpec(), a)
	other, err := nftables.New(nftables.WithNetNSFd(n.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	for what, breakIt := range map[string]func(){
		"table":   func() { other.DelTable(table) },
		"ruleset": func() { other.FlushRuleset() },
		"chain":   func() { other.FlushChain(&nftables.Chain{Table: table, Name: "services"}) },
		"map":     func() { other.FlushSet(&nftables.Set{Table: table, Name: "random12"}) },
	} {
		breakIt()
		if err := other.Flush(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		begun := time.Now()
		for {
			if _, _, err := client.Ask("tcp", vip, 100*time.Millisecond); err == nil {
				break
			}
			if time.Since(begun) > 5*time.Second {
				t.Fatalf("%s: not repaired", what)
			}
		}
		t.Logf("%s: answers again after %s", what, time.Since(begun).Round(time.Millisecond))
	}
}

// TestRestartKeepsServing: a new proxy adopts the table of the one before. It
// changes nothing until it knows the services, and slots stay where they are.
func TestRestartKeepsServing(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	client := n.pod(t, "client")
	spec := webSpec()
	spec.Affinity = "client_ip"
	pods := []*clusterPod{n.pod(t, "a"), n.pod(t, "b"), n.pod(t, "d")}
	c.serve(t, spec, pods[:2]...)
	c.serve(t, spec, pods...) // by history, not as planned from nothing
	before, _ := answers(t, client.Machine, "tcp", vip, 5)

	var p *Proxy
	var err error
	n.Do(func() { p, err = Open(n.cfg) })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	stop := run(t, p.Run)
	defer stop()
	answers(t, client.Machine, "tcp", vip, 5)
	var look *nft // the proxy's own socket is in use by its Run
	n.Do(func() { look, err = openNFT(p.kernel.(*nft).ranges) })
	if err != nil {
		t.Fatal(err)
	}
	defer look.close()
	was, _, err := look.read()
	if err != nil {
		t.Fatal(err)
	}
	p.Reset([]*api.Service{c.services["web"]}, []*api.Endpoints{c.endpoints["web"]}, 77)
	n.wait(t, 77)
	is, _, err := look.read()
	if err != nil {
		t.Fatal(err)
	}
	for f, b := range was {
		if !b.equal(is[f]) {
			t.Errorf("%s was %s and is %s", f, b, is[f])
		}
	}
	if after, _ := answers(t, client.Machine, "tcp", vip, 5); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the client moved from %v to %v", before, after)
	}
}

func TestPodsLeaveTheCluster(t *testing.T) {
	c := newCluster(t, 1)
	client := c.nodes[0].pod(t, "client")
	c.outside.Serve(t, "world", 443)
	// The world has no route to pods: it answers the node.
	_, clients := answers(t, client.Machine, "tcp", net.JoinHostPort(c.outside.IP.String(), "443"), 3)
	if !clients[c.nodes[0].IP.String()] {
		t.Errorf("the world sees %v", clients)
	}
}

func TestNamesResolveInPods(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	a, client := n.pod(t, "a"), n.pod(t, "client")
	c.serve(t, webSpec(), a)
	for _, network := range []string{"udp", "tcp"} {
		q := new(mdns.Msg).SetQuestion("web.shop.svc.cluster.local.", mdns.TypeA)
		var reply *mdns.Msg
		var err error
		client.Do(func() {
			reply, _, err = (&mdns.Client{Net: network, Timeout: patience}).Exchange(q, "169.254.1.1:53")
		})
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		if len(reply.Answer) != 1 || reply.Answer[0].(*mdns.A).A.String() != "10.96.0.10" {
			t.Errorf("%s: %v", network, reply)
		}
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) { w.t.Log(string(b)); return len(b), nil }
