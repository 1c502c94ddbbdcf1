package proxy

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// testNode is w1, with the pods 10.244.1.0/24.
var testNode = machine{
	ranges: ranges{
		pods:     netip.MustParsePrefix("10.244.0.0/16"),
		subnet:   netip.MustParsePrefix("10.244.1.0/24"),
		services: netip.MustParsePrefix("10.96.0.0/16"),
	},
	addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.1.1")},
}

// TestGolden plans the services and endpoints of each file, one state after
// the other, and traces packets through the last. A file has state, plan and
// trace sections; a state is lines of JSON specs:
//
//	service <name> <effective spec>
//	endpoints <name> <spec>
//
// and a trace is lines "<protocol> <source> <destination> → <where>".
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p := newProxy(Config{}, nil)
			for i, f := range ar.Files {
				switch kind, _, _ := strings.Cut(f.Name, " "); kind {
				case "state":
					services, endpoints := parseState(t, string(f.Data))
					p.Reset(services, endpoints, 1)
				case "plan":
					ar.Files[i].Data = []byte(p.take(p.plan()).String())
				case "rules":
					ar.Files[i].Data = []byte(p.rules.String())
				case "trace":
					ar.Files[i].Data = []byte(traceAll(t, p.rules, string(f.Data)))
				default:
					t.Fatalf("section %q", f.Name)
				}
			}
			got := txtar.Format(ar)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("not as in %s (go test -update rewrites it):\n%s", path, got)
			}
		})
	}
}

func parseState(t *testing.T, text string) (services []*api.Service, endpoints []*api.Endpoints) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(f) < 3 {
			continue
		}
		var err error
		switch f[0] {
		case "service":
			s := &api.Service{}
			s.Meta.Namespace, s.Meta.Name = "shop", f[1]
			err = json.Unmarshal([]byte(f[2]), &s.Effective)
			s.Effective = s.Effective.WithDefaults()
			services = append(services, s)
		case "endpoints":
			e := &api.Endpoints{}
			e.Meta.Namespace, e.Meta.Name = "shop", f[1]
			err = json.Unmarshal([]byte(f[2]), &e.Spec)
			endpoints = append(endpoints, e)
		default:
			err = fmt.Errorf("no such kind: %s", f[0])
		}
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
	}
	return services, endpoints
}

func traceAll(t *testing.T, rules Ruleset, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		p := packet{src: netip.MustParseAddrPort(f[1]), dst: netip.MustParseAddrPort(f[2]), protocol: TCP}
		if f[0] == "udp" {
			p.protocol = UDP
		}
		fmt.Fprintf(&out, "%s %s %s → %s\n", f[0], f[1], f[2], testNode.trace(rules, p))
	}
	return out.String()
}

// pods draws a set of pod addresses.
func pods(most int) *rapid.Generator[[]netip.AddrPort] {
	return rapid.Map(rapid.SliceOfNDistinct(rapid.IntRange(1, 4*most), 0, most, rapid.ID), func(ids []int) []netip.AddrPort {
		out := make([]netip.AddrPort, len(ids))
		for i, id := range ids {
			out[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(id / 250), byte(id%250 + 1)}), 8080)
		}
		slices.SortFunc(out, netip.AddrPort.Compare)
		return out
	})
}

var web = Frontend{netip.MustParseAddr("10.96.0.10"), TCP, 80}

// TestShares: whoever is ready gets connections, nobody else does, and no pod
// gets more than a quarter more than another.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := pods(300).Draw(t, "have"), pods(300).Draw(t, "want")
		sticky := rapid.Bool().Draw(t, "sticky")
		slots := assign(nil, have, classOf(len(have), sticky), web)
		slots = assign(slots, want, classOf(len(want), sticky), web)
		if len(want) == 0 {
			if slots != nil {
				t.Fatalf("slots without pods: %v", slots)
			}
			return
		}
		shares := Balance{Slots: slots}.shares()
		if len(shares) != len(want) {
			t.Fatalf("%d pods share the connections of %d", len(shares), len(want))
		}
		least, most := len(slots), 0
		for _, pod := range want {
			least, most = min(least, shares[pod]), max(most, shares[pod])
		}
		if least == 0 || most > least+1 || len(want) <= 240 && 4*most > 5*least {
			t.Fatalf("%d pods get %d to %d of %d slots", len(want), least, most, len(slots))
		}
	})
}

