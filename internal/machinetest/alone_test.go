package machinetest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network/networktest"
)

// TestNodeAlone: with no server up, routes and rules that somebody flushed come
// back, also when the agent was away meanwhile, and a node whose power was cut
// starts its pods from what is on its disk. Then every node reaches every pod,
// and when the server is back nothing restarts.
func TestNodeAlone(t *testing.T) {
	soak(t)
	c := up(t, "alone")
	c.fleet(t, 30097)
	c.settled(t, 6)
	before, urls := c.pids(t, "steady"), c.at(t, 30097)
	rebooted := map[string]string{} // pods of w1: UID to name
	for _, p := range c.pods(t, "steady") {
		if p.Spec.Node == "w1" {
			rebooted[p.Meta.UID] = p.Meta.Name
		}
	}
	if len(rebooted) == 0 {
		t.Fatal("no pod is on w1")
	}
	reached := func(when string) {
		t.Helper()
		for _, url := range urls {
			pages := map[string]bool{}
			for range 200 {
				pages[fetch(t, url)] = true
			}
			if len(pages) != len(before) {
				t.Errorf("%s: %s answers with the pages of %d pods, want %d", when, url, len(pages), len(before))
			}
		}
	}
	reached("at first")
	time.Sleep(6 * time.Second) // services are remembered every five seconds
	c.must(t, "dev", "server", "stop", "1", "--name", c.name)

	w1 := c.machine(t, "w1")
	flushes := []struct {
		what string
		do   func() error
	}{
		{"routes", func() error { return flushRoutes(t, w1) }},
		{"all rules", func() error { return rules(t, w1, func(n *nftables.Conn) { n.FlushRuleset() }) }},
		{"the table", func() error {
			return rules(t, w1, func(n *nftables.Conn) {
				n.DelTable(&nftables.Table{Name: "clusterd", Family: nftables.TableFamilyIPv4})
			})
		}},
	}
	for _, f := range flushes {
		was := programmed(t, w1)
		if err := f.do(); err != nil {
			t.Fatalf("flush %s: %v", f.what, err)
		}
		took := eventually(t, 10*time.Second, f.what+" are as before", func() bool { return slices.Equal(programmed(t, w1), was) })
		t.Logf("%s came back %s after they were flushed", f.what, took.Round(time.Millisecond))
		reached(f.what + " flushed")
	}
	was := programmed(t, w1)
	c.killAgent(t, "w1")
	for _, f := range flushes[:2] {
		if err := f.do(); err != nil {
			t.Fatalf("flush %s: %v", f.what, err)
		}
	}
	took := eventually(t, 15*time.Second, "what was flushed while the agent was away is as before", func() bool { return slices.Equal(programmed(t, w1), was) })
	t.Logf("routes and rules came back %s after the agent was killed and both were flushed", took.Round(time.Millisecond))
	reached("agent killed, all flushed")

	cut := time.Now()
	c.must(t, "dev", "node", "stop", "w1", "--name", c.name)
	c.must(t, "dev", "node", "start", "w1", "--name", c.name)
	eventually(t, time.Minute, "the pods of w1 run again", func() bool {
		run := map[string]bool{}
		for _, pid := range processes(t, "nginx: master") {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			for uid := range rebooted {
				run[uid] = run[uid] || strings.Contains(string(b), uid)
			}
		}
		return len(run) == len(rebooted) && !slices.Contains(slices.Collect(maps.Values(run)), false)
	})
	t.Logf("%d pods ran again %s after their node's power was cut, with no server up", len(rebooted), time.Since(cut).Round(time.Millisecond))
	eventually(t, 20*time.Second, "all nodes answer", func() bool { // who knew its old link looks for the new one
		return !slices.ContainsFunc(urls, func(url string) bool {
			return exec.Command("curl", "-sf", "--max-time", "1", "-o", "/dev/null", url).Run() != nil
		})
	})
	reached("node rebooted")

	c.must(t, "dev", "server", "start", "1", "--name", c.name)
	c.whole(t, 1)
	c.settled(t, 6) // by what it knew before
	told := eventually(t, 15*time.Second, "w1 has told of the processes it has now", func() bool {
		return !slices.ContainsFunc(c.pods(t, "steady"), func(p *api.Pod) bool {
			_, booted := rebooted[p.Meta.UID]
			return booted && syscall.Kill(p.Status.Containers[api.MainContainer].PID, 0) != nil
		})
	})
	t.Logf("what runs on the node is known %s after the server was back", told.Round(time.Millisecond))
	time.Sleep(3 * time.Second) // would-be restarts
	for _, p := range c.pods(t, "steady") {
		main := p.Status.Containers[api.MainContainer]
		was, known := before[p.Meta.Name]
		_, booted := rebooted[p.Meta.UID]
		switch {
		case !known:
			t.Errorf("%s is new", p.Meta.Name)
		case booted && (syscall.Kill(main.PID, 0) != nil || main.PID == was[0]):
			t.Errorf("%s has process %d, had %v", p.Meta.Name, main.PID, was)
		case !booted && was != [2]int{main.PID, main.Restarts}:
			t.Errorf("%s has process and restarts %d and %d, had %v", p.Meta.Name, main.PID, main.Restarts, was)
		}
	}
	reached("the server is back")
}

