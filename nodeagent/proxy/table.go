package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table, as nft would print it. N is a number of slots, KIND random or sticky:
//
//	table ip clusterd {
//	  map frontends { type ipv4_addr . inet_proto . inet_service : verdict }                 # → goto KINDN or node_KINDN
//	  map KINDN     { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service }
//	  set closed    { type ipv4_addr . inet_proto . inet_service }                           # no pods: reject
//	  set hairpin   { type ipv4_addr . ipv4_addr }                                           # every pod of this node, twice
//	  chain prerouting  { type nat hook prerouting priority dstnat; jump services }
//	  chain output      { type nat hook output priority dstnat; jump services }
//	  chain services    { ip daddr . meta l4proto . th dport vmap @frontends
//	                      fib daddr type local ip daddr != 127.0.0.0/8 0.0.0.0 . meta l4proto . th dport vmap @frontends }
//	  chain randomN     { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod N map @randomN }
//	  chain node_randomN{ dnat ip to 0.0.0.0  . meta l4proto . th dport . numgen random mod N map @randomN }
//	  chain stickyN, node_stickyN                                                            # jhash ip saddr mod N
//	  chain postrouting { type nat hook postrouting priority srcnat
//	                      ip saddr . ip daddr @hairpin masquerade
//	                      ct status dnat ip saddr != PODS ip daddr PODS ip daddr != SUBNET masquerade
//	                      ip saddr SUBNET ip daddr != PODS masquerade }
//	  chain forward     { type filter hook forward;  ct state invalid ip saddr PODS drop
//	                      ip daddr SERVICES goto reject; ct state new … @closed goto reject }
//	  chain local       { type filter hook output;   the same }
//	  chain input       { type filter hook input;    ct state invalid ip saddr PODS drop; ct state new ip daddr != 127.0.0.0/8 0.0.0.0 … @closed goto reject }
//	  chain reject      { meta l4proto tcp reject with tcp reset; reject with icmp port-unreachable }
//	}
//
// One lookup decides whether a connection is to a service, a second one where
// it goes, however many services there are. A connection from outside the pod
// network keeps its address when the pod is on this node; otherwise it gets the
// node's, so that the answer comes back this way.
//
// nft lists the table, but refuses to load such a map from text: slots of type
// mark are the only ones it does not crash on.
const tableName = "clusterd"

const (
	setFrontends = "frontends"
	setClosed    = "closed"
	setHairpin   = "hairpin"
)

var (
	frontendType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	slotType     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	podType      = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	pairType     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
)

// Registers: a concatenated key lies in consecutive 32-bit parts. The first is
// addressed by its old 128-bit name.
const (
	reg0 = 1
	reg1 = 9
	reg2 = 10
	reg3 = 11
	tmp  = 12
)

// sticky spreads clients by this seed, the same on every node.
const sticky = 0x636c7573

// slotMap names the map, and the chain, of a number of slots.
func slotMap(isSticky bool, slots int) string {
	if isSticky {
		return fmt.Sprintf("sticky%d", slots)
	}
	return fmt.Sprintf("random%d", slots)
}

// chainOf names the chain that sends a frontend's connections to pods.
func chainOf(f Frontend, b Balance) string {
	name := slotMap(b.Sticky, len(b.Slots))
	if f.IP.IsUnspecified() {
		return "node_" + name
	}
	return name
}

// ranges are the addresses the rules tell apart.
type ranges struct{ pods, subnet, services netip.Prefix }

