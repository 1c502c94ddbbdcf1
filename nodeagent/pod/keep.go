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

// restart is how the pod's containers are started again. A pod that was stored
// before there was a choice has none.
func (p *planner) restart() api.Restart { return p.pod.Spec.Restart.OrDefault() }

// backoff is the wait before the run after n bad ones: first, doubling, at most
// most, shortened by up to a quarter so that pods do not march in step.
func backoff(first, most time.Duration, n int, jitter float64) time.Duration {
	d := min(first, most)
	for ; n > 1 && d < most; n-- {
		d = min(2*d, most)
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
	if p.isInit(name) {
		return // it is waited for
	}
	l := p.life(name)
	if l.Streak > 0 {
		if p.past(r.StartedAt.Add(p.restart().ResetAfter.D())) {
			l.Streak, l.Reason, l.Message = 0, "", ""
			p.setLife(name, l)
			p.mended(name, "crash_loop", "out_of_memory", "unhealthy")
		}
	}
	p.judge(name, r)
	if p.life(name).Healthy && p.rec.Status.Fatal != nil && p.past(r.StartedAt.Add(wellAfter)) {
		p.mended(name, "crash_loop", "out_of_memory", "unhealthy")
	}
	p.check(name, r)
	p.force(name)
}

// force kills a run that was asked to end and did not within its grace.
func (p *planner) force(name string) {
	l := p.life(name)
	if l.Ending.Since.IsZero() || l.Ending.Killed {
		return
	}
	if !p.past(l.Ending.Since.Add(graceOf(p.pod))) {
		return
	}
	l.Ending.Killed = true
	p.setLife(name, l)
	p.do(step{Do: signal, Container: name, Attempt: l.Attempt, Arg: "SIGKILL"})
}

func graceOf(pod *api.Pod) time.Duration { return api.Deref(pod.Spec.Stop).GracePeriod.D() }

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
