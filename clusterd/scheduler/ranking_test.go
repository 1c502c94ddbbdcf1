package scheduler

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A ranking answers what a scan does, whatever came and went in between.
func TestRankingIsTheScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPicture()
		nodes := rapid.IntRange(1, 9).Draw(t, "nodes")
		for i := range nodes {
			labels := map[string]string{"disk": rapid.SampledFrom([]string{"ssd", "hdd"}).Draw(t, "disk")}
			p.setNode(testNode(fmt.Sprint("w", i), fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "cpu")), "1Gi", rapid.IntRange(1, 4).Draw(t, "room"), labels, api.VerdictReady, false))
		}
		var classes []*class
		for i, at := range []*api.Placement{nil, {Require: map[string]string{"disk": "ssd"}}, {Prefer: map[string]string{"disk": "hdd"}}} {
			classes = append(classes, p.newClass(newCandidate(testPod(fmt.Sprint("of", i), fmt.Sprint("app", i), "300m", "100Mi", at)).request))
		}
		var placed []string
		for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(placed) > 0 && rapid.IntRange(0, 3).Draw(t, "goes") == 0 {
				p.unplace(placed[0])
				placed = placed[1:]
				continue
			}
			c := rapid.SampledFrom(classes).Draw(t, "class")
			want, got := p.scan(c, nil), p.best(c)
			if got != want {
				t.Fatalf("step %d: the ranking says %d, the scan %d", n, got, want)
			}
			if got >= 0 {
				uid := fmt.Sprint("uid", n)
				p.take(uid, c.request, got, nil)
				placed = append(placed, uid)
			}
		}
	})
}