// TestFewestSlotsMove: within a class, exactly those slots move that must.
func TestFewestSlotsMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := pods(60).Draw(t, "before"), pods(60).Draw(t, "after")
		if len(before) == 0 || len(after) == 0 {
			t.Skip("no pods")
		}
		const size = 240
		was := assign(nil, before, size, web)
		is := assign(was, after, size, web)
		moved := 0
		for i := range is {
			if is[i] != was[i] {
				moved++
			}
		}
		// What must move: the slots of pods that are gone, and of those that stay
		// what is above their new share; of the extra slots as many stay as can.
		held, least := Balance{Slots: was}.shares(), 0
		share, extra := size/len(after), size%len(after)
		for pod, n := range held {
			switch {
			case !slices.Contains(after, pod):
				least += n
			case n > share && extra > 0:
				least += n - share - 1
				extra--
			case n > share:
				least += n - share
			}
		}
		if moved != least {
			t.Fatalf("%d slots moved, %d had to", moved, least)
		}
		if again := assign(is, after, size, web); !slices.Equal(again, is) {
			t.Fatal("slots move though nothing changed")
		}
	})
}

// TestRulesFollow changes services and endpoints at random, one at a time: the
// changes lead to the same frontends as planning from nothing, a kernel that
// applies them has the elements of the rules, and no slot is a draining pod's
// while another could take it.
func TestRulesFollow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newProxy(Config{}, nil)
		p.Reset(nil, nil, 1)
		kernel := map[string]map[string]string{}
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")
			typ := rapid.SampledFrom([]api.EventType{api.EventPut, api.EventPut, api.EventPut, api.EventDelete}).Draw(t, "type")
			if rapid.Bool().Draw(t, "endpoints") {
				e := drawSlice(t, name)
				p.Endpoints(EndpointsEvent{Type: typ, Object: e})
			} else {
				s := drawService(t, name)
				p.Service(ServiceEvent{Type: typ, Object: s})
			}
			for p.all || len(p.dirty) > 0 { // what waited for an address to become free is dirty again
				d := p.take(p.plan())
				c := newChanges()
				for _, l := range d {
					c.change(l.f, l.from, l.to)
				}
				applyElements(t, kernel, c)
			}
			if want := elementsOf(contents(p.rules, testNode.ranges)); !equalElements(kernel, want) {
				t.Fatalf("kernel has %v: want %v", kernel, want)
			}
		}
		fresh := newProxy(Config{}, nil)
		var services []*api.Service
		for _, s := range p.services {
			services = append(services, s)
		}
		var endpoints []*api.Endpoints
		for _, m := range p.endpoints {
			for _, e := range m {
				endpoints = append(endpoints, e)
			}
		}
		fresh.Reset(services, endpoints, 1)
		fresh.take(fresh.plan())
		for f := range p.rules {
			if _, ok := fresh.rules[f]; !ok {
				t.Fatalf("%s is not there when planned from nothing", f)
			}
		}
		for f := range fresh.rules {
			if _, ok := p.rules[f]; !ok {
				t.Fatalf("%s is missing", f)
			}
		}
		for f, b := range p.rules {
			svc := p.services[p.owner[f]]
			for name, port := range svc.Effective.Ports {
				if uint16(port.Port) != f.Port || f.IP.IsUnspecified() {
					continue
				}
				ready, draining := backends(slices.Collect(maps.Values(p.endpoints[p.owner[f]])), name)
				if len(ready) == 0 {
					ready = draining
				}
				if shares := b.shares(); len(shares) != len(ready) {
					t.Fatalf("%s: %s: want %v", f, b, ready)
				}
			}
		}
	})
}

func drawService(t *rapid.T, name string) *api.Service {
	s := &api.Service{}
	s.Meta.Namespace, s.Meta.Name = "shop", name
	p := api.ServicePort{Port: rapid.SampledFrom([]int{80, 81}).Draw(t, "port"), Protocol: rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "protocol")}
	if rapid.Bool().Draw(t, "node port") {
		p.NodePort = new(30000 + rapid.IntRange(0, 1).Draw(t, "number"))
	}
	s.Effective = api.ServiceSpec{App: name, IP: fmt.Sprintf("10.96.0.%d", rapid.IntRange(1, 3).Draw(t, "ip")), Ports: map[string]api.ServicePort{"http": p},
		Affinity: rapid.SampledFrom([]string{"none", "client_ip"}).Draw(t, "affinity")}
	return s
}

