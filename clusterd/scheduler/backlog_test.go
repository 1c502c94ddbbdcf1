package scheduler

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// inOrder is what a plan for these pods looks at.
func inOrder(all []candidate) iter.Seq[candidate] {
	b := newBacklog()
	for _, w := range all {
		b.put(w)
	}
	return b.inOrder()
}

// Whatever happens to those that wait, a plan looks at those that it must, in
// their order.
func TestBacklogIsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, all := newBacklog(), map[string]candidate{}
		put := func(w candidate) {
			all[w.pod.Meta.UID] = w
			b.put(w)
		}
		for i := range rapid.IntRange(0, 60).Draw(t, "steps") {
			one := func() candidate {
				return all[rapid.SampledFrom(slices.Sorted(maps.Keys(all))).Draw(t, "which")]
			}
			what := rapid.SampledFrom([]string{"new", "new", "again", "park", "nominate", "awaken", "drop"}).Draw(t, "what")
			if len(all) == 0 {
				what = "new"
			}
			switch what {
			case "new":
				pod := testPod(fmt.Sprint("p", i%7), "web", "1m", "1Mi", &api.Placement{Priority: new(rapid.IntRange(0, 3).Draw(t, "priority"))})
				pod.Meta.UID, pod.Meta.CreatedAt = fmt.Sprint("u", i), time.Unix(int64(rapid.IntRange(0, 3).Draw(t, "created")), 0)
				put(newCandidate(pod))
			case "again":
				w := one()
				pod := *w.pod
				w.pod = &pod
				put(w)
			case "park", "nominate":
				w := one()
				w.parked, w.nominated = rapid.SampledFrom([]needs{needNode, needRoom, needPods}).Draw(t, "need"), ""
				if what == "nominate" {
					w.nominated = "w1"
				}
				put(w)
			case "awaken":
				better, want := rapid.SampledFrom([]needs{needNode, needRoom | needPods}).Draw(t, "better"), false
				for uid, w := range all {
					if w.parked&better != 0 {
						w.parked, want = 0, true
						all[uid] = w
					}
				}
				if got := b.awaken(better); got != want {
					t.Fatalf("awaken: %v", got)
				}
			case "drop":
				uid := one().pod.Meta.UID
				delete(all, uid)
				b.drop(uid)
			}
			var want []candidate
			awake := false
			for _, w := range all {
				if awake = awake || w.parked == 0; w.parked == 0 || w.nominated != "" {
					want = append(want, w)
				}
			}
			slices.SortFunc(want, order)
			if got := slices.Collect(b.inOrder()); !slices.Equal(got, want) || b.awake() != awake || !maps.Equal(b.all, all) {
				t.Fatalf("after %s: %v, awake %v, want\n%v, %v", what, got, b.awake(), want, awake)
			}
		}
	})
}
