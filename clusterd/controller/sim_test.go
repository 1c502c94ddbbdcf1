package controller

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
)

// The simulation lives the life of a small cluster through partitions, power
// cuts, frozen agents and new leaders: planApp, planNodes, planPod and the
// table of leases as they are, over a store, nodes and a clock that are values.
// After every step it checks what must hold at all times.

// seeds is how many runs a campaign has: CLUSTERD_SEEDS, or as many as are good
// for every day; and where it begins: CLUSTERD_SEED replays one.
func seeds(t *testing.T, everyDay int) (first, n uint64) {
	number := func(name string, otherwise uint64) uint64 {
		v := os.Getenv(name)
		if v == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q: want a number", name, v)
		}
		return n
	}
	if os.Getenv("CLUSTERD_SEED") != "" {
		return number("CLUSTERD_SEED", 0), 1
	}
	return 0, number("CLUSTERD_SEEDS", uint64(everyDay))
}

func TestSimulation(t *testing.T) {
	campaign(t)
	first, n := seeds(t, 2_000)
	for seed := first; seed < first+n; seed++ {
		if simulate(seed, apiserver.LeaseMargin, false).broken != "" {
			s := simulate(seed, apiserver.LeaseMargin, true) // the same once more, told
			t.Fatalf("seed %d: %s\n%s\nreplay: CLUSTERD_SEED=%d go test ./clusterd/controller -run TestSimulation", seed, s.broken, strings.Join(s.trace, "\n"), seed)
		}
	}
}

// campaign skips what runs through thousands of virtual hours, if the race
// detector watches: make test-unit runs it again without.
func campaign(t *testing.T) {
	t.Helper()
	if racing {
		t.Skip("a campaign: it runs without the race detector")
	}
}

// TestSimulationSeesABrokenLease: with a leader that does not wait until a
// lease has ended, some run has two pods of one ordinal.
func TestSimulationSeesABrokenLease(t *testing.T) {
	for seed := range uint64(3000) {
		if s := simulate(seed, -12*time.Second, false); strings.Contains(s.broken, "two pods of ordinal") {
			t.Logf("seed %d: %s", seed, s.broken)
			return
		}
	}
	t.Fatal("the simulation does not notice")
}

// sim is one run.
type sim struct {
	rng    *rand.Rand
	now    time.Time
	told   bool // keep a trace
	trace  []string
	broken string

	// The store: objects are replaced, never changed.
	revision int64
	app      *api.App
	pods     map[string]*api.Pod
	nodes    []*api.Node
	uid      int
	ends     map[int64]api.RolloutPhase
	epochs   map[int]int64
	podsOld  []*api.Pod // a view from before

	// The leader.
	fence   int64
	leases  apiserver.LeaseTable
	started time.Time
	said    map[string]testimony

	machines []*simMachine
}

// simMachine is a node as it is, whatever the cluster thinks.
type simMachine struct {
	name   string
	power  bool
	linked bool
	agent  bool // runs; frozen and crashed agents do nothing
	since  time.Time
	era    int64
	until  time.Time
	models map[string]*pod.Model // by UID
	pods   map[string]*api.Pod
	shown  map[string]*api.Pod // the view before, which may be shown again
}

const (
	simNodes    = 3
	simRoom     = 3 // pods a node has room for
	simReplicas = 3
)

func simulate(seed uint64, margin time.Duration, tell bool) *sim {
	s := &sim{told: tell, rng: rand.New(rand.NewPCG(seed, 7)), now: noon, pods: map[string]*api.Pod{}, ends: map[int64]api.RolloutPhase{}, epochs: map[int]int64{}, said: map[string]testimony{}}
	s.leases = apiserver.LeaseTable{Length: apiserver.LeaseDefault, Margin: margin}
	for i := range simNodes {
		name := fmt.Sprintf("w%d", i+1)
		s.machines = append(s.machines, &simMachine{name: name, power: true, linked: true, agent: true, since: noon, models: map[string]*pod.Model{}, pods: map[string]*api.Pod{}})
		s.nodes = append(s.nodes, &api.Node{Meta: api.Meta{Name: name}, Status: api.NodeStatus{Health: api.NodeHealth{Verdict: api.VerdictReady, Since: noon}}})
	}
	s.app = &api.App{Kind: "App", Meta: api.Meta{Name: "db", Namespace: "default", UID: "u"}}
	s.lead()
	s.declare()
	for range 90 {
		if s.broken != "" {
			break
		}
		s.turn()
	}
	return s
}

