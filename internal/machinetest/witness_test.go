package machinetest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network/networktest"
)

// faultLasts is well over what a dead node's verdict takes, and under the
// minute after which pods of a node without its agent are replaced.
const faultLasts = 20 * time.Second

// TestAliveIsNotDead: a node that is slow, cut off one way, without gossip or
// without its agent is not declared dead while its pods serve. Its health says
// what is wrong, no request is lost, no pod replaced; once it is over, all is as
// before and nothing restarted.
func TestAliveIsNotDead(t *testing.T) {
	soak(t)
	c := up(t, "alive")
	c.fleet(t, 30098)
	c.settled(t, 6)
	before := c.pids(t, "steady")
	nodes := client.Of(c.connect(t, 0), api.Nodes)
	victim := c.pods(t, "steady")[0].Spec.Node
	machine := c.machine(t, victim)
	server, err := netip.ParseAddrPort(get(t, c, api.Servers)[0].Spec.Address)
	if err != nil {
		t.Fatal(err)
	}
	health := func() api.NodeHealth {
		n, err := nodes.Get(t.Context(), "", victim)
		if err != nil {
			t.Fatal(err)
		}
		return n.Status.Health
	}

	for _, fault := range []struct {
		name string
		want api.Verdict // while it lasts; unset: any but dead
		do   func(t *testing.T)
	}{
		{"slowed", "", func(t *testing.T) { c.slow(t, victim, 3) }},
		{"cut one way, from the server", api.VerdictAgentDown, func(t *testing.T) {
			drop(t, machine, []nftables.ChainHook{*nftables.ChainHookInput}, matchIP(12, server.Addr()))
		}},
		{"cut one way, to the server", api.VerdictAgentDown, func(t *testing.T) {
			drop(t, machine, []nftables.ChainHook{*nftables.ChainHookOutput}, matchIP(16, server.Addr()))
		}},
		{"without gossip", api.VerdictPartitioned, func(t *testing.T) {
			drop(t, machine, []nftables.ChainHook{*nftables.ChainHookInput, *nftables.ChainHookOutput}, matchPort(0, 7946), matchPort(2, 7946))
		}},
		{"without its agent", api.VerdictAgentDown, func(t *testing.T) {
			pids := c.parts(t, victim, "agent")
			if len(pids) != 1 {
				t.Fatalf("agents of %s: %v", victim, pids)
			}
			if err := syscall.Kill(pids[0], syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(pids[0], syscall.SIGCONT) })
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			load := startLoadOf(1, c.at(t, 30098)...)
			t.Run("fault", func(t *testing.T) { // whose end ends the fault
				fault.do(t)
				began, last := time.Now(), health()
				for time.Since(began) < faultLasts {
					if now := health(); now.Verdict != last.Verdict || now.Message != last.Message {
						t.Logf("%s after %.1f s: %s: %s", victim, time.Since(began).Seconds(), now.Verdict, now.Message)
						last = now
					}
					if last.Verdict == api.VerdictDead {
						t.Fatalf("%s is declared dead, and its pods serve", victim)
					}
					if last.Verdict != api.VerdictReady && last.Message == "" {
						t.Errorf("%s is %s, and nothing says why", victim, last.Verdict)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if fault.want != "" && fault.want != last.Verdict {
					t.Errorf("%s is %s, want %s", victim, last.Verdict, fault.want)
				}
			})
			took := eventually(t, 30*time.Second, victim+" is ready again", func() bool { return health().Verdict == api.VerdictReady })
			t.Logf("%s is ready %s after the fault ended", victim, took.Round(100*time.Millisecond))
			load.mustBeClean(t, fault.name)
			c.settled(t, 6)
			c.unharmed(t, before)
		})
	}
}

// slow gives a node's daemons so many hundredths of a core together, until the
// test ends. Its pods have groups of their own, and are as fast as before.
func (c *cluster) slow(t *testing.T, node string, percent int) {
	t.Helper()
	pids := slices.Concat(c.supervisors(t, node), c.parts(t, node, "agent"), c.parts(t, node, "containerd"))
	if len(pids) != 3 {
		t.Fatalf("daemons of %s: %v", node, pids)
	}
	const period = 100_000
	quota := period * percent / 100
	root, file, line := "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", fmt.Sprint(quota)
	if _, err := os.Stat(root); err != nil { // one hierarchy for all
		root, file, line = "/sys/fs/cgroup", "cpu.max", fmt.Sprintf("%d %d", quota, period)
	}
	home := make(map[int]string, len(pids)) // where each was
	group := filepath.Join(root, "clusterd-slow-"+c.name)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(pid int, to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0o644)
	}
	t.Cleanup(func() {
		b, _ := os.ReadFile(filepath.Join(group, "cpu.stat"))
		_, rest, _ := strings.Cut(string(b), "nr_throttled ")
		held, _, _ := strings.Cut(rest, "\n")
		t.Logf("the daemons of %s had to wait in %s periods of %d ms", node, held, period/1000)
		if held == "" || held == "0" {
			t.Errorf("the daemons of %s were not slowed", node)
		}
		for _, pid := range pids {
			if err := move(pid, home[pid]); err != nil {
				t.Errorf("%s again: %v", home[pid], err)
			}
		}
		if err := syscall.Rmdir(group); err != nil {
			t.Errorf("remove %s: %v", group, err)
		}
	})
	for _, pid := range pids {
		home[pid] = filepath.Join(root, groupOf(pid, root))
		if err := move(pid, group); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(group, file), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
}

// groupOf is the cgroup a process is in, below the hierarchy at root.
func groupOf(pid int, root string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(line, ":")
		controllers, path, _ := strings.Cut(strings.TrimSpace(rest), ":")
		if slices.Contains(strings.Split(controllers, ","), filepath.Base(root)) || controllers == "" && filepath.Base(root) == "cgroup" {
			return path
		}
	}
	return "/"
}

// drop loses the packets that match, at the hooks of a machine, until the test ends.
func drop(t *testing.T, m *networktest.Machine, hooks []nftables.ChainHook, matches ...[]expr.Any) {
	t.Helper()
	table := &nftables.Table{Name: "fault", Family: nftables.TableFamilyIPv4}
	err := rules(t, m, func(n *nftables.Conn) {
		n.AddTable(table)
		for i, hook := range hooks {
			chain := n.AddChain(&nftables.Chain{
				Name: fmt.Sprint("hook", i), Table: table, Type: nftables.ChainTypeFilter, Hooknum: &hook, Priority: nftables.ChainPriorityFirst,
			})
			for _, match := range matches {
				n.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(slices.Clone(match), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rules(t, m, func(n *nftables.Conn) { n.DelTable(table) }); err != nil {
			t.Errorf("end the fault: %v", err)
		}
	})
}

// matchIP compares the address at an offset of the IP header: 12 is the source,
// 16 the destination.
func matchIP(offset uint32, addr netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}
}

// matchPort compares the port at an offset of the header of TCP and UDP: 0 is
// the source, 2 the destination.
func matchPort(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.IPPROTO_ICMP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}
