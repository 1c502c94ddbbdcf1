package apiserver

import (
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
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
