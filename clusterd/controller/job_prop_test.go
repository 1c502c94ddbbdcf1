package controller

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// jobModel is a job, its pods and the time, with nothing between them and the
// plans: every plan is carried out as the API would.
type jobModel struct {
	t    *rapid.T
	job  *api.Job
	pods []*api.Pod
	now  time.Time
	uid  int
	ends map[string]api.RunPhase // of runs, by name
}

func (m *jobModel) declare(spec api.JobSpec) {
	m.job.Spec = spec
	m.job.Effective = api.Clone(spec).WithDefaults()
	m.job.Meta.Generation++
	m.job.Meta.WrittenAt = m.now
}

func (m *jobModel) see() facts {
	nodes := map[string]*api.Node{"w1": {Meta: api.Meta{Name: "w1"}}}
	nodes["w1"].Status.Health.Verdict = api.VerdictReady
	return facts{pods: m.pods, nodes: nodes, now: m.now}
}

// plan plans and carries out, checks the promises, and reports whether there
// was anything to do.
func (m *jobModel) plan() bool {
	p := planJob(m.job, m.see())
	if again := planJob(m.job, m.see()); again.String() != p.String() {
		m.t.Fatalf("not the same twice:\n%s\n%s", p, again)
	}
	ops := p.ops(m.job.Ref(), m.job)
	for _, pod := range p.finalize {
		if !over(pod) {
			m.t.Fatalf("%s is finalized while on a node", pod.Meta.Name)
		}
		m.pods = slices.DeleteFunc(m.pods, func(x *api.Pod) bool { return x == pod })
	}
	for _, r := range p.remove {
		i := slices.Index(m.pods, r.pod)
		c := *r.pod
		c.Meta.DeletedAt = &m.now
		m.pods[i] = &c
	}
	begun := map[string]bool{}
	for _, pod := range p.create {
		if slices.ContainsFunc(m.pods, func(x *api.Pod) bool { return x.Meta.Name == pod.Meta.Name }) {
			m.t.Fatalf("%s exists", pod.Meta.Name)
		}
		m.uid++
		c := *pod
		c.Meta.UID, c.Meta.CreatedAt = fmt.Sprint("uid-", m.uid), m.now
		m.pods = append(m.pods, &c)
		begun[pod.Spec.Run] = true
	}
	m.bounds(p, begun)
	m.history(p.status)
	m.job.Status = p.status
	return len(ops) > 0
}

// bounds holds the pods of runs that were given some now against what may be.
func (m *jobModel) bounds(p jobPlan, begun map[string]bool) {
	live, busy := map[string]int{}, map[string]map[int]bool{}
	for _, pod := range m.pods {
		if over(pod) {
			continue
		}
		run := pod.Spec.Run
		live[run]++
		if busy[run] == nil {
			busy[run] = map[int]bool{}
		}
		if i := indexOf(pod); begun[run] && busy[run][i] {
			m.t.Fatalf("two pods of %s have index %d:\n%s", run, i, p)
		} else {
			busy[run][i] = true
		}
	}
	for run := range begun {
		if most := *m.job.Effective.Parallelism; live[run] > most {
			m.t.Fatalf("%d pods of %s, at most %d may be:\n%s", live[run], run, most, p)
		}
		if r := p.status.RunOf(run); r == nil || r.Phase != api.RunRunning {
			m.t.Fatalf("%s has ended and is given pods:\n%s", run, p)
		}
		for other, n := range live {
			if other != run && n > 0 && m.job.Effective.Concurrency != api.ConcurrencyAllow {
				m.t.Fatalf("%s and %s run beside each other:\n%s", run, other, p)
			}
		}
	}
}

// history holds what is recorded against what was.
func (m *jobModel) history(st api.JobStatus) {
	was := m.job.Status
	if st.Schedule != "" && st.Schedule == was.Schedule && st.Ticked.Before(was.Ticked) {
		m.t.Fatalf("ticks were decided up to %s, and now only up to %s", was.Ticked, st.Ticked)
	}
	seen := map[string]bool{}
	ended := map[bool]int{}
	for _, r := range st.Runs {
		if seen[r.Name] {
			m.t.Fatalf("run %s is there twice", r.Name)
		}
		seen[r.Name] = true
		if phase, was := m.ends[r.Name]; was && phase != r.Phase {
			m.t.Fatalf("run %s ended as %s and is %s now", r.Name, phase, r.Phase)
		}
		if !r.Phase.Ended() {
			continue
		}
		m.ends[r.Name] = r.Phase
		if r.Active == 0 {
			ended[r.Phase == api.RunSkipped]++
		}
		switch {
		case r.Phase == api.RunSkipped && r.Reason == "":
			m.t.Fatalf("run %s was skipped, and nobody says why", r.Name)
		case r.Phase == api.RunFailed && r.Cause == nil:
			m.t.Fatalf("run %s failed without a cause", r.Name)
		}
	}
	if keep := *m.job.Effective.Keep; ended[true] > keep || ended[false] > keep+1 {
		m.t.Fatalf("%d runs that ended and %d skipped ones are kept, of %d", ended[false], ended[true], keep)
	}
	maps.DeleteFunc(m.ends, func(name string, _ api.RunPhase) bool { return !seen[name] }) // its name may come again
}

