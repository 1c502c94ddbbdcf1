package controller

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// model is an app, its pods and the time, with nothing between them and the
// plans: every plan is carried out as the API would.
type model struct {
	t    *rapid.T
	app  *api.App
	pods []*api.Pod
	now  time.Time
	uid  int
	ends map[int64]api.RolloutPhase // of rollouts, by number

	epochs map[int]int64 // the last one, by ordinal
}

func (m *model) declare(spec api.AppSpec) {
	raw, err := json.Marshal(spec)
	if err != nil {
		m.t.Fatal(err)
	}
	if was, _ := json.Marshal(m.app.Spec); string(was) == string(raw) {
		return
	}
	m.app.Spec = api.AppSpec{}
	if err := json.Unmarshal(raw, &m.app.Spec); err != nil {
		m.t.Fatal(err)
	}
	m.app.Effective = api.Clone(m.app.Spec).WithDefaults()
	m.app.Meta.Generation++
}

func (m *model) see() facts {
	nodes := map[string]*api.Node{}
	for _, name := range []string{"w1", "w2", "w3"} {
		n := &api.Node{Meta: api.Meta{Name: name}}
		n.Status.Health.Verdict = api.VerdictReady
		nodes[name] = n
	}
	return facts{pods: m.pods, nodes: nodes, now: m.now}
}

func (m *model) serving() (n int) {
	on := map[string]bool{}
	for _, p := range m.pods {
		if p.Status.Ready && !p.Meta.Deleting() && !p.Status.Phase.Ended() {
			if n++; api.Deref(m.app.Effective.PerNode) && on[hostOf(p)] {
				n-- // one on each node is what counts
			}
			on[hostOf(p)] = true
		}
	}
	return n
}

func (m *model) existing() (n int) {
	for _, p := range m.pods {
		if !p.Status.Phase.Ended() {
			n++
		}
	}
	return n
}

