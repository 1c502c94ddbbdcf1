package server

import (
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestMetrics: what Prometheus reads of a server that leads, over the API.
func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	s, _ := start(t, dir, etcd)
	c := admin(t, s, dir)
	one := 1
	app := &api.App{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: api.AppSpec{Container: api.Container{Image: "fake/run"}, Replicas: &one}}
	if _, err := client.Of(c, api.Apps).Create(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Of(c, api.Apps).Get(t.Context(), "default", "none"); !api.Is(err, api.NotFound) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"clusterd_leader 1",
		"clusterd_store_up 1",
		"clusterd_cache_revisions_behind ",
		"clusterd_store_quota_bytes 8.589934592e+09",
		`clusterd_api_request_seconds_count{class="2xx",kind="App",verb="put"} 1`,
		`clusterd_api_request_seconds_count{class="4xx",kind="App",verb="get"} 1`,
		`clusterd_pods_pending{reason="unschedulable"} 1`, // there is no node
		"go_goroutines ",
	} {
		await(t, s, want)
	}
	if text := scraped(t, s); strings.Contains(text, "\nclusterd_watches 0\n") || !strings.Contains(text, "\nclusterd_watches ") {
		t.Errorf("the loops watch, and it says:\n%s", text)
	}
}

// await waits until the metrics have a line that begins with want.
func await(t *testing.T, s *Server, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		text := scraped(t, s)
		if strings.Contains(text, "\n"+want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %s in\n%s", want, text)
		}
	}
}

// pod is one at some moment of its life.
func pod(uid, node string, phase api.Phase, reason string, ready time.Duration) *api.Pod {
	p := &api.Pod{Meta: api.Meta{UID: uid, CreatedAt: born}, Spec: api.PodSpec{Node: node}, Status: api.PodStatus{Phase: phase, Reason: reason}}
	if ready > 0 {
		p.Status.Ready, p.Status.ReadyAt = true, born.Add(ready)
	}
	return p
}

var born = time.Now().Add(-time.Minute)

// TestPodIsObservedOnce: whatever a pod does after it was first ready, and
// whatever it had done before somebody looked.
func TestPodIsObservedOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, y := newMetrics(reg), young{}
	lives := [][]*api.Pod{
		{ // as most do; then it fails its checks for a while
			pod("a", "", "", "", 0), pod("a", "", "pending", "unschedulable", 0), pod("a", "n1", "pending", "", 0), pod("a", "n1", "starting", "pulling", 0),
			pod("a", "n1", "running", "", 0), pod("a", "n1", "running", "", 3*time.Second), pod("a", "n1", "running", "", 0), pod("a", "n1", "running", "", 9*time.Second), nil,
		},
		{pod("b", "n1", "running", "", 0), pod("b", "n1", "running", "", 3*time.Second), nil},                                // before this server led
		{pod("c", "", "", "", 0), pod("c", "n1", "pending", "", 0), pod("c", "n1", "failed", "", 0)},                         // never ready
		{pod("d", "", "", "", 0), pod("e", "", "", "", 0), pod("e", "n1", "pending", "", 0), nil},                            // deleted and made anew between two looks
		{pod("f", "", "", "", 0), pod("f", "n1", "running", "", 0), pod("f", "n1", "running", "", 30*time.Second), nil, nil}, // slow
	}
	for _, life := range lives {
		var was *api.Pod
		for _, is := range life {
			y.see(m, was, is)
			was = is
		}
	}
	if len(y) != 0 {
		t.Errorf("kept %v", y)
	}
	if n := count(t, reg, "clusterd_pod_scheduling_seconds"); n != 4 {
		t.Errorf("%d were placed, want a, c, e and f", n)
	}
	if n := count(t, reg, "clusterd_pod_startup_seconds"); n != 2 {
		t.Errorf("%d became ready, want a and f", n)
	}
}

func TestRolloutsAreObservedWhenTheyEnd(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg)
	app := func(phase api.RolloutPhase) *api.App {
		a := &api.App{}
		a.Status.Rollout = api.Rollout{Phase: phase, StartedAt: born}
		if phase.Terminal() {
			a.Status.Rollout.EndedAt = born.Add(time.Second)
		}
		return a
	}
	var was *api.App
	for _, phase := range []api.RolloutPhase{api.RolloutComplete, api.RolloutComplete, api.RolloutInProgress, api.RolloutComplete, api.RolloutComplete, api.RolloutInProgress, api.RolloutRolledBack} {
		is := app(phase)
		m.app(was, is)
		was = is
	}
	m.app(was, nil)
	if n := count(t, reg, "clusterd_rollout_seconds"); n != 2 {
		t.Errorf("%d rollouts, want one complete and one rolled_back", n)
	}
}

// TestTallyForgetsReasons: what no pod says any more is not shown with a zero.
func TestTallyForgetsReasons(t *testing.T) {
	reg := prometheus.NewRegistry()
	tally := newTally(newMetrics(reg).pending)
	for _, step := range [][2]*api.Pod{
		{nil, pod("a", "", "pending", "unschedulable", 0)},
		{nil, pod("b", "", "", "", 0)},
		{pod("b", "", "", "", 0), pod("b", "", "pending", "unschedulable", 0)},
		{pod("a", "", "pending", "unschedulable", 0), pod("a", "n1", "starting", "", 0)},
		{pod("a", "n1", "starting", "", 0), pod("a", "n1", "running", "crash_loop", 0)},
	} {
		tally.move(waitsFor(step[0]), waitsFor(step[1]))
	}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == "clusterd_pods_pending" {
			if text := family.String(); len(family.GetMetric()) != 1 || !strings.Contains(text, `"unschedulable"`) || family.GetMetric()[0].GetGauge().GetValue() != 1 {
				t.Errorf("want one that is unschedulable: %s", text)
			}
			return
		}
	}
	t.Error("nothing is pending")
}

// count is how many observations a histogram has, over all its labels.
func count(t *testing.T, reg *prometheus.Registry, name string) (n uint64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == name {
			for _, one := range family.GetMetric() {
				n += one.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

// scraped is what /metrics says to who may do everything.
func scraped(t *testing.T, s *Server) string {
	t.Helper()
	h := s.api.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "test"})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// TestGuideNamesMetrics: each metric of ours is in the operator's guide, and
// each that the guide names exists.
func TestGuideNamesMetrics(t *testing.T) {
	b, err := os.ReadFile("../../docs/guides/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, m := range regexp.MustCompile("`(clusterd_[a-z_]+)`").FindAllStringSubmatch(string(b), -1) {
		said[m[1]] = true
	}
	m := newMetrics(prometheus.NewRegistry())
	descs := make(chan *prometheus.Desc, 64)
	for _, c := range []prometheus.Collector{m.requests, m.scheduling, m.startup, m.rollouts, m.pending, m.nodes, scrape{m}} {
		c.Describe(descs)
	}
	close(descs)
	name := regexp.MustCompile(`fqName: "([a-z_]+)"`)
	for d := range descs {
		is := name.FindStringSubmatch(d.String())[1]
		if !said[is] && is != "clusterd_cache_revision" { // of use to compare servers only
			t.Errorf("the guide does not name %s", is)
		}
		delete(said, is)
	}
	for left := range said {
		t.Errorf("the guide names %s, which does not exist", left)
	}
}
