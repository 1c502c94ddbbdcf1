package proxy

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Each part of a concatenated key or value is padded to four bytes. Numbers of
// packets are big-endian, those the kernel makes up itself (slots) are not.

func frontendBytes(f Frontend) []byte {
	ip := f.IP.As4()
	b := make([]byte, 0, 16)
	b = append(b, ip[:]...)
	b = append(b, byte(f.Protocol), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, f.Port)
	return append(b, 0, 0)
}

func frontendOf(b []byte) Frontend {
	return Frontend{netip.AddrFrom4([4]byte(b[:4])), Protocol(b[4]), binary.BigEndian.Uint16(b[8:])}
}

func podBytes(pod netip.AddrPort) []byte {
	ip := pod.Addr().As4()
	b := binary.BigEndian.AppendUint16(append(make([]byte, 0, 8), ip[:]...), pod.Port())
	return append(b, 0, 0)
}

func podOf(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), binary.BigEndian.Uint16(b[4:]))
}

func slotElement(key []byte, slot int, pod netip.AddrPort) nftables.SetElement {
	e := nftables.SetElement{Key: binary.NativeEndian.AppendUint32(append(make([]byte, 0, 16), key...), uint32(slot))}
	if pod.IsValid() {
		e.Val = podBytes(pod)
	}
	return e
}

// elements collects what a transaction adds to, or removes from, each set.
type elements map[string][]nftables.SetElement

func (e elements) put(set string, el nftables.SetElement) { e[set] = append(e[set], el) }

// change adds what must be removed and added to get a frontend from one
// balance to another; nil is a frontend that is not there.
func (c *changes) change(f Frontend, from, to *Balance) {
	key := frontendBytes(f)
	was, is := placeOf(f, from), placeOf(f, to)
	if was != is {
		if was.set != "" {
			c.remove.put(was.set, nftables.SetElement{Key: key})
		}
		if is.set == setFrontends {
			c.add.put(is.set, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: is.chain}})
		} else if is.set != "" {
			c.add.put(is.set, nftables.SetElement{Key: key})
		}
	}
	same := was == is && was.slots != ""
	if was.slots != "" {
		for i, pod := range from.Slots {
			if !same || to.Slots[i] != pod {
				c.remove.put(was.slots, slotElement(key, i, netip.AddrPort{}))
			}
		}
	}
	if is.slots != "" {
		for i, pod := range to.Slots {
			if !same || from.Slots[i] != pod {
				c.add.put(is.slots, slotElement(key, i, pod))
			}
		}
	}
}

// changes are the elements of one transaction; removals come first.
type changes struct{ remove, add elements }

func newChanges() *changes { return &changes{elements{}, elements{}} }

// place says which sets a frontend is in: among the frontends with a verdict,
// or among the closed; and in which map its slots are.
type place struct{ set, chain, slots string }

func placeOf(f Frontend, b *Balance) place {
	switch {
	case b == nil:
		return place{}
	case b.Closed():
		return place{set: setClosed}
	}
	return place{setFrontends, chainOf(f, *b), slotMap(b.Sticky, len(b.Slots))}
}

func slotOf(key []byte) int { return int(binary.NativeEndian.Uint32(key[12:])) }
