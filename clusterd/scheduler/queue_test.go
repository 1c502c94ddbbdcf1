package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// However many wait, they come in their order, and none is lost.
func TestQueueIsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []candidate
		for i := range rapid.IntRange(0, 50).Draw(t, "pods") {
			pod := testPod(fmt.Sprint("p", i), "web", "1m", "1Mi", &api.Placement{Priority: new(rapid.IntRange(0, 3).Draw(t, "priority"))})
			pod.Meta.CreatedAt = time.Unix(int64(rapid.IntRange(0, 3).Draw(t, "created")), 0)
			all = append(all, newCandidate(pod))
		}
		want := slices.Clone(all)
		slices.SortStableFunc(want, order)
		q := newQueue(all)
		for i, w := range want {
			if got := q.next(); got.pod != w.pod {
				t.Fatalf("%d. is %s, not %s", i, got.pod.Meta.Name, w.pod.Meta.Name)
			}
		}
		if len(q) != 0 {
			t.Fatalf("%d are left", len(q))
		}
	})
}
