package apiserver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// The level never falls, and is never one that some server does not know.
func TestPlanLevel(t *testing.T) {
	if got := planLevel(1, nil); got != 1 {
		t.Errorf("nobody has registered: %d", got)
	}
	if got := planLevel(1, []int{2, 0, 3}); got != 1 {
		t.Errorf("one is from before there were levels: %d", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(1, 4).Draw(t, "at")
		known := rapid.SliceOfN(rapid.IntRange(at, 5), 1, 5).Draw(t, "known")
		got, all := planLevel(at, known), false
		for _, l := range known {
			if got > l {
				t.Fatalf("%d, which one of %v does not know", got, known)
			}
			all = all || got == l
		}
		if !all || got < at {
			t.Fatalf("%d of %v, from %d", got, known, at)
		}
	})
}

// A server opens the store of a cluster at its own level, or at the one before.
func TestLevelOfAStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	open := func(level int) error {
		conf := etcdConfig(t, filepath.Join(dir, "store"))
		conf.NoSync = true
		s, err := Open(t.Context(), Config{Name: "s1", Version: "0.9", Level: level, Etcd: conf, Keys: set})
		if err != nil {
			return err
		}
		return s.Close()
	}
	for _, tc := range []struct {
		level int
		want  string
	}{
		{3, ""}, {3, ""}, {4, ""},
		{2, "the cluster is at level 3 (so made by server s1, version 0.9), and this server, version 0.9, knows level 2: this server's version is too old"},
		{5, "knows level 5: this server's version is too new for that"},
	} {
		if err := open(tc.level); tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("level %d: %v, want %q", tc.level, err, tc.want)
		}
	}
}

// A server that could not be one of the cluster is told so, and uses nothing up.
func TestLevelOfAServerThatJoins(t *testing.T) {
	c := startTLS(t, Config{Level: 3})
	tok := c.token(t, api.TokenSpec{Role: api.RoleServer, MaxUses: 1})
	for level, want := range map[int]string{
		0: "knows level 1: this server's version is too old", 2: "version is too old", 5: "version is too new",
		3: "keeps its state in memory", 4: "keeps its state in memory", // so far it came
	} {
		_, err := pki.Join(t.Context(), c.addr, tok, pki.JoinRequest{Role: pki.Server, Name: "s2", Level: level})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("level %d: %v, want %q", level, err, want)
		}
	}
}

// before is a store as servers of level 1 use it: of binds they see and leave
// the nodes' guards only.
type before struct{ store.Store }

func (b before) Commit(ctx context.Context, t store.Txn) (int64, error) {
	t.If = slices.DeleteFunc(t.If, func(c store.Compare) bool { return c.Key == bindGuard })
	t.Then = slices.DeleteFunc(t.Then, func(o store.Op) bool { return o.Key == bindGuard })
	return b.Store.Commit(ctx, t)
}

// TestBindsOfTwoBuildsExcludeEachOther: two servers decide on the same state to
// bind pods to a node that has room for one. Whoever comes second is refused,
// also while one of them is of the build before.
func TestBindsOfTwoBuildsExcludeEachOther(t *testing.T) {
	set := must(keys.New("test"))(t)
	for _, tc := range []struct {
		level int // of the cluster
		old   bool
		keeps []string // guards after a bind to w1
	}{
		{1, true, []string{bindGuard, nodeGuard("w1")}},
		{1, false, []string{bindGuard, nodeGuard("w1")}},
		{2, false, []string{bindGuard}},
	} {
		t.Run(fmt.Sprintf("level %d, old %t", tc.level, tc.old), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := store.NewMemory()
				of1 := Config{Name: "s1", Level: tc.level, Keys: set, shared: memory}
				if tc.old {
					of1.shared = before{memory}
				}
				s1, stop := run(t, of1)
				defer stop()
				s2, stop := run(t, Config{Name: "s2", Level: 2, Keys: set, shared: memory})
				defer stop()
				c := client.InProcess(s2.InProcess(system))
				for node, order := range map[string][]*Server{"w1": {s1, s2}, "w2": {s2, s1}} {
					makeNode(t, c, node, "1", "1Gi")
					binds := make([]*txn, len(order))
					for i := range order {
						makePod(t, c, fmt.Sprint(node, "-", i), "600m", "64Mi")
					}
					for i, s := range order {
						binds[i] = s.newTxn(must(s.cache.latest(t.Context()))(t), caller{Identity: system})
						if err := binds[i].bind(api.Binding{Namespace: "default", Pod: fmt.Sprint(node, "-", i), Node: node}); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := order[0].store.Commit(t.Context(), binds[0].store()); err != nil {
						t.Fatal(err)
					}
					_, err := order[1].store.Commit(t.Context(), binds[1].store())
					if _, clash := errors.AsType[*store.ConflictError](err); !clash {
						t.Errorf("%s has room for one: the second bind, by %s, got %v", node, order[1].cfg.Name, err)
					}
				}
				for _, guard := range []string{bindGuard, nodeGuard("w1")} {
					_, err := memory.Get(t.Context(), guard)
					if kept := err == nil; kept != slices.Contains(tc.keeps, guard) {
						t.Errorf("guard %s: %v", guard, err)
					}
				}
				if err := client.Of(c, api.Nodes).Delete(t.Context(), "", "w1", ""); err != nil {
					t.Fatal(err)
				}
				if _, err := memory.Get(t.Context(), nodeGuard("w1")); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("the guard of a node that is gone: %v", err)
				}
			})
		})
	}
}
