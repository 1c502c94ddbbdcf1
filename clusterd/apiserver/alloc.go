package apiserver

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// An address, port or subnet is held by a key of its own, written in the
// transaction that gives it away: two holders are impossible. The value is the
// holder's reference.

func vipKey(ip string) string { return allocPrefix + "vip/" + ip }

func nodePortKey(protocol string, port int) string {
	return allocPrefix + "nodeport/" + protocol + "/" + strconv.Itoa(port)
}

func subnetKey(subnet string) string {
	return allocPrefix + "subnet/" + strings.ReplaceAll(subnet, "/", "_")
}

// claim takes key for ref. The error about a clash names the holder.
func (t *txn) claim(key string, ref api.Ref, path, what string) error {
	held := t.read(key)
	if held == nil {
		t.set(key, marshal(ref))
		return nil
	}
	var holder api.Ref
	if err := json.Unmarshal(held.value, &holder); err != nil {
		return fmt.Errorf("read holder of %s: %w", key, err)
	}
	if holder == ref {
		return nil
	}
	e := conflict(api.Conflict, ref, "%s is taken by %s", what, holder)
	e.Fields = api.Errors{{Path: path, Message: "choose another, or leave it to the cluster"}}
	return e
}

// unclaim gives key back.
func (t *txn) unclaim(key string) {
	if t.read(key) != nil {
		t.remove(key)
	}
}

// reservedVIPs are the first addresses of the service range: only given to who
// asks for one.
const reservedVIPs = 10

// allocService gives a service its address and node ports, and takes back
// those its old spec had.
func (t *txn) allocService(old *object, svc *api.Service) error {
	ref, was := svc.Ref(), api.ServiceSpec{}
	if old != nil && len(old.effective) > 0 {
		if err := json.Unmarshal(old.effective, &was); err != nil {
			return fmt.Errorf("decode effective of %s: %w", ref, err)
		}
	}
	eff := &svc.Effective
	switch {
	case svc.Spec.IP != "":
		ip, err := netip.ParseAddr(svc.Spec.IP)
		if err != nil || !t.s.services.Contains(ip) {
			return invalid(ref, api.Errors{{Path: "spec.ip", Message: fmt.Sprintf("outside of the cluster's service range %s", t.s.services)}})
		}
		if err := t.claim(vipKey(svc.Spec.IP), ref, "spec.ip", "address "+svc.Spec.IP); err != nil {
			return err
		}
	case was.IP != "":
		eff.IP = was.IP
	default:
		ip, err := t.freeVIP(ref)
		if err != nil {
			return err
		}
		eff.IP = ip
		t.read(vipKey(ip))
		t.set(vipKey(ip), marshal(ref))
	}
	if was.IP != "" && was.IP != eff.IP {
		t.unclaim(vipKey(was.IP))
	}
	keep := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(eff.Ports)) {
		p := eff.Ports[name]
		if p.NodePort == nil {
			continue
		}
		key := nodePortKey(p.Protocol, *p.NodePort)
		keep[key] = true
		what := fmt.Sprintf("node port %d/%s", *p.NodePort, p.Protocol)
		if err := t.claim(key, ref, "spec.ports."+name+".node_port", what); err != nil {
			return err
		}
	}
	for _, p := range was.Ports {
		if p.NodePort != nil && !keep[nodePortKey(p.Protocol, *p.NodePort)] {
			t.unclaim(nodePortKey(p.Protocol, *p.NodePort))
		}
	}
	return nil
}

// freeVIP returns an address nobody holds. It begins where the name hashes to:
// a service that is created again tends to get its old address, and racing
// creates do not meet.
func (t *txn) freeVIP(ref api.Ref) (string, error) {
	size := uint32(1) << (32 - t.s.services.Bits())
	usable := size - reservedVIPs - 1 // without the broadcast address
	h := fnv.New32a()
	h.Write([]byte(ref.String()))
	for i := range usable {
		ip := offset(t.s.services.Addr(), reservedVIPs+(h.Sum32()+i)%usable).String()
		if t.peek(vipKey(ip)) == nil {
			return ip, nil
		}
	}
	return "", conflict(api.Conflict, ref, "no address is free in the service range %s: delete services that are not needed", t.s.services)
}

// offset returns the IPv4 address n after a.
func offset(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func (t *txn) releaseService(svc *api.Service) {
	if svc.Effective.IP != "" {
		t.unclaim(vipKey(svc.Effective.IP))
	}
	for _, p := range svc.Effective.Ports {
		if p.NodePort != nil {
			t.unclaim(nodePortKey(p.Protocol, *p.NodePort))
		}
	}
}

// subnetBits is the size of a node's subnet: 254 pods.
const subnetBits = 24

// allocNode gives a node its subnet, for life.
func (t *txn) allocNode(old *object, n *api.Node) error {
	ref, want := n.Ref(), n.Spec.Subnet
	if old != nil {
		var was api.NodeSpec
		if err := json.Unmarshal(old.effective, &was); err != nil {
			return fmt.Errorf("decode effective of %s: %w", ref, err)
		}
		if want != "" && want != was.Subnet {
			return invalid(ref, api.Errors{{Path: "spec.subnet", Message: fmt.Sprintf("is %s for the node's life: delete the node and join it again to change it", was.Subnet)}})
		}
		n.Effective.Subnet = was.Subnet
		return nil
	}
	if want != "" {
		p, err := netip.ParsePrefix(want)
		if err != nil || p != p.Masked() || p.Bits() != subnetBits || !t.s.pods.Overlaps(p) || t.s.pods.Bits() > subnetBits {
			return invalid(ref, api.Errors{{Path: "spec.subnet", Message: fmt.Sprintf("want a /%d inside the cluster's pod range %s", subnetBits, t.s.pods)}})
		}
		return t.claim(subnetKey(want), ref, "spec.subnet", "subnet "+want)
	}
	if p, ok := t.freeSubnet(); ok {
		n.Effective.Subnet = p
		return t.claim(subnetKey(p), ref, "spec.subnet", "subnet "+p)
	}
	return conflict(api.Conflict, ref, "no /%d is free in the pod range %s: delete nodes that are gone", subnetBits, t.s.pods)
}

// freeSubnet returns a subnet that nobody holds. They are given in order, so the
// end of those that are taken is found by halves; only when that is no help, as
// between nodes that were deleted, each is looked at.
func (t *txn) freeSubnet() (string, bool) {
	size := 1 << (subnetBits - t.s.pods.Bits())
	at := func(i int) string {
		return netip.PrefixFrom(offset(t.s.pods.Addr(), uint32(i)<<(32-subnetBits)), subnetBits).String()
	}
	free := func(i int) bool { return t.peek(subnetKey(at(i))) == nil }
	beyond := 0
	for beyond < size && !free(beyond) {
		beyond = 2*beyond + 1
	}
	if beyond < size {
		taken := beyond / 2
		return at(taken + sort.Search(beyond-taken, func(i int) bool { return free(taken + i) })), true
	}
	for i := range size {
		if free(i) {
			return at(i), true
		}
	}
	return "", false
}

func (t *txn) releaseNode(n *api.Node) {
	if n.Effective.Subnet != "" {
		t.unclaim(subnetKey(n.Effective.Subnet))
	}
	t.unclaim(nodeGuard(n.Meta.Name)) // of a cluster that is, or was, below oneGuardLevel
}
