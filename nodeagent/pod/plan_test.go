package pod

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/golden"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// noon is now in every golden file.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func testPod() *api.Pod {
	three := 3
	return &api.Pod{
		Kind: "Pod", Meta: api.Meta{Name: "web-1", Namespace: "shop", UID: "u1"},
		Spec: api.PodSpec{App: "web", Node: "w1", PodTemplate: api.PodTemplate{
			Container: api.Container{Image: "nginx:1", CPU: "100m", Memory: "64Mi", Ports: map[string]api.Port{"http": "80"},
				Health: &api.Health{HTTP: "/", Interval: "2s", Timeout: "1s", GracePeriod: "10s", Threshold: &three}},
			Stop: &api.Stop{GracePeriod: "10s"},
		}},
	}
}

// TestPlan is one golden file per situation. A file has the parts pod (changes
// to the standard one), record, facts and plan; facts name runs main/0.
func TestPlan(t *testing.T) {
	golden.Plans(t, "testdata", func(t *testing.T, given map[string][]byte) string {
		pod, rec, see := testPod(), record{}, facts{}
		for name, into := range map[string]any{"pod": pod, "record": &rec, "facts": &see} {
			if b, ok := given[name]; ok {
				if err := json.Unmarshal(b, into); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		see.Runs = named(see.Runs)
		return whole(planPod(pod, rec, see, noon))
	})
}

// named gives runs that a test calls main/0 their id and labels.
func named(runs map[string]runtime.Status) map[string]runtime.Status {
	out := map[string]runtime.Status{}
	for key, r := range runs {
		name, attempt, _ := strings.Cut(key, "/")
		n := 0
		fmt.Sscan(attempt, &n)
		r.ID, r.Labels = ID("u1", name, n), map[string]string{LabelContainer: name, LabelAttempt: attempt, LabelUID: "u1"}
		out[r.ID] = r
	}
	return out
}

// whole is the plan with what it leaves in the record.
func whole(p podPlan) string {
	var b strings.Builder
	b.WriteString(p.String())
	if !p.Again.IsZero() {
		fmt.Fprintf(&b, "again in %s\n", p.Again.Sub(noon))
	}
	rec, err := json.MarshalIndent(p.Record, "", "  ")
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(&b, "%s\n", rec)
	return b.String()
}

func TestBackoffBounds(t *testing.T) {
	for n := 1; n < 100; n++ {
		for _, j := range []float64{0, 0.5, 0.999} {
			d := backoff(time.Second, time.Minute, n, j)
			if d > time.Minute || d < 750*time.Millisecond {
				t.Errorf("backoff(%d, %g) is %s", n, j, d)
			}
			if n > 1 && backoff(time.Second, time.Minute, n, 0) < backoff(time.Second, time.Minute, n-1, 0) {
				t.Errorf("backoff shrinks at %d", n)
			}
		}
	}
}

func TestID(t *testing.T) {
	for name, want := range map[string]string{
		"main":                            "u.main.3",
		"a--b":                            "u.c258cd9e8.3",
		"a-very-long-name-for-a-sidecar":  "u.c",
		"a-very-long-name-for-a-sidecar2": "u.c",
	} {
		if got := ID("u", name, 3); !strings.HasPrefix(got, want) && got != want || len(got) > 40 {
			t.Errorf("ID of %s is %s", name, got)
		}
	}
	if ID("u", "a-very-long-name-for-a-sidecar", 0) == ID("u", "a-very-long-name-for-a-sidecar2", 0) {
		t.Error("two containers share an id")
	}
}
