package pod

import (
	"strconv"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Model is a pod's state machine over containers that are values: planPod, and
// what its steps would make so, with no time but the caller's. It is for those
// who judge many lives of many nodes, such as a simulation.
//
// What it leaves out: images are there, nothing fails to start, and there are
// no health checks.
type Model struct {
	pod api.Pod
	rec record
	see facts
}

// NewModel returns the life of a pod that its node has just heard of.
func NewModel(p api.Pod) *Model {
	m := &Model{pod: p, rec: record{Status: p.Status}}
	m.see = facts{Runs: map[string]runtime.Status{}, Images: map[string]imageFact{}, Failed: map[string]failure{}, Tails: map[string][]string{}, Brimful: map[string][]string{}}
	m.see.Acked = p.Status.Phase
	return m
}

// Heard takes in the pod as a view of the API has it; nil: it has none.
func (m *Model) Heard(p *api.Pod) {
	m.see.Hold = false
	if p == nil || p.Status.Phase.Ended() && !m.rec.Status.Phase.Ended() {
		m.see.Disowned = true
		return
	}
	m.pod, m.see.Acked = *p, p.Status.Phase
}

// Told takes in that the API took a status, told on the terms of before, and
// the pod as it is with it; nil: it refused.
func (m *Model) Told(p *api.Pod) {
	if m.Heard(p); p != nil {
		m.rec.said(p.Status.Phase, m.rec.terms(p))
	}
}

// Restarted is the agent's restart: it goes on with its record, and starts
// nothing before it has heard of the pod.
func (m *Model) Restarted() {
	m.see.Hold, m.see.Acked = true, ""
}

// Step plans and carries out at one moment, with what is left of the lease of
// an era. It returns what the agent would tell the API, and whether nothing is
// left of the pod.
func (m *Model) Step(now time.Time, era int64, left time.Duration) (st api.PodStatus, done bool) {
	m.see.Lease = leaseFact{era, left}
	for range 12 { // a pod takes fewer turns to come to rest
		p := planPod(&m.pod, m.rec, m.see, now)
		m.rec = p.Record
		if p.Done {
			return m.rec.Status, true
		}
		if !m.carryOut(p.Steps, now) {
			break
		}
	}
	return m.rec.Status, false
}

func (m *Model) carryOut(steps []step, now time.Time) (progress bool) {
	for _, s := range steps {
		id := ID(m.pod.Meta.UID, s.Container, s.Attempt)
		r := m.see.Runs[id]
		switch s.Do {
		case addSandbox:
			m.see.Sandbox = true
		case removeSandbox:
			m.see.Gone, m.see.Sandbox = true, false
		case pull:
			m.see.Images[s.Arg] = imageFact{Present: true}
		case begin:
			r = runtime.Status{ID: id, State: runtime.Created, Labels: map[string]string{LabelContainer: s.Container, LabelAttempt: strconv.Itoa(s.Attempt)}}
			m.see.Runs[id] = r
		case start:
			r.State, r.StartedAt = runtime.Running, now
			m.see.Runs[id] = r
		case signal:
			r.State, r.Exit = runtime.Exited, runtime.Exit{Code: 137, At: now}
			m.see.Runs[id] = r
		case remove:
			delete(m.see.Runs, id)
		case drain:
			m.see.Drained = true
		default:
			continue
		}
		progress = true
	}
	return progress
}

// Runs reports whether a container of the pod runs.
func (m *Model) Runs() bool {
	for _, r := range m.see.Runs {
		if r.State == runtime.Running {
			return true
		}
	}
	return false
}

// End ends whatever runs, with nobody to see how: a power cut, or the end of
// the lease.
func (m *Model) End(now time.Time) {
	for id, r := range m.see.Runs {
		if r.State == runtime.Running {
			r.State, r.Exit = runtime.Exited, runtime.Exit{Code: 137, At: now}
			m.see.Runs[id] = r
		}
	}
}