// layout builds the empty table in c's next transaction. It returns the sets,
// and the number of rules by chain.
func layout(c *nftables.Conn, t *nftables.Table, r ranges) (sets map[string]*nftables.Set, rules map[string]int, err error) {
	sets, rules = map[string]*nftables.Set{}, map[string]int{}
	set := func(s nftables.Set) {
		// Numbered here, because nftables counts in a variable of the whole process.
		s.Table, s.Concatenation, s.ID = t, true, uint32(len(sets)+1)
		if e := c.AddSet(&s, nil); e != nil && err == nil {
			err = fmt.Errorf("set %s: %w", s.Name, e)
		}
		sets[s.Name] = &s
	}
	chain := func(ch nftables.Chain) *nftables.Chain {
		ch.Table = t
		return c.AddChain(&ch)
	}
	base := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return chain(nftables.Chain{Name: name, Type: typ, Hooknum: hook, Priority: prio})
	}
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: all})
		rules[ch.Name]++
	}
	lookup := func(name string, then ...expr.Any) []expr.Any {
		return append([]expr.Any{&expr.Lookup{SourceRegister: reg0, SetName: name, SetID: sets[name].ID}}, then...)
	}
	find := func(name string, to uint32) []expr.Any {
		return []expr.Any{&expr.Lookup{SourceRegister: reg0, DestRegister: to, IsDestRegSet: true, SetName: name, SetID: sets[name].ID}}
	}

	set(nftables.Set{Name: setFrontends, IsMap: true, KeyType: frontendType, DataType: nftables.TypeVerdict})
	set(nftables.Set{Name: setClosed, KeyType: frontendType})
	set(nftables.Set{Name: setHairpin, KeyType: pairType})

	// Before Linux 6.17, a lookup may find neither the old nor the new element of
	// a key while a transaction that replaces it is being committed. So every
	// lookup of what changes is there twice: the second runs only if the first
	// found nothing.
	twice := func(ch *nftables.Chain, parts ...[]expr.Any) {
		rule(ch, parts...)
		rule(ch, parts...)
	}
	services := chain(nftables.Chain{Name: "services"})
	vip, node := frontendKey(true), frontendKey(false)
	twice(services, vip, find(setFrontends, unix.NFT_REG_VERDICT))
	twice(services, toNode(), node, find(setFrontends, unix.NFT_REG_VERDICT))
	for _, slots := range classes {
		for _, isSticky := range []bool{false, true} {
			name := slotMap(isSticky, slots)
			set(nftables.Set{Name: name, IsMap: true, KeyType: slotType, DataType: podType})
			twice(chain(nftables.Chain{Name: name}), vip, slot(isSticky, slots), find(name, reg0), dnat())
			twice(chain(nftables.Chain{Name: "node_" + name}), node, slot(isSticky, slots), find(name, reg0), dnat())
		}
	}

	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: services.Name}}
	rule(base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), jump)
	rule(base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), jump)

	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{FullyRandom: true}}
	rule(post, load(srcOffset, reg0), load(dstOffset, reg1), lookup(setHairpin), masquerade)
	rule(post, ctBits(expr.CtKeySTATUS, statusDNAT), in(srcOffset, r.pods, false), in(dstOffset, r.pods, true), in(dstOffset, r.subnet, false), masquerade)
	rule(post, in(srcOffset, r.subnet, true), in(dstOffset, r.pods, false), masquerade)

	// Resets for TCP: ICMP errors are limited to a few a second for each client.
	reject := chain(nftables.Chain{Name: "reject"})
	rule(reject, isTCP(), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(reject, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable}})
	refuse := []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: reject.Name}}
	isNew := ctBits(expr.CtKeySTATE, expr.CtStateBitNEW)
	// What the kernel cannot place in a connection it does not translate back
	// either: a client that got it under the pod's own address would reset.
	stray := slices.Concat(ctBits(expr.CtKeySTATE, expr.CtStateBitINVALID), in(srcOffset, r.pods, true), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	for name, hook := range map[string]*nftables.ChainHook{"forward": nftables.ChainHookForward, "local": nftables.ChainHookOutput} {
		ch := base(name, nftables.ChainTypeFilter, hook, nftables.ChainPriorityFilter)
		rule(ch, stray)
		rule(ch, in(dstOffset, r.services, true), refuse)
		rule(ch, isNew, vip, lookup(setClosed), refuse)
	}
	input := base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	rule(input, stray)
	rule(input, isNew, in(dstOffset, loopback, false), node, lookup(setClosed), refuse)
	return sets, rules, err
}

// statusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDNAT = 1 << 5

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// Offsets in the IPv4 header.
const (
	srcOffset = 12
	dstOffset = 16
)

func load(offset, reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

// frontendKey loads the key of a frontend: with the destination address, or
// with the unspecified one of a node port.
func frontendKey(isVIP bool) []expr.Any {
	e := []expr.Any{&expr.Immediate{Register: reg0, Data: make([]byte, 4)}}
	if isVIP {
		e = load(dstOffset, reg0)
	}
	return append(e,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Payload{DestRegister: reg2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	)
}

// slot completes the key: by chance, or by the client's address.
func slot(isSticky bool, slots int) []expr.Any {
	if !isSticky {
		return []expr.Any{&expr.Numgen{Register: reg3, Modulus: uint32(slots), Type: unix.NFT_NG_RANDOM}}
	}
	return append(load(srcOffset, tmp),
		&expr.Hash{SourceRegister: tmp, DestRegister: reg3, Length: 4, Modulus: uint32(slots), Seed: sticky, Type: expr.HashTypeJenkins})
}

func dnat() []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1, Specified: true}}
}

// toNode matches what is for the node itself. Loopback is left alone: a
// packet from 127.0.0.1 never leaves the node.
func toNode() []expr.Any {
	return append(in(dstOffset, loopback, false),
		&expr.Fib{Register: reg0, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)})
}

// portUnreachable is the ICMP code that programs see as "connection refused".
const portUnreachable = 3

func isTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: tmp},
		&expr.Cmp{Op: expr.CmpOpEq, Register: tmp, Data: []byte{byte(TCP)}},
	}
}

// in matches an address inside a range, or outside.
func in(offset uint32, p netip.Prefix, inside bool) []expr.Any {
	op := expr.CmpOpEq
	if !inside {
		op = expr.CmpOpNeq
	}
	mask := binaryutil.BigEndian.PutUint32(uint32(0xffffffff) << (32 - p.Bits()))
	return append(load(offset, tmp),
		&expr.Bitwise{SourceRegister: tmp, DestRegister: tmp, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: tmp, Data: p.Masked().Addr().AsSlice()})
}

// ctBits matches connections with one of the bits.
func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: tmp},
		&expr.Bitwise{SourceRegister: tmp, DestRegister: tmp, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: tmp, Data: make([]byte, 4)},
	}
}