func (s *sim) note(format string, args ...any) {
	if !s.told {
		return
	}
	for i, a := range args {
		if plan, ok := a.(fmt.Stringer); ok {
			args[i] = strings.ReplaceAll(strings.TrimSpace(plan.String()), "\n", " | ")
		}
	}
	s.trace = append(s.trace, fmt.Sprintf("%6.1fs ", s.now.Sub(noon).Seconds())+fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	if s.broken == "" {
		s.broken = fmt.Sprintf(format, args...)
	}
}

// chance is true once in n times.
func (s *sim) chance(n int) bool { return s.rng.IntN(n) == 0 }

func (s *sim) declare() {
	spec := api.AppSpec{Replicas: new(1 + s.rng.IntN(simReplicas)), Update: &api.Update{Deadline: "1m"}}
	spec.Image = fmt.Sprintf("db:%d", s.rng.IntN(3))
	spec.Stateful = s.app.Spec.Stateful
	if s.app.Meta.Generation == 0 && !s.chance(5) {
		spec.Stateful = &api.Stateful{Order: []string{"ordered", "parallel"}[s.rng.IntN(2)], OnIsolation: []string{"stop", "stop", "stop", "keep"}[s.rng.IntN(4)]}
	}
	app := *s.app
	app.Spec, app.Effective = spec, api.Clone(spec).WithDefaults()
	app.Meta.Generation++
	s.commit(&app)
	s.note("declare generation %d: %d of %s", app.Meta.Generation, *spec.Replicas, spec.Image)
}

func (s *sim) commit(app *api.App) {
	s.revision++
	if app != nil {
		app.Meta.Revision = s.revision
		s.app = app
	}
}

// lead begins a new leader's term: it has fresh views, and knows nothing.
func (s *sim) lead() {
	s.fence++
	s.leases.Begin(s.fence, 0, s.now)
	s.started = s.now
	clear(s.said)
	s.note("leader %d", s.fence)
}

// turn lets some time pass, in which a few things happen in some order.
func (s *sim) turn() {
	s.now = s.now.Add(time.Duration(100+s.rng.IntN(3000)) * time.Millisecond)
	for _, m := range s.machines {
		m.watch(s.now)
	}
	s.trouble()
	for _, do := range s.rng.Perm(7) {
		switch {
		case do < simNodes:
			if s.rng.IntN(8) > 0 {
				s.work(s.machines[do])
			}
		case do == 3 || do == 4:
			s.planApp()
		case do == 5:
			s.planNodes()
		case do == 6:
			s.bind()
		}
		s.check()
	}
}

// trouble is what goes wrong, and what mends.
func (s *sim) trouble() {
	m := s.machines[s.rng.IntN(simNodes)]
	well := m.power && m.linked && m.agent
	switch s.rng.IntN(26) {
	case 0, 1:
		if m.linked && s.chance(2) {
			m.linked, m.since = false, s.now
			s.note("%s is cut off", m.name)
		}
	case 2:
		if m.power {
			m.crash(s.now)
			s.note("%s loses power", m.name)
		}
	case 3:
		if well {
			m.agent, m.since = false, s.now
			s.note("the agent of %s freezes", m.name)
		}
	case 4:
		if well {
			for _, model := range m.models {
				model.Restarted()
			}
			s.note("the agent of %s restarts", m.name)
		}
	case 5:
		s.lead()
	case 6:
		if s.chance(3) {
			s.declare()
		}
	case 7, 8:
		if !well && s.now.Sub(m.since) > 5*time.Second {
			m.power, m.linked, m.agent, m.since = true, true, true, s.now
			s.note("%s is back", m.name)
		}
	}
}

// crash is a power cut: nothing runs, and what the lease file said is gone.
func (m *simMachine) crash(now time.Time) {
	m.power, m.agent, m.since, m.until = false, false, now, time.Time{}
	for _, model := range m.models {
		model.End(now)
		model.Restarted()
	}
}

// watch is what holds the containers: half a second after the lease has ended,
// what needs it has ended too, whatever the agent does.
func (m *simMachine) watch(now time.Time) {
	if now.Before(m.until.Add(500 * time.Millisecond)) {
		return
	}
	for uid, model := range m.models {
		if m.pods[uid].Spec.Isolation == api.StopIsolated {
			model.End(now)
		}
	}
}

// work is what an agent does: renew the lease, hear, plan, tell.
func (s *sim) work(m *simMachine) {
	if !m.power || !m.agent {
		return
	}
	if m.linked && !s.chance(4) {
		// It asked a while ago, and counts from then.
		asked := s.now.Add(-time.Duration(s.rng.IntN(1500)) * time.Millisecond)
		if s.leases.Grant(m.name, s.fence, s.now) == nil {
			if !m.until.After(s.now) {
				m.era = s.now.UnixNano()
			}
			if until := asked.Add(s.leases.Length); until.After(m.until) {
				m.until = until
			}
		}
	}
	if m.linked && !s.chance(3) {
		s.hear(m)
	}
	for _, uid := range slices.Sorted(maps.Keys(m.models)) {
		for range 2 { // what the API takes lets it go on
			st, done := m.models[uid].Step(s.now, m.era, max(0, m.until.Sub(s.now)))
			s.checkOrdinals() // before anybody can object
			if m.linked {
				s.tell(m, uid, st)
			}
			if done {
				delete(m.models, uid)
				delete(m.pods, uid)
				break
			}
		}
	}
}

// hear takes in a view of the API. Of a pod that is new to the machine it may be
// an older one, of another server, from before the pod's end.
func (s *sim) hear(m *simMachine) {
	all := map[string]*api.Pod{}
	for _, p := range s.pods {
		if p.Spec.Node == m.name {
			all[p.Meta.UID] = p
		}
	}
	stale := m.shown != nil && s.chance(3)
	if !stale {
		m.shown = all
	}
	for uid, p := range m.shown {
		if m.models[uid] == nil && !p.Status.Phase.Ended() {
			m.models[uid], m.pods[uid] = pod.NewModel(*p), p
		}
		if !stale {
			m.pods[uid] = p
		}
	}
	for uid, model := range m.models {
		if !stale {
			model.Heard(all[uid])
		}
	}
}

// tell writes a pod's status, as the API takes it.
func (s *sim) tell(m *simMachine, uid string, st api.PodStatus) {
	p := s.pods[m.pods[uid].Meta.Name]
	if p == nil || p.Meta.UID != uid || !p.Status.Phase.MayBecome(st.Phase) {
		m.models[uid].Told(nil)
		return
	}
	next := *p
	next.Status = st
	s.commit(nil)
	s.pods[p.Meta.Name] = &next
	m.models[uid].Told(&next)
}

// view is what a loop sees: now and then, what was so a turn ago.
func (s *sim) view(own bool) []*api.Pod {
	now := slices.SortedFunc(maps.Values(s.pods), func(a, b *api.Pod) int { return strings.Compare(a.Meta.Name, b.Meta.Name) })
	if !own && s.podsOld != nil && s.chance(3) {
		now = s.podsOld
	}
	s.podsOld = now
	return now
}

func (s *sim) planApp() {
	app := s.app // a plan is for the app's own revision, or its write fails
	pods := s.view(true)
	p := planApp(app, facts{pods: pods, now: s.now})
	ops := p.ops(app.Ref(), app)
	if len(ops) == 0 {
		return
	}
	for _, x := range p.finalize {
		delete(s.pods, x.Meta.Name)
	}
	for _, r := range p.remove {
		next := *s.pods[r.pod.Meta.Name]
		at := s.now
		next.Meta.DeletedAt = &at
		s.pods[next.Meta.Name] = &next
	}
	for _, x := range p.create {
		if s.pods[x.Meta.Name] != nil {
			s.fail("%s is made twice", x.Meta.Name)
		}
		s.uid++
		next := *x
		next.Meta.UID, next.Meta.CreatedAt = fmt.Sprint("uid-", s.uid), s.now
		s.pods[x.Meta.Name] = &next
		if n := x.Spec.Ordinal; n != nil {
			if x.Spec.Epoch <= s.epochs[*n] {
				s.fail("epoch %d of ordinal %d after %d", x.Spec.Epoch, *n, s.epochs[*n])
			}
			s.epochs[*n] = x.Spec.Epoch
		}
	}
	next := *app
	if p.record {
		p.status.Rollout.Spec, _ = json.Marshal(app.Spec)
	}
	next.Status = p.status
	if p.rollback != nil {
		var spec api.AppSpec
		if err := json.Unmarshal(p.rollback, &spec); err != nil {
			s.fail("rollback: %s", err)
		}
		next.Spec, next.Effective = spec, api.Clone(spec).WithDefaults()
		next.Meta.Generation++
	}
	s.commit(&next)
	s.podsOld = nil
	s.note("app: %s", p)
}

func (s *sim) planNodes() {
	for _, m := range s.machines {
		t, known := s.said[m.name]
		connected := m.power && m.linked && m.agent
		switch {
		case !known:
			t = testimony{since: s.started, connected: connected}
		case t.connected != connected:
			t.connected, t.since = connected, s.now
		}
		t.heard = Heard{State: Alive, Since: m.since}
		if (!m.power || !m.linked) && s.now.Sub(m.since) > 3*time.Second {
			t.heard = Heard{State: Dead, Since: m.since}
		}
		s.said[m.name] = t
	}
	podsOf, pods := map[string][]*api.Pod{}, s.view(false)
	for _, p := range pods {
		podsOf[p.Spec.Node] = append(podsOf[p.Spec.Node], p)
	}
	left := map[string]time.Duration{}
	for _, n := range s.nodes {
		wait, gone := due(n.Status.Health, s.now)
		if gone && wait <= 0 && slices.ContainsFunc(podsOf[n.Meta.Name], leased) {
			left[n.Meta.Name] = s.leases.Withhold(n.Meta.Name, s.now)
		} else {
			s.leases.Admit(n.Meta.Name)
		}
	}
	p := planNodes(s.nodes, func(n string) []*api.Pod { return podsOf[n] }, nil, s.said, left, s.started, s.now)
	if p.empty() {
		return
	}
	for _, v := range p.verdicts {
		i := slices.Index(s.nodes, v.node)
		n := *v.node
		n.Status.Health = v.health
		s.nodes[i] = &n
	}
	for _, x := range slices.Concat(p.held, p.lost) {
		now := s.pods[x.pod.Meta.Name]
		if now == nil || now.Meta.UID != x.pod.Meta.UID || now.Status.Phase.Ended() {
			continue
		}
		next := *now
		next.Status.Ready, next.Status.Reason, next.Status.Message = false, x.reason, x.why
		if slices.Contains(p.lost, x) {
			next.Status.Phase = api.PhaseLost
		}
		s.pods[next.Meta.Name] = &next
	}
	s.commit(nil)
	s.note("nodes: %s", p)
}

// bind places pods where there is room, as the API takes it.
func (s *sim) bind() {
	on := map[string]int{}
	for _, p := range s.pods {
		if !p.Status.Phase.Ended() {
			on[p.Spec.Node]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.pods)) {
		p := s.pods[name]
		if p.Spec.Node != "" || p.Meta.Deleting() {
			continue
		}
		for _, i := range s.rng.Perm(simNodes) {
			n := s.nodes[i]
			if n.Status.Health.Schedulable() && on[n.Meta.Name] < simRoom {
				next := *p
				next.Spec.Node = n.Meta.Name
				on[n.Meta.Name]++
				s.pods[name] = &next
				s.commit(nil)
				s.note("%s to %s", name, n.Meta.Name)
				break
			}
		}
	}
}

// check is what must hold at all times.
func (s *sim) check() {
	s.checkOrdinals()
	dead := map[string]bool{}
	for _, n := range s.nodes {
		dead[n.Meta.Name] = n.Status.Health.Gone()
	}
	on, alive := map[string]int{}, 0
	for _, p := range s.pods {
		if p.Status.Phase.Ended() || p.Meta.Deleting() && p.Spec.Node == "" {
			continue
		}
		on[p.Spec.Node]++
		if !dead[p.Spec.Node] {
			alive++
		}
	}
	for n, count := range on {
		if n != "" && count > simRoom {
			s.fail("%d pods on %s, which has room for %d", count, n, simRoom)
		}
	}
	if most := simReplicas + *s.app.Effective.Update.Surge; alive > most {
		s.fail("%d pods on nodes that are not dead, at most %d may be", alive, most)
	}
	st := s.app.Status
	for _, r := range append(slices.Clone(st.History), st.Rollout) {
		if was, ended := s.ends[r.Number]; ended && was != r.Phase {
			s.fail("rollout %d ended as %s and is %s now", r.Number, was, r.Phase)
		}
		if r.Phase.Terminal() {
			s.ends[r.Number] = r.Phase
		}
	}
}

// checkOrdinals demands that no two pods of an ordinal run.
func (s *sim) checkOrdinals() {
	holder := map[int]string{}
	for _, m := range s.machines {
		for _, uid := range slices.Sorted(maps.Keys(m.models)) {
			p := m.pods[uid]
			if p.Spec.Ordinal == nil || !m.models[uid].Runs() {
				continue
			}
			me := p.Meta.Name + " on " + m.name
			if other := holder[*p.Spec.Ordinal]; other != "" {
				s.fail("two pods of ordinal %d run: %s and %s", *p.Spec.Ordinal, other, me)
			}
			holder[*p.Spec.Ordinal] = me
		}
	}
}