func (m *jobModel) settle() {
	for range 12 {
		if !m.plan() {
			return
		}
	}
	m.t.Fatalf("it never comes to rest:\n%s", planJob(m.job, m.see()))
}

// step lets a pod do what its node would; bad goes wrong in one of some ways.
func (m *jobModel) step(i, bad int) {
	pod := *m.pods[i]
	st := &pod.Status
	m.pods[i] = &pod
	switch {
	case st.Phase.Ended():
	case pod.Spec.Node == "":
		if !pod.Meta.Deleting() && bad != 1 {
			pod.Spec.Node = "w1"
		}
	case pod.Meta.Deleting():
		st.Phase, st.EndedAt = api.PhaseFailed, m.now
	case bad == 2:
		st.Phase, st.EndedAt = api.PhaseLost, m.now
	case bad == 3 || pod.Spec.Image == "bad":
		st.Phase, st.Reason, st.EndedAt = api.PhaseFailed, "exited", m.now
	case bad == 4:
		st.Fatal = &api.Cause{Reason: "image_unavailable", Message: "no such image"}
	case st.Phase != api.PhaseRunning:
		st.Phase = api.PhaseRunning
	default:
		st.Phase, st.EndedAt = api.PhaseSucceeded, m.now
	}
}

// TestPlanJobKeepsItsPromises: whatever happens to a job, its pods and the
// clock, no run has more pods than it may, nor an index twice, runs that exclude
// each other never meet, what has ended stays so, and a job that nothing goes
// wrong with ends.
func TestPlanJobKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &jobModel{t: t, job: &api.Job{Kind: "Job", Meta: api.Meta{Name: "mend", Namespace: "default", UID: "u"}}, now: noon, ends: map[string]api.RunPhase{}}
		draw := func(label string, least, most int) *int { n := rapid.IntRange(least, most).Draw(t, label); return &n }
		spec := func() (s api.JobSpec) {
			s.Image = rapid.SampledFrom([]string{"a", "b", "bad"}).Draw(t, "image")
			s.Completions, s.Parallelism, s.Retries = draw("completions", 1, 4), draw("parallelism", 1, 3), draw("retries", 0, 3)
			s.Keep = draw("keep", 1, 3)
			s.Concurrency = rapid.SampledFrom([]string{"allow", "forbid", "replace"}).Draw(t, "concurrency")
			if rapid.Bool().Draw(t, "scheduled") {
				s.Schedule = "* * * * *"
			}
			if rapid.IntRange(0, 3).Draw(t, "hurry") == 0 {
				s.Deadline = "2m"
			}
			if rapid.IntRange(0, 5).Draw(t, "rest") == 0 {
				s.Suspend = new(true)
			}
			return s
		}
		m.declare(spec())
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch k := rapid.IntRange(0, 9).Draw(t, "what"); {
			case k == 0:
				m.declare(spec())
			case k == 1:
				m.job.Status.Intent.Run = fmt.Sprint("ask", rapid.IntRange(0, 9).Draw(t, "ask"))
			case k < 5:
				m.now = m.now.Add(time.Duration(rapid.IntRange(-90, 90).Draw(t, "seconds")) * time.Second)
			case len(m.pods) > 0:
				bad := 0
				if rapid.IntRange(0, 3).Draw(t, "wrong") == 0 {
					bad = rapid.IntRange(1, 4).Draw(t, "how")
				}
				m.step(rapid.IntRange(0, len(m.pods)-1).Draw(t, "pod"), bad)
			}
			m.settle()
		}
		// From here on nothing goes wrong any more, and what goes on must end.
		last := m.job.Spec
		last.Schedule, last.Suspend, last.Deadline, last.Image = "", nil, "", cmp.Or(map[string]string{"bad": "bad"}[last.Image], "c")
		last.Triggers = map[string]string{"end": "yes"}
		m.declare(last)
		for n := 0; ; n++ {
			m.settle()
			if !slices.ContainsFunc(m.job.Status.Runs, func(r api.Run) bool { return !r.Phase.Ended() || r.Active > 0 }) && n > 0 {
				break
			}
			if n == 1000 {
				t.Fatalf("no end:\n%s", planJob(m.job, m.see()))
			}
			m.now = m.now.Add(5 * time.Second)
			for i := range m.pods {
				m.step(i, 0)
			}
		}
		run := m.job.Status.RunOf(fmt.Sprintf("mend-%d", m.job.Meta.Generation))
		want := api.RunSucceeded
		if last.Image == "bad" {
			want = api.RunFailed
		}
		if run == nil || run.Phase != want || want == api.RunSucceeded && run.Succeeded != *m.job.Effective.Completions {
			b, _ := json.Marshal(run)
			t.Fatalf("the last run is %s, want it %s:\n%s", b, want, planJob(m.job, m.see()))
		}
	})
}