// machine is the network of a machine, so that a test may break what is in it.
func (c *cluster) machine(t testing.TB, member string) *networktest.Machine {
	t.Helper()
	return networktest.At(t, "/run/clusterd/dev/"+c.name+"/netns/"+member)
}

// parts are the processes of a node's part: agent or containerd.
func (c *cluster) parts(t testing.TB, node, part string) (pids []int) {
	t.Helper()
	supervisors := c.supervisors(t, node)
	for _, pid := range processes(t, "nodeagent "+part) {
		if slices.Contains(supervisors, parent(pid)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (c *cluster) supervisors(t testing.TB, node string) []int {
	t.Helper()
	return processes(t, "nodeagent run ", "/"+c.name+"/"+node+" ")
}

// killAgent kills a node's agent, as kill -9 does.
func (c *cluster) killAgent(t testing.TB, node string) {
	t.Helper()
	pids := c.parts(t, node, "agent")
	if len(pids) != 1 {
		t.Fatalf("%s has agents %v", node, pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// rules changes a machine's nftables, in one transaction.
func rules(t testing.TB, m *networktest.Machine, change func(*nftables.Conn)) error {
	t.Helper()
	n, err := nftables.New(nftables.WithNetNSFd(m.FD()))
	if err != nil {
		return err
	}
	change(n)
	return n.Flush()
}

// flushRoutes removes all routes that no link of the machine brought along.
func flushRoutes(t testing.TB, m *networktest.Machine) error {
	t.Helper()
	nl := m.Netlink(t)
	routes, err := nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	gone := 0
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		if err := nl.RouteDel(&r); err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
		gone++
	}
	if gone == 0 {
		return fmt.Errorf("%s has no routes", m.Name)
	}
	return nil
}

// programmed lists the routes of a machine, and how much is in its nftables.
func programmed(t testing.TB, m *networktest.Machine) (out []string) {
	t.Helper()
	routes, err := m.Netlink(t).RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		out = append(out, fmt.Sprintf("route %s", r))
	}
	n, err := nftables.New(nftables.WithNetNSFd(m.FD()))
	if err != nil {
		t.Fatal(err)
	}
	chains, err := n.ListChains()
	if err != nil {
		return append(out, err.Error()) // it is being written
	}
	for _, ch := range chains {
		rules, err := n.GetRules(ch.Table, ch)
		out = append(out, fmt.Sprintf("chain %s %s: %d rules %v", ch.Table.Name, ch.Name, len(rules), err))
	}
	tables, err := n.ListTables()
	if err != nil {
		return append(out, err.Error())
	}
	for _, table := range tables {
		sets, err := n.GetSets(table)
		if err != nil {
			return append(out, err.Error())
		}
		for _, s := range sets {
			elements, err := n.GetSetElements(s)
			out = append(out, fmt.Sprintf("set %s %s: %d elements %v", table.Name, s.Name, len(elements), err))
		}
	}
	slices.Sort(out)
	return out
}
