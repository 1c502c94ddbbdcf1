// Package gossip tells who is there, without a central place to ask: members
// probe each other and spread what they find.
//
// Invariants:
//   - What is heard here is a hint. It decides nothing alone and authorizes
//     nobody: the key is shared, so a member is some member, not a proven one.
//   - A member never heard of is absent from Members, not dead.
//   - Changes is level-triggered: one signal means "look again"; signals merge.
//   - Every message is encrypted; metadata is at most MaxMeta bytes, for it
//     travels in every announcement.
package gossip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

// MaxMeta is the most metadata a member can have, in bytes.
const MaxMeta = 64

// State is what the others think of a member.
type State string

const (
	Alive State = "alive"
	Dead  State = "dead" // stopped answering
	Left  State = "left" // said goodbye
)

// Member is one process that takes part.
type Member struct {
	Name  string
	Addr  string // host:port of its gossip
	State State
	Meta  []byte
	Since time.Time // of State, by the clock here
}

// Source is what those who only listen need.
type Source interface {
	// Members lists everybody heard of, by name.
	Members() []Member
	// Changes carries a signal after members changed. It has one reader.
	Changes() <-chan struct{}
}

// Config of a member.
type Config struct {
	Name      string
	Bind      string   // host:port, UDP and TCP; port 0 takes a free one
	Advertise string   // host that others reach it by; empty: that of Bind
	Keys      [][]byte // 32 bytes each; the last is spoken, all are understood
	Meta      []byte   // at most MaxMeta
	// Seeds are addresses (host:port) of some members: servers for a node, nodes
	// for a server. It is asked again now and then, and while one is missing; when
	// it knows of none, those it named last are.
	Seeds func() []string
	Log   hclog.Logger
}

// Gossip is this process as a member.
type Gossip struct {
	list  *memberlist.Memberlist
	ring  *memberlist.Keyring
	seeds func() []string
	log   hclog.Logger
	view  *view

	known []string  // seeds as last asked for; only Run uses them
	asked time.Time // when
}

// Open starts to listen and to answer. Nobody is known yet: Run joins.
func Open(c Config) (*Gossip, error) {
	if len(c.Meta) > MaxMeta {
		return nil, fmt.Errorf("gossip: %d bytes of metadata: at most %d fit", len(c.Meta), MaxMeta)
	}
	if err := checkKeys(c.Keys); err != nil {
		return nil, err
	}
	host, p, err := net.SplitHostPort(c.Bind)
	if err != nil {
		return nil, fmt.Errorf("gossip: bind address: %w", err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("gossip: bind address %s: the port must be a number up to 65535", c.Bind)
	}
	log := c.Log
	if log == nil {
		log = hclog.NewNullLogger()
	}
	ring, err := memberlist.NewKeyring(c.Keys, c.Keys[len(c.Keys)-1])
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	v := &view{members: map[string]Member{}, dying: map[string]*time.Timer{}, meta: c.Meta, changed: make(chan struct{}, 1), log: log}

	conf := memberlist.DefaultLANConfig()
	conf.Name = c.Name
	conf.BindAddr, conf.BindPort = cmp.Or(host, "0.0.0.0"), int(port)
	conf.AdvertiseAddr, conf.AdvertisePort = c.Advertise, int(port)
	conf.Keyring = ring
	conf.Delegate, conf.Events = v, v
	// A dead machine is seen in about 4 s with these, instead of 10.
	conf.ProbeInterval, conf.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	conf.SuspicionMult, conf.SuspicionMaxTimeoutMult = 3, 4
	conf.GossipInterval, conf.GossipNodes = 100*time.Millisecond, 4
	conf.AwarenessMaxMultiplier = 4
	conf.PushPullInterval = 15 * time.Second
	conf.TCPTimeout = 3 * time.Second
	conf.DeadNodeReclaimTime = 5 * time.Second // a node that comes back may have a new address
	// Compressing every packet is most of the cost of a mass join.
	conf.EnableCompression = false
	// Its own levels are about packets; ours are about the cluster.
	conf.Logger = log.Named("memberlist").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
	list, err := memberlist.Create(conf)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	seeds := c.Seeds
	if seeds == nil {
		seeds = func() []string { return nil }
	}
	return &Gossip{list: list, ring: ring, seeds: seeds, log: log, view: v}, nil
}

func checkKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("gossip: no key")
	}
	for _, k := range keys {
		if len(k) != 32 {
			return fmt.Errorf("gossip: a key has %d bytes: want 32", len(k))
		}
	}
	return nil
}

// Keys changes the keys while the member talks: the last one is spoken from now
// on, and all are understood. To change one for another, every member first
// learns to understand it, then to speak it, and only then forgets the old one.
func (g *Gossip) Keys(keys [][]byte) error {
	if err := checkKeys(keys); err != nil {
		return err
	}
	for _, k := range keys {
		if err := g.ring.AddKey(k); err != nil {
			return fmt.Errorf("gossip: %w", err)
		}
	}
	if err := g.ring.UseKey(keys[len(keys)-1]); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	for _, k := range g.ring.GetKeys() {
		if !slices.ContainsFunc(keys, func(kept []byte) bool { return bytes.Equal(k, kept) }) {
			if err := g.ring.RemoveKey(k); err != nil {
				return fmt.Errorf("gossip: %w", err)
			}
		}
	}
	return nil
}