// plan plans and carries out, checks the promises, and reports whether there
// was anything to do.
func (m *model) plan() bool {
	before := m.serving()
	p := planApp(m.app, m.see())
	if again := planApp(m.app, m.see()); again.String() != p.String() {
		m.t.Fatalf("not the same twice:\n%s\n%s", p, again)
	}
	ops := p.ops(m.app.Ref(), m.app)
	u := *m.app.Effective.Update
	for _, pod := range p.finalize {
		if !pod.Status.Phase.Ended() && !(pod.Meta.Deleting() && pod.Spec.Node == "") {
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
	for _, pod := range p.create {
		if slices.ContainsFunc(m.pods, func(x *api.Pod) bool { return x.Meta.Name == pod.Meta.Name }) {
			m.t.Fatalf("%s exists", pod.Meta.Name)
		}
		m.uid++
		c := *pod
		c.Meta.UID, c.Meta.CreatedAt = fmt.Sprint("uid-", m.uid), m.now
		m.pods = append(m.pods, &c)
	}
	m.individuals(p)
	above := max(*u.Surge, api.Deref(u.Canary))
	if api.Deref(m.app.Effective.PerNode) {
		on := map[string]int{}
		for _, pod := range m.pods {
			if !pod.Status.Phase.Ended() {
				on[hostOf(pod)]++
			}
		}
		for _, pod := range p.create {
			if host := hostOf(pod); host == "" || on[host] > 1 {
				m.t.Fatalf("%d pods are on %s:\n%s", on[host], host, p)
			}
		}
	} else if n := m.existing(); len(p.create) > 0 && n > p.status.Desired+above {
		m.t.Fatalf("%d pods exist of %d + %d:\n%s", n, p.status.Desired, above, p)
	}
	seen := *m.app
	seen.Status = p.status
	if n := m.serving(); u.Strategy != "recreate" && n < min(before, api.Floor(&seen)) {
		m.t.Fatalf("%d pods serve, %d did, at least %d should:\n%s", n, before, api.Floor(&seen), p)
	}
	revisions := map[string]bool{}
	for _, pod := range m.pods {
		if !pod.Status.Phase.Ended() && !(pod.Meta.Deleting() && pod.Spec.Node == "") {
			revisions[pod.Spec.Revision] = true
		}
	}
	if u.Strategy == "recreate" && p.status.Rollout.Phase == api.RolloutInProgress && len(p.create) > 0 && len(revisions) > 1 {
		m.t.Fatalf("new pods start beside old ones:\n%s", p)
	}
	if p.record {
		p.status.Rollout.Spec, _ = json.Marshal(m.app.Spec)
	}
	m.app.Status = p.status
	if p.rollback != nil {
		var s api.AppSpec
		if err := json.Unmarshal(p.rollback, &s); err != nil {
			m.t.Fatal(err)
		}
		m.declare(s)
	}
	st := m.app.Status
	if len(st.History) > maxHistory {
		m.t.Fatalf("%d rollouts in the history", len(st.History))
	}
	for _, r := range append(slices.Clone(st.History), st.Rollout) {
		if was, ended := m.ends[r.Number]; ended && was != r.Phase {
			m.t.Fatalf("rollout %d ended as %s and is %s now", r.Number, was, r.Phase)
		}
		if r.Phase.Terminal() {
			m.ends[r.Number] = r.Phase
		}
		if (r.Phase == api.RolloutRolledBack || r.Phase == api.RolloutPaused || r.Phase == api.RolloutFailed) != (r.Cause != nil) {
			m.t.Fatalf("generation %d is %s with cause %v", r.Generation, r.Phase, r.Cause)
		}
	}
	if st.Rollout.Generation > 1 && len(m.ends) > 0 {
		healthy := false
		for _, phase := range m.ends {
			healthy = healthy || phase == api.RolloutComplete
		}
		if healthy && st.LastHealthy() == nil {
			m.t.Fatal("the last healthy rollout is forgotten")
		}
	}
	return len(ops) > 0
}

// settle plans until there is nothing to do at this moment.
func (m *model) settle() {
	for range 8 {
		if !m.plan() {
			return
		}
	}
	m.t.Fatalf("it never comes to rest:\n%s", planApp(m.app, m.see()))
}

// step lets a pod do what its node would, or what goes wrong.
func (m *model) step(i int, wrong func() int) {
	pod := *m.pods[i]
	st := &pod.Status
	m.pods[i] = &pod
	switch {
	case st.Phase.Ended():
	case pod.Spec.Node == "":
		if !pod.Meta.Deleting() {
			if wrong() == 1 {
				st.Reason, st.Message, st.Crowded = "unschedulable", "no node fits: 1 is cordoned", true
			} else {
				pod.Spec.Node, st.Reason, st.Message, st.Crowded = cmp.Or(pod.Spec.Target, "w1"), "", "", false
			}
		}
	case pod.Meta.Deleting():
		st.Phase, st.Ready = api.PhaseSucceeded, false
	case wrong() == 2:
		st.Phase, st.Ready = api.PhaseLost, false
	case wrong() == 3:
		st.Phase, st.Ready = api.PhaseFailed, false
	case wrong() == 4:
		st.Ready, st.Fatal = false, &api.Cause{Reason: "crash_loop", Message: "exits"}
	case wrong() == 5:
		st.Ready = false
	case pod.Spec.Image == "bad":
		st.Phase, st.Fatal = api.PhaseRunning, &api.Cause{Reason: "crash_loop", Message: "exits"}
	case !st.Ready && st.Fatal == nil:
		st.Phase, st.Ready, st.ReadyAt = api.PhaseRunning, true, m.now
	}
}

func TestPlanAppKeepsItsPromises(t *testing.T) { promises(t, nil) }

// promises draws apps, stateful ones if stateful draws how.
func promises(t *testing.T, stateful func(*rapid.T) *api.Stateful) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, app: &api.App{Kind: "App", Meta: api.Meta{Name: "web", Namespace: "default", UID: "u"}}, now: noon, ends: map[int64]api.RolloutPhase{}}
		draw := func(label string, least, most int) *int { n := rapid.IntRange(least, most).Draw(t, label); return &n }
		spec := func() api.AppSpec {
			s := api.AppSpec{Replicas: draw("replicas", 0, 5)}
			s.Image = rapid.SampledFrom([]string{"a", "b", "c", "bad"}).Draw(t, "image")
			s.Update = &api.Update{MaxParallel: draw("max_parallel", 1, 3), Surge: draw("surge", 0, 2), Deadline: "1m",
				OnFailure: rapid.SampledFrom([]string{"rollback", "pause"}).Draw(t, "on_failure")}
			if rapid.Bool().Draw(t, "min") {
				s.Update.MinAvailable = draw("min_available", 0, *s.Replicas)
			}
			switch rapid.IntRange(0, 4).Draw(t, "way") {
			case 0:
				s.Update.Strategy = "recreate"
			case 1:
				s.Update.Canary = draw("canary", 1, 3)
			case 2:
				if stateful == nil {
					s.Replicas, s.PerNode, s.Update.Surge, s.Update.MinAvailable = nil, new(true), nil, nil
				}
			}
			if stateful != nil {
				s.Stateful, s.Update.Surge = stateful(t), nil
				if s.Validate() != nil {
					s.Update.MinAvailable = nil
				}
			}
			if s.Update.Surge != nil && s.Validate() != nil && *s.Update.Surge == 0 {
				s.Update.MinAvailable = nil
			}
			return s
		}
		m.declare(spec())
		fine := func() int { return 0 }
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch k := rapid.IntRange(0, 9).Draw(t, "what"); {
			case k == 0:
				m.declare(spec())
			case k == 9:
				in, number := &m.app.Status.Intent, m.app.Status.Rollout.Number
				switch rapid.IntRange(0, 2).Draw(t, "intent") {
				case 0:
					in.Promote = number
				case 1:
					in.Abort = number
				case 2:
					in.Restart = m.now
				}
			case k < 4:
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			case len(m.pods) > 0:
				i := rapid.IntRange(0, len(m.pods)-1).Draw(t, "pod")
				bad := 0
				if rapid.IntRange(0, 3).Draw(t, "wrong") == 0 {
					bad = rapid.IntRange(1, 5).Draw(t, "how")
				}
				m.step(i, func() int { return bad })
			}
			m.settle()
		}
		// From here on nothing goes wrong any more, and it must come to an end.
		quiet := 0
		for n := 0; quiet < 150; n++ {
			if n == 2000 {
				t.Fatalf("no end:\n%s", planApp(m.app, m.see()))
			}
			m.now = m.now.Add(5 * time.Second)
			for i := range m.pods {
				m.step(i, fine)
			}
			if ro := m.app.Status.Rollout; !ro.HeldSince.IsZero() {
				m.app.Status.Intent.Promote = ro.Number
			}
			generation, count := m.app.Meta.Generation, len(m.pods)
			m.settle()
			if quiet++; !m.app.Status.Rollout.Phase.Terminal() || generation != m.app.Meta.Generation || count != len(m.pods) {
				quiet = 0
			}
			if m.app.Spec.Image == "bad" && m.app.Status.Rollout.Phase.Terminal() {
				break // it cannot be kept alive
			}
		}
		st := m.app.Status
		switch st.Rollout.Phase {
		case api.RolloutComplete:
			if want := api.Desired(m.app); m.app.Spec.Image != "bad" && (len(m.pods) != want || m.serving() != want || st.Updated != want) {
				t.Fatalf("complete, but %d pods and %d serve of %d:\n%s", len(m.pods), m.serving(), want, planApp(m.app, m.see()))
			}
		case api.RolloutFailed, api.RolloutPaused:
		default:
			t.Fatalf("ends as %s:\n%s", st.Rollout.Phase, planApp(m.app, m.see()))
		}
	})
}

