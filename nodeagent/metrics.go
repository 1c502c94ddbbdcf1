//go:build linux

package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
)

// metrics are what a node says of itself, next to what every program does. They
// are asked for through a server: nobody connects to a node.
type metrics struct {
	pods  func() map[string]pod.View // nil until the agent runs
	lease func() (time.Duration, bool)

	programmed prometheus.Histogram
}

var (
	podsDesc     = prometheus.NewDesc("clusterd_node_pods", "Pods of the node, by phase.", []string{"phase"}, nil)
	runningDesc  = prometheus.NewDesc("clusterd_node_containers_running", "Containers that run.", nil, nil)
	restartsDesc = prometheus.NewDesc("clusterd_node_container_restarts", "How often the containers of the pods that are here were started again.", nil, nil)
	leaseDesc    = prometheus.NewDesc("clusterd_node_lease_left_seconds", "How long the node may run stateful pods without word from a leader. Absent where no pod needs it.", nil, nil)
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{programmed: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "clusterd_node_services_programmed_seconds", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		Help: "How long the kernel took for a change of services or their endpoints.",
	})}
	reg.MustRegister(m.programmed, m)
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsDesc, runningDesc, restartsDesc, leaseDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	if m.pods == nil {
		return
	}
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	phases, running, restarts := map[string]int{}, 0, 0
	for _, p := range m.pods() {
		phases[string(p.Phase)]++
		for _, c := range p.Containers {
			restarts += c.Attempt
			if c.Running {
				running++
			}
		}
	}
	for phase, n := range phases {
		send(podsDesc, float64(n), phase)
	}
	send(runningDesc, float64(running))
	send(restartsDesc, float64(restarts))
	if left, ok := m.lease(); ok {
		send(leaseDesc, max(left.Seconds(), 0))
	}
}
