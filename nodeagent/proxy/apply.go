package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel is where rules end up. nft is the real one.
type kernel interface {
	// read returns the rules an earlier run left, and whether there is a table at all.
	read() (Ruleset, bool, error)
	// replace puts rules in place of whatever is there, at once.
	replace(Ruleset) error
	// update applies changes to what replace and update put there before, at once.
	update(*changes) error
	// intact reports whether the table is as rules say.
	intact(Ruleset) (bool, error)
	// sweep forgets connections and returns how many.
	sweep(stale func(flow) bool) (int, error)
}

// nft programs the table in the network namespace of the thread that opened it.
type nft struct {
	ranges ranges
	ns     netns.NsHandle
	conn   *nftables.Conn
	port   atomic.Uint32 // of conn's socket: marks our own transactions
	table  *nftables.Table
	sets   map[string]*nftables.Set
	count  map[string]int      // of rules by chain, as of the last replace
	rules  map[string][]uint64 // their handles
	ct     *conntrack
}

func openNFT(r ranges) (*nft, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	k := &nft{ranges: r, ns: ns, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}}
	if k.ct, err = openConntrack(); err != nil {
		ns.Close()
		return nil, err
	}
	if err := k.dial(); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// dial opens the socket anew: after an error the old one may hold answers that
// nobody waits for.
func (k *nft) dial() error {
	if k.conn != nil {
		k.conn.CloseLasting()
	}
	var err error
	k.conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(k.ns)), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// A transaction is one message, and every part of it is answered: the
		// default buffers overflow at about 200 parts.
		if err := errors.Join(c.SetReadBuffer(16<<20), c.SetWriteBuffer(64<<20)); err != nil {
			return err
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) {
			if sa, err := unix.Getsockname(int(fd)); err == nil {
				k.port.Store(sa.(*unix.SockaddrNetlink).Pid)
			}
		})
	}))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func (k *nft) close() {
	if k.conn != nil {
		k.conn.CloseLasting()
	}
	k.ct.close()
	k.ns.Close()
}

// flush sends the transaction.
func (k *nft) flush() error {
	err := k.conn.Flush()
	if err != nil {
		err = errors.Join(err, k.dial())
	}
	return err
}

func (k *nft) exists() (bool, error) {
	tables, err := k.conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), nil
}

func (k *nft) read() (Ruleset, bool, error) {
	ok, err := k.exists()
	if err != nil {
		return nil, false, fmt.Errorf("look for table %s: %w", tableName, err)
	}
	if !ok {
		return nil, false, nil
	}
	sets, err := k.conn.GetSets(k.table)
	if err != nil {
		return nil, true, fmt.Errorf("list sets: %w", err)
	}
	rules := Ruleset{}
	for _, s := range sets {
		slots, isSticky, ok := slotsOf(s.Name)
		if !ok {
			continue
		}
		els, err := k.conn.GetSetElements(s)
		if err != nil {
			return nil, true, fmt.Errorf("read map %s: %w", s.Name, err)
		}
		for _, e := range els {
			if len(e.Key) != 16 || len(e.Val) < 8 {
				continue // of another version
			}
			f := frontendOf(e.Key)
			b := rules[f]
			if b.Slots == nil {
				b = Balance{Sticky: isSticky, Slots: make([]netip.AddrPort, slots)}
				rules[f] = b
			}
			if i := slotOf(e.Key); i < len(b.Slots) {
				b.Slots[i] = podOf(e.Val)
			}
		}
	}
	return rules, true, nil
}

// slotsOf reads the name of a slot map.
func slotsOf(name string) (slots int, isSticky, ok bool) {
	for _, slots := range classes {
		for _, isSticky := range []bool{false, true} {
			if name == slotMap(isSticky, slots) {
				return slots, isSticky, true
			}
		}
	}
	return 0, false, false
}

