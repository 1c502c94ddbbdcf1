//go:build linux

package dev

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	s, err := parseStat([]byte("42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 11"))
	if err != nil || s.state != 'S' || s.start != 987654 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := parseStat([]byte("nothing")); err == nil {
		t.Error("accepted what is no stat")
	}
	if s, err := statOf(os.Getpid()); err != nil || s.state == 'Z' || s.start == 0 {
		t.Errorf("of this process: %+v %v", s, err)
	}
}

func TestInCgroup(t *testing.T) {
	file := "9:memory:/clusterd/demo/w1/pod\n0::/user.slice\n"
	for group, want := range map[string]bool{
		"/clusterd/demo/w1": true, "/clusterd/demo": true, "/clusterd/demo/w1/pod": true,
		"/clusterd/demo/w": false, "/clusterd/dem": false, "/clusterd/demo/w2": false,
	} {
		if got := inCgroup(file, group); got != want {
			t.Errorf("%s: %v", group, got)
		}
	}
}

func TestParseMounts(t *testing.T) {
	info := `24 1 254:0 / / rw - ext4 /dev/root rw
50 24 0:4 net:[4026532281] /run/clusterd/dev/demo/netns/w1 rw - nsfs nsfs rw
51 24 0:40 / /run/clusterd/dev/demo/w1/root\040fs rw - overlay overlay rw
52 24 0:4 net:[4026532999] /run/clusterd/dev/demo2/netns/w1 rw - nsfs nsfs rw
`
	got := fmt.Sprint(parseMounts(info, []string{"/run/clusterd/dev/demo"}))
	if want := "[{/ /run/clusterd/dev/demo/w1/root fs} {net:[4026532281] /run/clusterd/dev/demo/netns/w1}]"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// TestOwnProcessIsNeverInTerritory: whatever a cluster's records say, this
// machine's own namespace is not one of the cluster's.
func TestOwnProcessIsNeverInTerritory(t *testing.T) {
	c, err := Open(Config{Name: "nosuchcluster"})
	if err != nil {
		t.Fatal(err)
	}
	terr, err := c.territory(Member{Name: "w1"})
	if err != nil || len(terr.spaces) != 0 {
		t.Errorf("%+v %v", terr, err)
	}
	pids, err := terr.processes()
	if err != nil || len(pids) != 0 {
		t.Errorf("processes %v of a cluster that never was (%v)", pids, err)
	}
	if _, err := c.Plan(); err == nil || !strings.Contains(err.Error(), "clusterd dev up") {
		t.Errorf("plan: %v", err)
	}
}
