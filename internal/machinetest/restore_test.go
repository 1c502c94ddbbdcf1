package machinetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestServersReplaced: by the commands of the operator's guide, a fourth server
// joins and a dead one is removed, under writes of which none is lost. A
// snapshot, restored after all servers were wiped, brings back objects and
// secrets; when two of three are wiped, recover goes on with the third, and the
// others join again. No pod notices any of it.
func TestServersReplaced(t *testing.T) {
	soak(t)
	c := upWith(t, "replaced", 3, 3)
	c.fleet(t, 30099)
	c.env = append(c.env, "TF_VAR_url="+canaries[0])
	c.terraform(t, keeper).apply(t)
	c.whole(t, 3)
	before, keeping := c.pids(t, "steady"), c.pids(t, "keeper")
	load := startLoadOf(1, c.at(t, 30099)...)
	unharmed := func(t *testing.T) {
		t.Helper()
		c.settled(t, 6)
		c.unharmed(t, before)
		if now := c.pids(t, "keeper"); fmt.Sprint(now) != fmt.Sprint(keeping) {
			t.Errorf("the secret's consumer has process and restarts %v, had %v", now, keeping)
		}
	}
	step := func(name string, f func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, f)
		}
	}

	step("one joins, a dead one is removed", func(t *testing.T) {
		w := c.write(t)
		w.goesOn(t, 100)
		c.admit(t, "s4")
		c.must(t, "dev", "up", "--name", c.name, "--servers", "4")
		c.whole(t, 4)
		w.goesOn(t, 100)
		c.must(t, "dev", "server", "stop", "s2", "--name", c.name)
		w.Turn()
		c.must(t, "delete", "server", "s2")
		c.whole(t, 3)
		w.goesOn(t, 100)
		if out := c.must(t, "get", "servers"); strings.Contains(out, "s2") {
			t.Errorf("s2 is still there:\n%s", out)
		}
		w.end(t)
		unharmed(t)
	})
	step("snapshot, wipe, restore", func(t *testing.T) {
		dir := t.TempDir()
		snap, phrase := filepath.Join(dir, "cluster.snap"), filepath.Join(dir, "passphrase")
		if err := os.WriteFile(phrase, []byte("correct horse battery staple\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.must(t, "role", "set", "kept", "--rule", "read nodes")
		was := c.objects(t)
		c.must(t, "snapshot", "save", snap, "--passphrase-file", phrase)
		c.must(t, "snapshot", "inspect", snap)
		c.must(t, "role", "set", "late", "--rule", "read nodes")
		c.wipe(t, "s1", "s2", "s3", "s4")
		c.must(t, "snapshot", "restore", snap, "--passphrase-file", phrase, "--name", "s1", "--advertise", c.address(t, "s1"), "--data-dir", c.disk("s1"))
		c.must(t, "dev", "server", "start", "s1", "--name", c.name)
		c.meet(t)
		c.whole(t, 1)
		same(t, "restored", was, c.objects(t))
		unharmed(t)
	})
	step("most are lost, recover", func(t *testing.T) {
		for n, server := range []string{"s2", "s3"} {
			c.admit(t, server)
			c.must(t, "dev", "server", "start", server, "--name", c.name)
			c.whole(t, n+2)
		}
		was := c.objects(t)
		c.wipe(t, "s2", "s3")
		if out := c.try("role", "set", "hopeless", "--rule", "read nodes"); !strings.Contains(out, "exit status") {
			t.Errorf("one of three servers wrote: %s", out)
		}
		c.must(t, "dev", "server", "stop", "s1", "--name", c.name)
		c.must(t, "recover", "--data-dir", c.disk("s1"), "--name", "s1", "--advertise", c.address(t, "s1"))
		c.must(t, "dev", "server", "start", "s1", "--name", c.name)
		c.whole(t, 1)
		for n, server := range []string{"s2", "s3"} {
			c.admit(t, server)
			c.must(t, "dev", "server", "start", server, "--name", c.name)
			c.whole(t, n+2)
		}
		same(t, "recovered", was, c.objects(t))
		unharmed(t)
	})
	load.mustBeClean(t, "servers that come, go and are lost")
	step("the secret is read anew", func(t *testing.T) {
		old := c.pods(t, "keeper")[0].Meta.UID
		c.must(t, "restart", "app/keeper")
		eventually(t, time.Minute, "another pod has the secret", func() bool {
			pods := c.pods(t, "keeper")
			return len(pods) == 1 && pods[0].Meta.UID != old && pods[0].Status.Ready
		})
		if got := strings.TrimSpace(c.must(t, "exec", "app/keeper", "--", "cat", "/run/url")); got != canaries[0] {
			t.Errorf("the secret is %q, was %q", got, canaries[0])
		}
	})
}

// admit makes a token for a server, as the guide says, and leaves it where it
// will be read when the server starts.
func (c *cluster) admit(t testing.TB, server string) {
	t.Helper()
	token := lastWord(c.must(t, "token", "create", "--role", "server", "--uses", "1", "--ttl", "1h", "--for", server))
	if err := os.WriteFile(filepath.Join("/run/clusterd/dev", c.name, "server.token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wipe kills servers, and leaves nothing of their state.
func (c *cluster) wipe(t testing.TB, servers ...string) {
	t.Helper()
	for _, s := range servers {
		c.must(t, "dev", "server", "stop", s, "--name", c.name)
	}
	for _, s := range servers {
		if err := os.RemoveAll(c.disk(s)); err != nil {
			t.Fatal(err)
		}
	}
}

// address is where a server of the cluster is, by the number in its name.
func (c *cluster) address(t testing.TB, server string) string {
	t.Helper()
	for line := range strings.Lines(c.must(t, "dev", "status", "--name", c.name)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == server {
			return f[1]
		}
	}
	t.Fatalf("there is no %s", server)
	return ""
}

// objects lists what users have written, and what was made of it: names, ids
// and generations.
func (c *cluster) objects(t testing.TB) (out []string) {
	t.Helper()
	out = slices.Concat(metas(get(t, c, api.Apps)), metas(get(t, c, api.Services)), metas(get(t, c, api.Secrets)), metas(get(t, c, api.Configs)),
		metas(get(t, c, api.Roles)), metas(get(t, c, api.Namespaces)), metas(get(t, c, api.Nodes)), metas(get(t, c, api.Pods)))
	slices.Sort(out)
	return out
}

// same fails t if something is gone or new.
func same(t testing.TB, how string, was, now []string) {
	t.Helper()
	for what, lists := range map[string][2][]string{"gone": {was, now}, "new": {now, was}} {
		if rest := slices.DeleteFunc(slices.Clone(lists[0]), func(o string) bool { return slices.Contains(lists[1], o) }); len(rest) > 0 {
			t.Errorf("%s: %d objects are %s, the first: %s", how, len(rest), what, rest[0])
		}
	}
}

func metas[O api.Any](all []O) (out []string) {
	for _, o := range all {
		out = append(out, fmt.Sprintf("%s %s generation %d", o.Ref(), o.GetMeta().UID, o.GetMeta().Generation))
	}
	return out
}
