package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// loadsOf are pods that reserve 100m and 100 bytes, each using a percentage of
// both; less than 0 is not known.
func loadsOf(percent ...int64) (out []load) {
	for _, p := range percent {
		l := load{cpu: 100, memory: 100}
		if p >= 0 {
			l.usage = &api.PodUsage{CPU: p, Memory: p}
		}
		out = append(out, l)
	}
	return out
}

func TestEnough(t *testing.T) {
	s := api.Scale{Min: new(1), Max: 10, CPU: new(50)}
	for _, test := range []struct {
		name  string
		n     int
		loads []load
		want  int
	}{
		{"at its target", 2, loadsOf(50, 50), 2},
		{"within the tolerance", 2, loadsOf(54, 54), 2},
		{"twice the load", 2, loadsOf(100, 100), 4},
		{"uneven", 3, loadsOf(150, 0, 0), 3},
		{"half the load", 4, loadsOf(25, 25, 25, 25), 2},
		{"no load", 4, loadsOf(0, 0, 0, 0), 1},
		{"far too much", 4, loadsOf(500, 500, 500, 500), 10},
		{"nothing known", 4, loadsOf(-1, -1, -1, -1), 4},
		{"some unknown, idle", 4, loadsOf(0, 0, 0, -1), 4},
		{"some unknown, busy", 3, loadsOf(100, 100, -1), 5},
		{"some not ready, idle", 4, loadsOf(0, 0), 4},
		{"nobody ready", 4, nil, 4},
	} {
		if got := enough(s, test.n, test.loads); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	both := api.Scale{Min: new(1), Max: 10, CPU: new(100), Memory: new(25)}
	if got := enough(both, 2, loadsOf(50, 50)); got != 4 {
		t.Errorf("the scarcer counts: %d", got)
	}
}

// TestPlanScaleKeepsItsPromises: never below min, above max, fewer on what is
// not known, and no move that its window does not cover.
func TestPlanScaleKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := rapid.IntRange(1, 5).Draw(t, "min")
		s := api.Scale{Min: &least, Max: least + rapid.IntRange(0, 10).Draw(t, "more"), CPU: new(rapid.IntRange(10, 200).Draw(t, "cpu")), UpWindow: "30s", DownWindow: "2m"}
		n, now := rapid.IntRange(0, 20).Draw(t, "desired"), noon
		var trend []opinion
		begun := now
		for range rapid.IntRange(1, 30).Draw(t, "rounds") {
			loads := loadsOf(rapid.SliceOfN(rapid.Int64Range(-1, 300), 0, 8).Draw(t, "loads")...)
			was := min(max(n, least), s.Max)
			blind := false
			for _, l := range loads {
				blind = blind || l.usage == nil
			}
			n, trend = planScale(s, n, loads, trend, now)
			switch {
			case n < least || n > s.Max:
				t.Fatalf("%d is not within %d and %d", n, least, s.Max)
			case blind && n < was:
				t.Fatalf("%d after %d, and some pods are not known", n, was)
			case n > was && now.Sub(begun) < 30*time.Second, n < was && now.Sub(begun) < 2*time.Minute:
				t.Fatalf("%d after %d, %s after the start", n, was, now.Sub(begun))
			case len(trend) > 12:
				t.Fatalf("%d opinions are kept", len(trend))
			}
			now = now.Add(scaleEvery)
		}
	})
}

// TestAppFollowsItsLoad: more pods within seconds, fewer after the window; the
// spec stays as declared, and steady usage writes nothing.
func TestAppFollowsItsLoad(t *testing.T) {
	var percent atomic.Int64
	percent.Store(50)
	var w *world
	measure := func(x *world, h http.Handler) http.Handler {
		w = x
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/usage" {
				h.ServeHTTP(rw, r)
				return
			}
			var said api.UsageAnswer
			for _, p := range w.pods() {
				if p.Status.Ready {
					said.Items = append(said.Items, api.PodUsage{UID: p.Meta.UID, CPU: percent.Load()})
				}
			}
			rw.Header().Set("Content-Type", "application/json")
			json.NewEncoder(rw).Encode(said)
		})
	}
	inWorld(t, 3, measure, func(w *world) {
		const spec = `{"image":"good:%d","cpu":"100m","scale":{"min":2,"max":5,"cpu":50}}`
		g := w.apply("web", fmt.Sprintf(spec, 1))
		if ro := w.ended("web", g, 20*time.Second); ro.Phase != api.RolloutComplete || w.readyPods("") != 2 {
			t.Fatalf("%+v", ro)
		}
		time.Sleep(time.Minute)
		revision := w.app("web").Meta.Revision
		time.Sleep(10 * time.Minute)
		if a := w.app("web"); a.Meta.Revision != revision {
			t.Errorf("steady usage writes: revision %d after %d", a.Meta.Revision, revision)
		}
		percent.Store(100)
		w.eventually("more pods", time.Minute, func() bool { return w.readyPods("") == 4 && w.app("web").Status.Desired == 4 })
		percent.Store(50)
		time.Sleep(10 * time.Minute)
		if n := w.readyPods(""); n != 4 {
			t.Errorf("%d pods at the target", n)
		}
		percent.Store(5)
		time.Sleep(4 * time.Minute)
		if n := w.readyPods(""); n != 4 {
			t.Errorf("%d pods before the window is over", n)
		}
		w.eventually("fewer pods", 3*time.Minute, func() bool { return w.readyPods("") == 2 })
		a := w.app("web")
		if a.Meta.Generation != g || a.Status.Rollout.Number != 1 || a.Spec.Replicas != nil {
			t.Errorf("the scaler wrote the spec: %+v", a)
		}
		if ro := w.ended("web", w.apply("web", fmt.Sprintf(spec, 2)), 2*time.Minute); ro.Phase != api.RolloutComplete {
			t.Errorf("an update while it scales: %+v", ro)
		}
	})
}
