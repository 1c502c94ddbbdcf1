package server

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// metrics are what a server says of itself at /metrics, next to what every
// program does. What pods, rollouts and nodes do is said by the leader alone,
// so that sums over all servers are right.
type metrics struct {
	vitals func(context.Context) apiserver.Vitals // nil until the API is open

	requests   *prometheus.HistogramVec
	scheduling prometheus.Histogram
	startup    prometheus.Histogram
	rollouts   *prometheus.HistogramVec
	pending    *prometheus.GaugeVec
	nodes      *prometheus.GaugeVec
}

// Buckets, in seconds: of what is to take milliseconds, and of what may take
// minutes.
var (
	fastBuckets = []float64{.001, .0025, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}
	slowBuckets = []float64{.1, .2, .5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600}
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "clusterd_api_request_seconds", Buckets: fastBuckets,
			Help: "How long requests took, by what they do, to which kind, and the class of the answer. Without watches and other streams."}, []string{"verb", "kind", "class"}),
		scheduling: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clusterd_pod_scheduling_seconds", Buckets: slowBuckets,
			Help: "From a pod's creation until it had a node. Of the leader."}),
		startup: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clusterd_pod_startup_seconds", Buckets: slowBuckets,
			Help: "From a pod's creation until it was ready for the first time. Of the leader."}),
		rollouts: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "clusterd_rollout_seconds", Buckets: slowBuckets,
			Help: "How long rollouts took, by how they ended. Of the leader."}, []string{"outcome"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "clusterd_pods_pending",
			Help: "Pods that do not run yet, by the reason they give. Of the leader."}, []string{"reason"}),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "clusterd_nodes",
			Help: "Nodes, by the verdict on their health. Of the leader."}, []string{"verdict"}),
	}
	reg.MustRegister(m.requests, m.scheduling, m.startup, m.rollouts, m.pending, m.nodes, scrape{m})
	return m
}

// Request implements apiserver.Meter.
func (m *metrics) Request(verb, kind string, code int, took time.Duration) {
	m.requests.WithLabelValues(verb, kind, fmt.Sprintf("%dxx", code/100)).Observe(took.Seconds())
}

// follow counts what pods, apps and nodes do for as long as this server leads.
func (m *metrics) follow(ctx context.Context, caches *reconcile.Caches) error {
	pending, nodes, young := newTally(m.pending), newTally(m.nodes), young{}
	defer m.pending.Reset() // after the last change
	defer m.nodes.Reset()
	for _, stop := range []func(){
		caches.Pods.OnChange(func(was, is *api.Pod) {
			pending.move(waitsFor(was), waitsFor(is))
			young.see(m, was, is)
		}),
		caches.Apps.OnChange(m.app),
		caches.Nodes.OnChange(func(was, is *api.Node) { nodes.move(verdict(was), verdict(is)) }),
	} {
		defer stop()
	}
	<-ctx.Done()
	return nil
}

// young are pods that were seen without a node, and have not been ready yet, by
// their uid; true once they have a node.
type young map[string]bool

// see observes the steps of a pod that it is seen to take.
func (y young) see(m *metrics, was, is *api.Pod) {
	if was != nil && (is == nil || is.Meta.UID != was.Meta.UID) {
		delete(y, was.Meta.UID)
	}
	if is == nil {
		return
	}
	uid := is.Meta.UID
	placed, known := y[uid]
	switch {
	case is.Status.Phase.Ended():
		delete(y, uid)
	case !known && is.Spec.Node == "":
		y[uid] = false
	case known && !placed && is.Spec.Node != "":
		m.scheduling.Observe(time.Since(is.Meta.CreatedAt).Seconds())
		y[uid] = true
	case known && is.Status.Ready:
		m.startup.Observe(is.Status.ReadyAt.Sub(is.Meta.CreatedAt).Seconds())
		delete(y, uid)
	}
}

// app observes the rollouts that it was seen to end.
func (m *metrics) app(was, is *api.App) {
	if was == nil || is == nil {
		return
	}
	if r := is.Status.Rollout; r.Phase.Terminal() && !was.Status.Rollout.Phase.Terminal() && !r.EndedAt.IsZero() {
		m.rollouts.WithLabelValues(string(r.Phase)).Observe(r.EndedAt.Sub(r.StartedAt).Seconds())
	}
}

