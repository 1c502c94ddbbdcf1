//go:build linux

package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// start runs a server on a free port of the loopback.
func start(t *testing.T, upstreams ...netip.AddrPort) *Server {
	t.Helper()
	s, err := Listen(Config{Address: netip.MustParseAddrPort("127.0.0.1:0"), Upstreams: upstreams})
	if err != nil {
		t.Fatal(err)
	}
	s.up.timeout, s.patience = 100*time.Millisecond, 0
	run(t, s)
	return s
}

// run runs a server until what it returns is called, or the test ends.
func run(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func service(namespace, name, app, ip string) *api.Service {
	s := &api.Service{}
	s.Meta.Namespace, s.Meta.Name = namespace, name
	s.Effective = api.ServiceSpec{App: app, IP: ip, Ports: map[string]api.ServicePort{
		"http": {Port: 80, Protocol: "tcp"}, "dns": {Port: 53, Protocol: "udp"},
	}}
	return s
}

func slice(namespace, service string, n int, ips ...string) *api.Endpoints {
	e := &api.Endpoints{}
	e.Meta.Namespace, e.Meta.Name, e.Spec.Service = namespace, fmt.Sprintf("%s-%d", service, n), service
	for _, ip := range ips {
		ip, draining := strings.CutSuffix(ip, " draining")
		e.Spec.Addresses = append(e.Spec.Addresses, api.Endpoint{IP: ip, Draining: draining})
	}
	return e
}

func fill(s *Server) {
	s.Reset(
		[]*api.Service{service("shop", "web", "web", "10.96.0.10"), service("shop", "internal", "web", "10.96.0.11"), service("shop", "empty", "none", "10.96.0.12")},
		[]*api.Endpoints{
			slice("shop", "web", 0, "10.244.1.2", "10.244.1.3 draining"), slice("shop", "web", 1, "10.244.2.2"),
			slice("shop", "internal", 0, "10.244.1.2"),
		}, 1)
}

func exchange(t *testing.T, s *Server, network, name string, typ uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, typ)
	r, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, s.Address().String())
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return r
}