func (k *nft) replace(rules Ruleset) error {
	k.conn.AddTable(k.table) // so that there is one to delete
	k.conn.DelTable(k.table)
	k.conn.AddTable(k.table)
	sets, count, err := layout(k.conn, k.table, k.ranges)
	if err != nil {
		return errors.Join(err, k.dial())
	}
	all := contents(rules, k.ranges)
	for name, els := range all.add {
		if err := k.add(sets[name], els); err != nil {
			return errors.Join(err, k.dial())
		}
	}
	if err := k.flush(); err != nil {
		return fmt.Errorf("program %d frontends: %w", len(rules), err)
	}
	k.sets, k.count, k.rules = sets, count, map[string][]uint64{}
	for chain := range count {
		if k.rules[chain], err = k.handles(chain); err != nil {
			return err
		}
	}
	return nil
}

// contents are the elements of a table that says what rules say.
func contents(rules Ruleset, r ranges) *changes {
	all := newChanges()
	for f, b := range rules {
		all.change(f, nil, &b)
	}
	for ip := range podsOf(r.subnet) {
		b := ip.As4()
		all.add.put(setHairpin, nftables.SetElement{Key: append(b[:], b[:]...)})
	}
	return all
}

// podsOf yields the addresses of a subnet; of a very large one only the first.
func podsOf(subnet netip.Prefix) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		ip := subnet.Masked().Addr()
		for range min(1<<(32-subnet.Bits()), 1<<13) {
			if !yield(ip) {
				return
			}
			ip = ip.Next()
		}
	}
}

// perMessage bounds the elements of one netlink attribute, whose length is 16
// bits: beyond 64 KiB it wraps, and the kernel complains of a missing file.
const perMessage = 400

func (k *nft) add(s *nftables.Set, els []nftables.SetElement) error {
	for part := range slices.Chunk(els, perMessage) {
		if err := k.conn.SetAddElements(s, part); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

func (k *nft) update(c *changes) error {
	if k.sets == nil {
		return errors.New("no table yet")
	}
	for name, els := range c.remove {
		for part := range slices.Chunk(els, perMessage) {
			if err := k.conn.SetDeleteElements(k.sets[name], part); err != nil {
				return errors.Join(fmt.Errorf("set %s: %w", name, err), k.dial())
			}
		}
	}
	for name, els := range c.add {
		if err := k.add(k.sets[name], els); err != nil {
			return errors.Join(err, k.dial())
		}
	}
	return k.flush()
}

// handles identify the rules of a chain: a rule that is put back by others has
// another one.
func (k *nft) handles(chain string) ([]uint64, error) {
	rules, err := k.conn.GetRules(k.table, &nftables.Chain{Name: chain, Table: k.table})
	if err != nil {
		return nil, fmt.Errorf("read chain %s: %w", chain, err)
	}
	var all []uint64
	for _, r := range rules {
		all = append(all, r.Handle)
	}
	return all, nil
}

func (k *nft) intact(rules Ruleset) (bool, error) {
	if ok, err := k.exists(); err != nil || !ok || k.sets == nil {
		return false, err
	}
	for chain, n := range k.count {
		have, err := k.handles(chain)
		// The count says so if others were at it before the handles were read.
		if err != nil || len(have) != n || !slices.Equal(have, k.rules[chain]) {
			return false, err
		}
	}
	want := contents(rules, k.ranges).add
	for name, s := range k.sets {
		els, err := k.conn.GetSetElements(s)
		if err != nil {
			return false, fmt.Errorf("read set %s: %w", name, err)
		}
		if !sameElements(els, want[name]) {
			return false, nil
		}
	}
	return true, nil
}

func sameElements(have, want []nftables.SetElement) bool {
	if len(have) != len(want) {
		return false
	}
	vals := make(map[string][]byte, len(want))
	for _, e := range want {
		vals[string(e.Key)] = e.Val
	}
	return !slices.ContainsFunc(have, func(e nftables.SetElement) bool {
		val, ok := vals[string(e.Key)]
		return !ok || val != nil && !bytes.Equal(e.Val, val)
	})
}

func (k *nft) sweep(stale func(flow) bool) (int, error) { return k.ct.sweep(stale) }
