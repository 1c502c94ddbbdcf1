package dev

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPlanSaysWhatCannotBe(t *testing.T) {
	for want, p := range map[string]Plan{
		"--name":    {Name: "Demo", Nodes: 3, Servers: 1},
		"--nodes":   {Name: "demo", Nodes: 0, Servers: 1},
		"--nodes 1": {Name: "demo", Nodes: 101, Servers: 1},
		"--servers": {Name: "demo", Nodes: 3, Servers: 8},
		"at most 8": {Name: "workloads", Nodes: 3, Servers: 1}, // nodes would not come up: a path too long
	} {
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", p, err, want)
		}
	}
	if err := (Plan{Name: "demo", Nodes: 3, Servers: 1}).Check(); err != nil {
		t.Error(err)
	}
}

// TestAddresses: every member has an address of its own inside the subnet, and
// two clusters share none.
func TestAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var taken []netip.Prefix
		seen := map[netip.Addr]string{}
		links := map[string]bool{}
		for _, name := range []string{"one", "two", "three"} {
			subnet, err := freeSubnet(taken)
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, subnet)
			p := Plan{Name: name, Subnet: subnet, Servers: 1, Nodes: rapid.IntRange(1, MaxNodes).Draw(t, "nodes")}
			if links[p.rootLink()] || len(p.rootLink()) > 15 {
				t.Fatalf("link %s", p.rootLink())
			}
			links[p.rootLink()] = true
			for _, m := range append(p.Members(), Member{Name: "gateway", Addr: p.Gateway()}) {
				if other, dup := seen[m.Addr]; dup || !subnet.Contains(m.Addr) {
					t.Fatalf("%s/%s has %s: other %q, subnet %s", name, m.Name, m.Addr, other, subnet)
				}
				seen[m.Addr] = name + "/" + m.Name
			}
		}
	})
}

func TestFreeSubnetKeepsAway(t *testing.T) {
	for _, c := range []struct {
		taken []string
		want  string
	}{
		{nil, "10.89.0.0/24"},
		{[]string{"0.0.0.0/0", "192.168.1.0/24"}, "10.89.0.0/24"},
		{[]string{"10.89.0.0/24", "10.89.2.0/24"}, "10.89.1.0/24"},
		{[]string{"10.89.0.0/23"}, "10.89.2.0/24"},
		{[]string{"10.89.0.128/25"}, "10.89.1.0/24"},
		{[]string{"10.0.0.0/8"}, ""},
	} {
		var taken []netip.Prefix
		for _, s := range c.taken {
			taken = append(taken, netip.MustParsePrefix(s))
		}
		got, err := freeSubnet(taken)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("beside %v: %s %v, want %s", c.taken, got, err, c.want)
		}
	}
}

func TestMemberByWord(t *testing.T) {
	p := Plan{Name: "demo", Subnet: netip.MustParsePrefix("10.89.0.0/24"), Servers: 1, Nodes: 12}
	for word, want := range map[string]string{"1": "w1", "w12": "w12", "12": "w12", "0": "", "13": "", "s1": "", "w": "", "": ""} {
		m, err := p.Member(word, false)
		if m.Name != want || (err == nil) != (want != "") {
			t.Errorf("node %q: %q %v, want %q", word, m.Name, err, want)
		}
	}
	if m, err := p.Member("1", true); err != nil || m.Name != "s1" {
		t.Errorf("server 1: %v %v", m, err)
	}
}

func TestShare(t *testing.T) {
	if cpu, mem := share(2, 24<<30, 3); cpu != "666m" || mem != "8192Mi" {
		t.Errorf("%s %s", cpu, mem)
	}
}

// TestExports: what is printed reaches the shell as it is, whatever is in it.
func TestExports(t *testing.T) {
	value := `a 'b' "c" $d \e` + "\nf"
	out, err := exec.Command("sh", "-c", exports("CLUSTERD_X", value)+`printf %s "$CLUSTERD_X"`).Output()
	if err != nil || string(out) != value {
		t.Errorf("got %q, want %q (%v)", out, value, err)
	}
}

// TestMirror: a build keeps its version while it is the same, and gets a newer
// one when it is not; old ones stay for a while.
func TestMirror(t *testing.T) {
	dir, provider := t.TempDir(), filepath.Join(t.TempDir(), "terraform-provider-clusterd")
	now := time.Unix(1_800_000_000, 0)
	build := func(content string) string {
		if err := os.WriteFile(provider, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		v, err := mirror(dir, provider, now)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	one := build("one")
	if again := build("one"); again != one {
		t.Errorf("the same build is %s, then %s", one, again)
	}
	if build("two") == one || build("one") == one {
		t.Error("another build has the same version")
	}
	for _, b := range []string{"three", "four"} {
		build(b)
	}
	versions := mirrored(filepath.Join(dir, "registry.terraform.io/clusterd/clusterd"))
	if len(versions) != mirrorKeep || versions[len(versions)-1] != "0.1.1800000006" {
		t.Errorf("kept %v", versions)
	}
	for _, host := range registries {
		found, _ := filepath.Glob(filepath.Join(dir, host, "clusterd/clusterd/0.1.1800000006/*/terraform-provider-clusterd_v0.1.1800000006"))
		if len(found) != 1 {
			t.Errorf("%s has %v", host, found)
		}
	}
	if _, err := mirror(dir, "/nonexistent", now); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("no provider: %v", err)
	}
}