// Addr is host:port that others reach this member by.
func (g *Gossip) Addr() string { return g.list.LocalNode().Address() }

// Members lists everybody heard of, this member too, by name.
func (g *Gossip) Members() []Member { return g.view.list() }

// Changes carries a signal after members changed. It has one reader.
func (g *Gossip) Changes() <-chan struct{} { return g.view.changed }

// Run joins and stays joined until ctx is done; then it stops without a word.
// Leave says goodbye first.
func (g *Gossip) Run(ctx context.Context) error {
	defer g.list.Shutdown()
	// A start with everybody else's (power is back) is spread out; a second
	// join soon after mends what a storm of announcements lost.
	wait := rand.N(200 * time.Millisecond)
	var cut time.Time // when probes failed last
	for try := 0; ; try++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		// Probes that fail may mean that this member is cut off: the others give it
		// up, and when it is back it hears of that only by asking.
		if g.list.GetHealthScore() > 0 {
			cut = time.Now()
		}
		if wait = 2*time.Second + rand.N(2*time.Second); !g.join(try < 2 || time.Since(cut) < 15*time.Second) {
			wait = time.Second + rand.N(time.Second)
		}
	}
}

// Close gives up what never ran.
func (g *Gossip) Close() error { return g.list.Shutdown() }

// join contacts the seeds that are not alive as far as is known here, or all.
// It reports whether there is company, or nobody to look for. Members that
// were cut off for long find each other again only this way.
func (g *Gossip) join(all bool) bool {
	alive := map[string]bool{g.Addr(): true}
	for _, m := range g.Members() {
		if m.State == Alive {
			alive[m.Addr] = true
		}
	}
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(g.known), func(s string) bool { return s == g.Addr() || !all && alive[s] })
	}
	// Asking for seeds may cost a request: not while all is well.
	if all || len(g.known) == 0 || len(missing()) > 0 || time.Since(g.asked) > 15*time.Second {
		if known := g.seeds(); len(known) > 0 { // no answer is none: who was known is still worth a try
			g.known = known
		}
		g.asked = time.Now()
	}
	seeds := missing()
	if len(seeds) == 0 {
		return true
	}
	rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
	n, err := g.list.Join(seeds[:min(len(seeds), 3)])
	if err != nil {
		g.log.Debug("some seeds did not answer", "answered", n, "error", err)
	}
	return n > 0 || len(alive) > 1
}

// Leave tells the others goodbye, so that nobody takes the end for a failure.
// It waits at most for timeout. Run is to be stopped after it.
func (g *Gossip) Leave(timeout time.Duration) error {
	g.view.leave()
	// memberlist tells its listeners "gone" for both a death and a goodbye; the
	// announcement ahead makes the difference.
	err := g.list.UpdateNode(timeout / 2)
	return errors.Join(err, g.list.Leave(timeout/2))
}

// view is what this member knows, fed by memberlist's callbacks, which must not
// block or call back.
type view struct {
	changed chan struct{}
	log     hclog.Logger

	mu      sync.Mutex
	members map[string]Member
	dying   map[string]*time.Timer // accused, with time to deny it
	meta    []byte
	leaving bool
}

func (v *view) list() []Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.members), func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
}

func (v *view) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leaving = true
}

// The first byte on the wire says whether the member is about to leave.
const (
	staying byte = iota
	leaving
)

func (v *view) NodeMeta(int) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	flag := staying
	if v.leaving {
		flag = leaving
	}
	return append([]byte{flag}, v.meta...)
}

// denial is how long a member that is called dead may take to deny it. One
// that was cut off and is back calls everybody dead at first.
const denial = 500 * time.Millisecond

func (v *view) NotifyJoin(n *memberlist.Node)   { v.set(n.Name, memberOf(n, Alive)) }
func (v *view) NotifyUpdate(n *memberlist.Node) { v.set(n.Name, memberOf(n, Alive)) }
func (v *view) NotifyLeave(n *memberlist.Node) {
	if len(n.Meta) > 0 && n.Meta[0] == leaving {
		v.set(n.Name, memberOf(n, Left))
		return
	}
	m := memberOf(n, Dead)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dying[m.Name] = time.AfterFunc(denial, func() { v.set(m.Name, m) })
}

func memberOf(n *memberlist.Node, s State) Member {
	m := Member{Name: n.Name, Addr: n.Address(), State: s}
	if len(n.Meta) > 1 {
		m.Meta = slices.Clone(n.Meta[1:])
	}
	return m
}

func (v *view) set(name string, m Member) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.dying[name]; t != nil {
		t.Stop()
		delete(v.dying, name)
	} else if m.State == Dead {
		return // denied while the timer waited for the lock
	}
	old, known := v.members[name]
	m.Since = time.Now()
	if known && old.State == m.State {
		m.Since = old.Since
	}
	v.members[name] = m
	if !known || old.State != m.State {
		v.log.Info("member is "+string(m.State), "member", name, "address", m.Addr)
	}
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// There is no other traffic than memberlist's own.

func (v *view) NotifyMsg([]byte)                {}
func (v *view) GetBroadcasts(int, int) [][]byte { return nil }
func (v *view) LocalState(bool) []byte          { return nil }
func (v *view) MergeRemoteState([]byte, bool)   {}