// text renders an answer: its code, then the data of its records, sorted.
func text(r *dns.Msg) string {
	var data []string
	for _, rr := range r.Answer {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(data)
	return strings.Join(append([]string{dns.RcodeToString[r.Rcode]}, data...), " ; ")
}

func TestNamesOfTheCluster(t *testing.T) {
	s := start(t)
	fill(s)
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web.shop.svc.cluster.local.", dns.TypeA, "NOERROR ; 10.96.0.10"},
		{"WEB.Shop.SVC.cluster.local.", dns.TypeA, "NOERROR ; 10.96.0.10"},
		{"web.shop.svc.cluster.local.", dns.TypeAAAA, "NOERROR"}, // exists, has none
		{"web.shop.svc.cluster.local.", dns.TypeSRV, "NOERROR ; 0 100 53 web.shop.svc.cluster.local. ; 0 100 80 web.shop.svc.cluster.local."},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, "NOERROR ; 0 100 80 web.shop.svc.cluster.local."},
		{"_tcp.web.shop.svc.cluster.local.", dns.TypeSRV, "NOERROR"},
		{"_dns._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, "NXDOMAIN"},
		{"a._http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, "NXDOMAIN"},
		{"web.shop.app.cluster.local.", dns.TypeA, "NOERROR ; 10.244.1.2 ; 10.244.2.2"},
		{"none.shop.app.cluster.local.", dns.TypeA, "NOERROR"}, // has a service, no pods
		{"nobody.shop.app.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"web-0.web.shop.app.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"nobody.shop.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"web.other.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"shop.svc.cluster.local.", dns.TypeA, "NOERROR"}, // there are names below it
		{"other.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"svc.cluster.local.", dns.TypeA, "NOERROR"},
		{"web.shop.cluster.local.", dns.TypeA, "NXDOMAIN"}, // a search domain tried
		{"example.com.shop.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"example.com.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"10.0.96.10.in-addr.arpa.", dns.TypePTR, "NOERROR ; web.shop.svc.cluster.local."},
		{"10.0.96.10.in-addr.arpa.", dns.TypeA, "NOERROR"},
		{"99.0.96.10.in-addr.arpa.", dns.TypePTR, "REFUSED"}, // no such virtual IP, nobody to ask
		{"96.10.in-addr.arpa.", dns.TypePTR, "REFUSED"},
		{"example.com.", dns.TypeA, "REFUSED"},
		{"notcluster.local.", dns.TypeA, "REFUSED"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := exchange(t, s, network, c.name, c.typ)
			if got := text(r); got != c.want {
				t.Errorf("%s %s %s: %s: want %s", network, c.name, dns.TypeToString[c.typ], got, c.want)
			}
			if strings.HasSuffix(c.name, ".cluster.local.") && len(r.Answer) == 0 && len(r.Ns) != 1 {
				t.Errorf("%s: no SOA says how long the answer holds", c.name)
			}
		}
	}
}

func TestChangesAreSeen(t *testing.T) {
	s := start(t)
	if got := text(exchange(t, s, "udp", "web.shop.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("before anything is known: %s", got)
	}
	fill(s)
	put := func(svc *api.Service) {
		s.Service(api.WatchEvent[*api.Service]{Type: api.EventPut, Object: svc})
	}
	ask := func(name, want string) {
		t.Helper()
		if got := text(exchange(t, s, "udp", name, dns.TypeA)); got != want {
			t.Errorf("%s: %s: want %s", name, got, want)
		}
	}
	put(service("bank", "db", "db", "10.96.0.20"))
	ask("db.bank.svc.cluster.local.", "NOERROR ; 10.96.0.20")
	put(service("bank", "db", "db", "10.96.0.21"))
	ask("db.bank.svc.cluster.local.", "NOERROR ; 10.96.0.21")
	e := slice("bank", "db", 0, "10.244.3.3")
	s.Endpoints(api.WatchEvent[*api.Endpoints]{Type: api.EventPut, Object: e})
	ask("db.bank.app.cluster.local.", "NOERROR ; 10.244.3.3")
	s.Endpoints(api.WatchEvent[*api.Endpoints]{Type: api.EventDelete, Object: e})
	ask("db.bank.app.cluster.local.", "NOERROR")
	s.Endpoints(api.WatchEvent[*api.Endpoints]{Type: api.EventBookmark})
	gone := service("bank", "db", "db", "10.96.0.21")
	s.Service(api.WatchEvent[*api.Service]{Type: api.EventDelete, Object: gone})
	ask("db.bank.svc.cluster.local.", "NXDOMAIN")
	ask("db.bank.app.cluster.local.", "NXDOMAIN")
	ask("bank.svc.cluster.local.", "NXDOMAIN")
	ask("web.shop.svc.cluster.local.", "NOERROR ; 10.96.0.10")
}

// upstreamServer answers example.com with ip, or nothing at all when ip is empty.
func upstreamServer(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if ip == "" {
			return
		}
		r := new(dns.Msg).SetReply(q)
		r.Answer = []dns.RR{a(q.Question[0].Name, netip.MustParseAddr(ip))}
		w.WriteMsg(r)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestOthersAreAsked(t *testing.T) {
	s := start(t, upstreamServer(t, ""), upstreamServer(t, "198.51.100.7"))
	fill(s)
	begun := time.Now()
	if got := text(exchange(t, s, "udp", "example.com.", dns.TypeA)); got != "NOERROR ; 198.51.100.7" {
		t.Errorf("%s after %s", got, time.Since(begun))
	}
	// A name of the cluster stays inside.
	if got := text(exchange(t, s, "udp", "nobody.shop.svc.cluster.local.", dns.TypeA)); got != "NXDOMAIN" {
		t.Error(got)
	}
	silent := start(t, upstreamServer(t, ""))
	begun = time.Now()
	if got := text(exchange(t, silent, "udp", "example.com.", dns.TypeA)); got != "SERVFAIL" || time.Since(begun) > askAll {
		t.Errorf("%s after %s", got, time.Since(begun))
	}
}

func TestLargeAnswerIsTruncatedOverUDP(t *testing.T) {
	s := start(t)
	var ips []string
	for i := range 90 {
		ips = append(ips, fmt.Sprintf("10.244.9.%d", i+1))
	}
	s.Reset([]*api.Service{service("shop", "big", "big", "10.96.0.10")}, []*api.Endpoints{slice("shop", "big", 0, ips...)}, 1)
	if r := exchange(t, s, "udp", "big.shop.app.cluster.local.", dns.TypeA); !r.Truncated || len(r.Answer) == 90 {
		t.Errorf("udp: truncated %v, %d answers", r.Truncated, len(r.Answer))
	}
	if r := exchange(t, s, "tcp", "big.shop.app.cluster.local.", dns.TypeA); r.Truncated || len(r.Answer) != 90 {
		t.Errorf("tcp: truncated %v, %d answers", r.Truncated, len(r.Answer))
	}
}

// FuzzAnswer: any name gets an answer, and a name of the cluster gets the
// cluster's own.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{
		"web.shop.svc.cluster.local.", "_http._tcp.web.shop.svc.cluster.local", "cluster.local", ".", "", "..",
		"10.0.96.10.in-addr.arpa.", "a.b.c.d.in-addr.arpa", "CLUSTER.LOCAL.", "\\000.svc.cluster.local.",
	} {
		f.Add(name, dns.TypeA)
	}
	s := newServer(Config{})
	fill(s)
	f.Fuzz(func(t *testing.T, name string, typ uint16) {
		q := new(dns.Msg)
		q.Question = []dns.Question{{Name: name, Qtype: typ, Qclass: dns.ClassINET}}
		r := s.answer(q, false)
		lower := strings.ToLower(dns.Fqdn(name))
		inside, reverse := dns.IsSubDomain(Domain, lower), strings.HasSuffix(lower, ".in-addr.arpa.")
		if !reverse && inside == (r.Rcode == dns.RcodeRefused) {
			t.Errorf("%q: inside %v, %s", name, inside, dns.RcodeToString[r.Rcode])
		}
	})
}

// TestNeverAsksItself: a node whose resolv.conf names its own resolver for pods.
func TestNeverAsksItself(t *testing.T) {
	own, other := netip.MustParseAddrPort("169.254.1.1:53"), netip.MustParseAddrPort("192.0.2.53:53")
	if got := newUpstream([]netip.AddrPort{own, other}, own).servers; len(got) != 1 || got[0] != other {
		t.Errorf("asks %v", got)
	}
}

// TestQuestionsWaitForTheNextServer: what is asked while no server runs, as when
// the agent is started again, is answered by the next one, once it knows.
func TestQuestionsWaitForTheNextServer(t *testing.T) {
	sockets, err := Bind(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	first, err := Listen(Config{Sockets: sockets})
	if err != nil {
		t.Fatal(err)
	}
	at := first.Address().String()
	run(t, first)()
	answers := make(chan string, 2)
	for _, network := range []string{"udp", "tcp"} {
		c, err := dns.DialTimeout(network, at, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.WriteMsg(new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		go func() {
			reply, err := c.ReadMsg()
			answers <- fmt.Sprint(text(reply), err)
		}()
	}
	next, err := Listen(Config{Sockets: sockets})
	if err != nil {
		t.Fatal(err)
	}
	next.patience = time.Hour
	run(t, next)
	fill(next)
	for range 2 {
		if got := <-answers; !strings.Contains(got, "10.96.0.10") {
			t.Error(got)
		}
	}
}

func TestTakenPortNamesTheWayOut(t *testing.T) {
	s := start(t)
	if _, err := Listen(Config{Address: s.Address()}); err == nil || !strings.Contains(err.Error(), "another DNS server") {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	if got, want := ResolvConf("shop", netip.MustParseAddr("169.254.1.1")),
		"search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 169.254.1.1\noptions ndots:5\n"; got != want {
		t.Errorf("resolv.conf: %q: want %q", got, want)
	}
	if got := Hosts("web-1", netip.MustParseAddr("10.244.1.2")); !strings.Contains(got, "10.244.1.2\tweb-1\n") || !strings.Contains(got, "127.0.0.1\tlocalhost\n") {
		t.Errorf("hosts: %q", got)
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if got, err := Upstreams(path); err != nil || got != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
	os.WriteFile(path, []byte("# by hand\nsearch example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"), 0o644)
	if got, err := Upstreams(path); err != nil || fmt.Sprint(got) != "[192.0.2.53:53 [2001:db8::53]:53]" {
		t.Errorf("%v, %v", got, err)
	}
}

func BenchmarkAnswer(b *testing.B) {
	s := newServer(Config{})
	fill(s)
	q := new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
	for b.Loop() {
		s.answer(q, false)
	}
}
