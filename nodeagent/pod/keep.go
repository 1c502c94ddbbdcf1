package pod

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Labels of every container, by which a restarted agent knows it again.
const (
	LabelNamespace = "clusterd.pod.namespace"
	LabelPod       = "clusterd.pod.name"
	LabelUID       = "clusterd.pod.uid"
	LabelContainer = "clusterd.container"
	LabelAttempt   = "clusterd.attempt"
)

// ID names one run of a container on the node. An attempt has an id of its
// own, so that what a failed start left behind is never in the way.
func ID(uid, container string, attempt int) string {
	// Runtimes bound the length of ids and dislike "--".
	if len(container) > 24 || strings.Contains(container, "--") {
		container = fmt.Sprintf("c%08x", hash(container))
	}
	return fmt.Sprintf("%s.%s.%d", uid, container, attempt)
}

func attemptOf(labels map[string]string) int {
	n, _ := strconv.Atoi(labels[LabelAttempt])
	return n
}

func exitOf(r runtime.Status) *api.Exit {
	e := &api.Exit{Code: r.Exit.Code, OOM: r.Exit.OOM, At: r.Exit.At.UTC()}
	if e.Code > 128 && e.Code <= 128+64 {
		e.Signal = e.Code - 128
	}
	return e
}

// backoff is the wait before the run after n bad ones: 1 s, doubling, at most a
// minute, shortened by up to a quarter so that pods do not march in step.
func backoff(n int, jitter float64) time.Duration {
	d := maxBackoff
	if n < 7 {
		d = min(minBackoff<<max(n-1, 0), maxBackoff)
	}
	return d - time.Duration(jitter*float64(d)/4)
}

// jitter is a number in [0,1) that differs between pods and attempts, and is
// the same whenever the same plan is made.
func jitter(uid, what string, n int) float64 {
	return float64(hash(fmt.Sprint(uid, what, n))%1000) / 1000
}

func hash(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}

// keep looks after a running container: what it was asked to do, whether it
// serves, and how long it has been well.
func (p *planner) keep(name string, r runtime.Status) {
	l := p.life(name)
	if l.Streak > 0 {
		if p.past(r.StartedAt.Add(stableAfter)) {
			l.Streak, l.Reason, l.Message = 0, "", ""
			p.setLife(name, l)
			p.mended(name, "crash_loop", "unhealthy")
		}
	}
	if name == api.MainContainer && p.pod.Spec.Health != nil {
		p.probe(r)
	} else if l.Streak == 0 || p.past(r.StartedAt.Add(settle)) {
		l.Healthy = true
		p.setLife(name, l)
	}
	if p.life(name).Healthy && p.rec.Status.Fatal != nil && p.past(r.StartedAt.Add(wellAfter)) {
		p.mended(name, "crash_loop")
	}
	p.force(name)
}

// probe judges the health check of the main container, and asks for the next.
func (p *planner) probe(r runtime.Status) {
	const name = api.MainContainer
	l, h, f := p.life(name), p.pod.Spec.Health, p.see.Probe
	if f.Attempt != l.Attempt {
		f = probeFact{Attempt: l.Attempt}
	}
	threshold := p.threshold()
	switch {
	case f.Count > 0 && f.Failures == 0:
		if !l.Healthy {
			p.event(false, "healthy", "%s passes its health check", name)
		}
		l.Healthy = true
		p.mended(name, "unhealthy")
	case f.Failures >= threshold && l.Healthy:
		l.Healthy = false
		p.event(true, "unhealthy", "%s fails its health check: %s", name, f.Err)
	}
	if f.Failures >= 3*threshold && l.Ending.Since.IsZero() {
		l.Ending = ending{Since: p.now, Why: fmt.Sprintf("%d health checks failed in a row: %s", f.Failures, f.Err)}
		p.do(step{Do: signal, Container: name, Attempt: l.Attempt, Arg: p.stopSignal(name)})
	}
	p.setLife(name, l)
	if f.Busy || !l.Ending.Since.IsZero() {
		return
	}
	if p.past(f.next(r.StartedAt, h.Interval.D(), l.Healthy)) {
		p.do(step{Do: probe, Container: name, Attempt: l.Attempt})
	}
}

// threshold is how many failed checks in a row make the pod not ready.
func (p *planner) threshold() int {
	return max(api.Deref(api.Deref(p.pod.Spec.Health).Threshold), 1)
}

// force kills a run that was asked to end and did not within its grace.
func (p *planner) force(name string) {
	l := p.life(name)
	if l.Ending.Since.IsZero() || l.Ending.Killed {
		return
	}
	if !p.past(l.Ending.Since.Add(p.grace())) {
		return
	}
	l.Ending.Killed = true
	p.setLife(name, l)
	p.do(step{Do: signal, Container: name, Attempt: l.Attempt, Arg: "SIGKILL"})
}

func (p *planner) grace() time.Duration { return api.Deref(p.pod.Spec.Stop).GracePeriod.D() }

// stopSignal asks a container to end: the spec's signal is the main one's; an
// image may have its own.
func (p *planner) stopSignal(name string) string {
	if s := api.Deref(p.pod.Spec.Stop).Signal; s != "" && name == api.MainContainer {
		return s
	}
	if s := p.see.Images[p.spec(name).Image].Image.StopSignal; s != "" {
		return s
	}
	return "SIGTERM"
}
