package apiserver

import (
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
)

func TestPlanMembers(t *testing.T) {
	self := store.Member{ID: 1, Name: "s1", Address: "a:1", Self: true, Leader: true}
	two, three := store.Member{ID: 2, Name: "s2", Address: "b:1"}, store.Member{ID: 3, Name: "s3", Address: "c:1", Learner: true}
	for name, tc := range map[string]struct {
		members []store.Member
		peers   string
		want    string
	}{
		"the founder has not registered": {[]store.Member{self}, "", ""},
		"all is as it should be":         {[]store.Member{self, two}, "a:1 b:1", ""},
		"a learner that has started":     {[]store.Member{self, two, three}, "a:1 b:1 c:1", "~ c:1 learner -> voter\n"},
		"a learner that never started":   {[]store.Member{self, {ID: 4, Address: "d:1", Learner: true}}, "a:1 d:1", ""},
		"one was deleted":                {[]store.Member{self, two, three}, "a:1 c:1", "~ c:1 learner -> voter\n- b:1\n"},
		"one that joins was deleted":     {[]store.Member{self, two, three}, "a:1 b:1", "- c:1\n"},
		"the leader was deleted":         {[]store.Member{self, two}, "b:1", "yield\n"},
	} {
		peers := map[string]string{}
		for _, p := range strings.Fields(tc.peers) {
			peers[p] = "s"
		}
		if got := planMembers(tc.members, peers).String(); got != tc.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, tc.want)
		}
	}
}