// TestHealthyHasNotEnded: a pod is healthy if and only if it has been ready for
// healthy_for, and no container of it has ended in that time; the plan comes
// again when that may be so.
func TestHealthyHasNotEnded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.IntRange(0, 20)
		want := time.Duration(seconds.Draw(t, "healthy_for")) * time.Second
		pod := &api.Pod{Status: api.PodStatus{Ready: true, ReadyAt: ago(float64(seconds.Draw(t, "ready"))), Containers: map[string]api.ContainerStatus{}}}
		quiet := noon.Sub(pod.Status.ReadyAt)
		for i, since := range rapid.SliceOfN(seconds, 0, 3).Draw(t, "ended") {
			pod.Status.Containers[fmt.Sprint(i)] = api.ContainerStatus{Last: &api.Exit{At: ago(float64(since))}}
			quiet = min(quiet, time.Duration(since)*time.Second)
		}
		r := &rollout{appPlan: &appPlan{}, now: noon, healthyFor: want}
		if got := r.healthy(pod); got != (quiet >= want) {
			t.Fatalf("%v, quiet for %v of %v", got, quiet, want)
		}
		if quiet < want && r.again != want-quiet {
			t.Fatalf("looks again after %v, quiet for %v of %v", r.again, quiet, want)
		}
	})
}