func drawSlice(t *rapid.T, service string) *api.Endpoints {
	e := &api.Endpoints{}
	e.Meta.Namespace, e.Meta.Name = "shop", service+rapid.SampledFrom([]string{"-0", "-1"}).Draw(t, "slice")
	e.Spec.Service = service
	for _, pod := range pods(20).Draw(t, "pods") {
		e.Spec.Addresses = append(e.Spec.Addresses, api.Endpoint{IP: pod.Addr().String(), Ports: map[string]int{"http": 8080},
			Draining: rapid.IntRange(0, 3).Draw(t, "draining") == 0})
	}
	return e
}

// applyElements is a kernel: an element can be added once and removed once.
func applyElements(t *rapid.T, kernel map[string]map[string]string, c *changes) {
	for set, els := range c.remove {
		for _, e := range els {
			if _, ok := kernel[set][string(e.Key)]; !ok {
				t.Fatalf("%s: removed what is not there: %x", set, e.Key)
			}
			delete(kernel[set], string(e.Key))
		}
	}
	for set, els := range c.add {
		if kernel[set] == nil {
			kernel[set] = map[string]string{}
		}
		for _, e := range els {
			if _, ok := kernel[set][string(e.Key)]; ok {
				t.Fatalf("%s: added what is there: %x", set, e.Key)
			}
			val := string(e.Val)
			if e.VerdictData != nil {
				val = e.VerdictData.Chain
			}
			kernel[set][string(e.Key)] = val
		}
	}
}

func elementsOf(c *changes) map[string]map[string]string {
	out := map[string]map[string]string{}
	applyElements(nil, out, c)
	delete(out, setHairpin)
	return out
}

func equalElements(a, b map[string]map[string]string) bool {
	for _, set := range slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b))) {
		if !maps.Equal(a[set], b[set]) {
			return false
		}
	}
	return true
}

func TestStaleFlows(t *testing.T) {
	at := netip.MustParseAddrPort
	vip, old, live, draining := at("10.96.0.10:80"), at("10.244.2.1:8080"), at("10.244.2.2:8080"), at("10.244.2.3:8080")
	b := Balance{Slots: []netip.AddrPort{live}, Draining: []netip.AddrPort{draining}}
	stale := staleFlows(Ruleset{
		{vip.Addr(), TCP, 80}: b, {vip.Addr(), UDP, 80}: b, {netip.IPv4Unspecified(), UDP, 30080}: b,
		{vip.Addr(), UDP, 53}: {},
	})
	for _, c := range []struct {
		what string
		f    flow
		want bool
	}{
		{"udp to a pod that is gone", flow{UDP, vip, old, false}, true},
		{"udp to a pod that serves", flow{UDP, vip, live, false}, false},
		{"udp to a pod that drains", flow{UDP, vip, draining, false}, false},
		{"open tcp to a pod that is gone", flow{TCP, vip, old, false}, false},
		{"opening tcp to a pod that is gone", flow{TCP, vip, old, true}, true},
		{"opening tcp to a pod that drains", flow{TCP, vip, draining, true}, true},
		{"opening tcp to a pod that serves", flow{TCP, vip, live, true}, false},
		{"udp by node port to a pod that is gone", flow{UDP, at("192.0.2.1:30080"), old, false}, true},
		{"udp of a pod to a stranger's port of that number", flow{UDP, at("198.51.100.1:30080"), at("198.51.100.1:30080"), false}, false},
		{"udp untranslated to a virtual IP", flow{UDP, vip, vip, false}, true},
		{"udp to a service without pods", flow{UDP, at("10.96.0.10:53"), old, false}, true},
		{"udp to anything else", flow{UDP, at("10.96.0.99:80"), old, false}, false},
	} {
		if got := stale(c.f); got != c.want {
			t.Errorf("%s: stale is %v", c.what, got)
		}
	}
}
