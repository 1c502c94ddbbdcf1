package network

import (
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestAddresses takes and frees addresses in any order: none is in use twice,
// none is the network's or the broadcast address, and a subnet is full only
// when all of the others are in use.
func TestAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		subnet := netip.MustParsePrefix("10.244.3.8/29") // .9 to .14
		used, last := map[netip.Addr]bool{}, netip.Addr{}
		for range 40 {
			if ips := slices.SortedFunc(maps.Keys(used), netip.Addr.Compare); len(ips) > 0 && rapid.Bool().Draw(t, "free") {
				delete(used, rapid.SampledFrom(ips).Draw(t, "ip"))
				continue
			}
			got, ok := nextAddress(subnet, last, used)
			if ok != (len(used) < 6) {
				t.Fatalf("got %s, %v while %v are in use", got, ok, used)
			}
			if !ok {
				continue
			}
			if used[got] || !subnet.Contains(got.Prev()) || !subnet.Contains(got.Next()) {
				t.Fatalf("got %s while %v are in use", got, used)
			}
			used[got], last = true, got
		}
	})
}

func TestAddressesAreKept(t *testing.T) {
	l, err := openLeases(filepath.Join(t.TempDir(), "node", "addresses.json"), netip.MustParsePrefix("10.244.3.0/24"))
	must(t, err)
	a, err := l.take("a", "web-1", false)
	must(t, err)
	_, err = l.take("b", "web-2", false)
	must(t, err)
	must(t, l.free("b"))
	again, err := openLeases(l.path, l.subnet)
	must(t, err)
	if len(again.Pods) != 1 || again.Pods["a"] != a || again.Last != l.Last {
		t.Errorf("read back %+v: want %+v", again, l)
	}
	if got, err := again.take("a", "other", false); err != nil || got != a {
		t.Errorf("%+v, %v: want %+v", got, err, a)
	}
}

func TestFreedAddressIsLast(t *testing.T) {
	l := &leases{Pods: map[string]lease{}, subnet: netip.MustParsePrefix("10.244.3.0/29"), path: filepath.Join(t.TempDir(), "a.json")}
	first, err := l.take("a", "a", false)
	must(t, err)
	must(t, l.free("a"))
	for _, uid := range []string{"b", "c", "d", "e", "f"} {
		if got, err := l.take(uid, uid, false); err != nil || got.IP == first.IP {
			t.Fatalf("%s, %v before the circle was full", got.IP, err)
		}
	}
	if got, err := l.take("g", "g", false); err != nil || got.IP != first.IP {
		t.Fatalf("%s, %v: want %s", got.IP, err, first.IP)
	}
}

func TestPlanNodes(t *testing.T) {
	node := func(name, subnet, address string) *api.Node {
		n := &api.Node{}
		n.Meta.Name, n.Effective.Subnet, n.Status.Address = name, subnet, address
		return n
	}
	routes, problems := planNodes("w1", netip.MustParsePrefix("10.244.1.0/24"), []*api.Node{
		node("w6", "10.244.2.0/24", "192.0.2.6"), // w2 has it
		node("w1", "10.244.1.0/24", "192.0.2.1"),
		node("w2", "10.244.2.0/24", "192.0.2.2:7946"),
		node("w3", "10.244.3.0/24", ""), // joining
		node("w4", "", "192.0.2.4"),
		node("w5", "10.244.5.0/24", "w5.example.com"),
		node("w7", "10.244.1.128/25", "192.0.2.7"), // ours
	})
	if len(routes) != 1 || routes[netip.MustParsePrefix("10.244.2.0/24")] != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("routes: %v", routes)
	}
	var who []string
	for _, p := range problems {
		who = append(who, p.node)
	}
	if !slices.Equal(who, []string{"w5", "w6", "w7"}) {
		t.Errorf("problems: %v", problems)
	}
}

// TestPlanRoutesConverges: applying the plan leads to what is wanted, and then
// there is nothing left to do.
func TestPlanRoutesConverges(t *testing.T) {
	hops := rapid.SliceOfDistinct(rapid.Custom(func(t *rapid.T) hop {
		ip := netip.AddrFrom4([4]byte{10, 244, byte(rapid.IntRange(0, 5).Draw(t, "dst")), 0})
		if rapid.Bool().Draw(t, "via") {
			return hop{dst: netip.PrefixFrom(ip, 24), via: netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 3).Draw(t, "gw"))})}
		}
		return hop{dst: netip.PrefixFrom(ip, 24), link: rapid.IntRange(1, 3).Draw(t, "link")}
	}), func(h hop) netip.Prefix { return h.dst })
	rapid.Check(t, func(t *rapid.T) {
		have, want := hops.Draw(t, "have"), hops.Draw(t, "want")
		remove, add := planRoutes(have, want)
		table := map[netip.Prefix]hop{}
		for _, h := range have {
			table[h.dst] = h
		}
		for _, h := range remove {
			delete(table, h.dst)
		}
		for _, h := range add {
			table[h.dst] = h
		}
		if len(table) != len(want) {
			t.Fatalf("%v: want %v", table, want)
		}
		for _, h := range want {
			if table[h.dst] != h {
				t.Fatalf("%v: want %v", table, want)
			}
		}
		if remove, add := planRoutes(want, want); len(remove)+len(add) > 0 {
			t.Fatalf("not idempotent: %v %v", remove, add)
		}
	})
}