// waitsFor is the reason of a pod that does not run yet; "" of one that does,
// has ended, or is no more.
func waitsFor(p *api.Pod) string {
	if p == nil || p.Meta.Deleting() {
		return ""
	}
	switch p.Status.Phase {
	case "", api.PhasePending, api.PhaseStarting:
	default:
		return ""
	}
	if p.Status.Reason != "" {
		return p.Status.Reason
	}
	if p.Spec.Node == "" {
		return "unplaced"
	}
	return "starting"
}

// verdict is that on a node's health; "" of one that is no more.
func verdict(n *api.Node) string {
	if n == nil {
		return ""
	}
	return string(cmp.Or(n.Status.Health.Verdict, api.VerdictJoining))
}

// tally counts things by a word each; "" counts nowhere.
type tally struct {
	gauge *prometheus.GaugeVec
	n     map[string]int
}

func newTally(g *prometheus.GaugeVec) *tally { return &tally{gauge: g, n: map[string]int{}} }

func (t *tally) move(from, to string) {
	if from == to {
		return
	}
	if from != "" {
		if t.n[from]--; t.n[from] == 0 { // reasons come and go: none stays with a zero
			delete(t.n, from)
			t.gauge.DeleteLabelValues(from)
		} else {
			t.gauge.WithLabelValues(from).Set(float64(t.n[from]))
		}
	}
	if to != "" {
		t.n[to]++
		t.gauge.WithLabelValues(to).Set(float64(t.n[to]))
	}
}

// scrape reads the server's vitals whenever somebody asks.
type scrape struct{ *metrics }

var (
	leaderDesc   = prometheus.NewDesc("clusterd_leader", "1 if this server leads.", nil, nil)
	levelDesc    = prometheus.NewDesc("clusterd_level", "Level of the cluster: what all its servers know.", nil, nil)
	watchesDesc  = prometheus.NewDesc("clusterd_watches", "Watches that this server serves.", nil, nil)
	seatsDesc    = prometheus.NewDesc("clusterd_api_seats", "Seats that requests at work take: one each, and a list one more for some hundred objects.", nil, nil)
	waitingDesc  = prometheus.NewDesc("clusterd_api_requests_waiting", "Requests that wait for their turn.", nil, nil)
	refusedDesc  = prometheus.NewDesc("clusterd_api_requests_refused_total", "Requests that were answered with 429: their client had too many, or they waited too long.", nil, nil)
	revisionDesc = prometheus.NewDesc("clusterd_cache_revision", "Revision up to which this server has seen everything.", nil, nil)
	behindDesc   = prometheus.NewDesc("clusterd_cache_revisions_behind", "Revisions that the store was ahead of the cache. Absent while the store does not answer.", nil, nil)
	reachedDesc  = prometheus.NewDesc("clusterd_store_up", "1 if the store answers, which takes a majority of the servers.", nil, nil)
	sizeDesc     = prometheus.NewDesc("clusterd_store_bytes", "Size of this server's store.", nil, nil)
	inUseDesc    = prometheus.NewDesc("clusterd_store_in_use_bytes", "What data takes of it.", nil, nil)
	quotaDesc    = prometheus.NewDesc("clusterd_store_quota_bytes", "Size at which it takes only deletes.", nil, nil)
)

// Describe implements prometheus.Collector.
func (scrape) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaderDesc, levelDesc, watchesDesc, seatsDesc, waitingDesc, refusedDesc, revisionDesc, behindDesc, reachedDesc, sizeDesc, inUseDesc, quotaDesc} {
		ch <- d
	}
}

// storeWait is how long a scrape waits for the store.
const storeWait = time.Second

// Collect implements prometheus.Collector.
func (s scrape) Collect(ch chan<- prometheus.Metric) {
	if s.vitals == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeWait)
	defer cancel()
	now := s.vitals(ctx)
	send := func(d *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	is := map[bool]int64{true: 1}
	send(leaderDesc, is[now.Leads])
	send(levelDesc, int64(now.Level))
	send(watchesDesc, int64(now.Watches))
	send(seatsDesc, int64(now.Seats))
	send(waitingDesc, int64(now.Waiting))
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(now.Refused))
	send(revisionDesc, now.Revision)
	send(reachedDesc, is[now.Behind >= 0])
	if now.Behind >= 0 {
		send(behindDesc, now.Behind)
	}
	if now.StoreQuota > 0 {
		send(sizeDesc, now.StoreSize)
		send(inUseDesc, now.StoreInUse)
		send(quotaDesc, now.StoreQuota)
	}
}
