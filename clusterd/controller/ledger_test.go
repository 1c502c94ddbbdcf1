package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// ledger follows the cluster revision by revision, exactly as the API had it,
// and says what should never have been so:
//
//   - pods made beyond what their owner may have on nodes that are not dead:
//     replicas and surge of an app, one of each ordinal, one on each node,
//     parallelism of a job's run;
//   - more reserved on a node than it has;
//   - more taken of a namespace's quota than there is;
//   - a pod whose phase goes back, or whose node changes;
//   - two pods of one ordinal that run, on whatever machines.
type ledger struct {
	fail func(format string, args ...any)

	mu      sync.Mutex
	entries []entry
	seen    map[string]int64 // by kind: nothing up to this revision is missing
	pods    map[string]*api.Pod
	apps    map[string]*api.App
	jobs    map[string]*api.Job
	nodes   map[string]*api.Node
	spaces  map[string]*api.Namespace
	volumes map[string]*api.Volume
	took    map[string]api.Charge // of quotas, at the revision before
	known   map[string]*api.Pod   // every pod that ever was, by UID
}

// entry is one change, to be taken in with all others of its revision.
type entry struct {
	revision int64
	apply    func()
	made     *api.Pod // a pod that was not there before
}

func newLedger(fail func(format string, args ...any)) *ledger {
	return &ledger{fail: fail, seen: map[string]int64{}, pods: map[string]*api.Pod{}, apps: map[string]*api.App{}, jobs: map[string]*api.Job{},
		nodes: map[string]*api.Node{}, spaces: map[string]*api.Namespace{}, volumes: map[string]*api.Volume{}, took: map[string]api.Charge{}, known: map[string]*api.Pod{}}
}

// follow feeds the ledger until ctx ends.
func (l *ledger) follow(ctx context.Context, c *client.Client) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		hear(ctx, l, c, api.Apps, func(o *api.App) entry { return entry{apply: keep(l.apps, o)} }, l.apps)
	})
	wg.Go(func() {
		hear(ctx, l, c, api.Jobs, func(o *api.Job) entry { return entry{apply: keep(l.jobs, o)} }, l.jobs)
	})
	wg.Go(func() {
		hear(ctx, l, c, api.Nodes, func(o *api.Node) entry { return entry{apply: keep(l.nodes, o)} }, l.nodes)
	})
	wg.Go(func() {
		hear(ctx, l, c, api.Namespaces, func(o *api.Namespace) entry { return entry{apply: keep(l.spaces, o)} }, l.spaces)
	})
	wg.Go(func() {
		hear(ctx, l, c, api.Volumes, func(o *api.Volume) entry { return entry{apply: keep(l.volumes, o)} }, l.volumes)
	})
	wg.Go(func() { hear(ctx, l, c, api.Pods, l.pod, l.pods) })
}

func key(o api.Any) string { return o.GetMeta().Namespace + "/" + o.GetMeta().Name }

func keep[O api.Any](in map[string]O, o O) func() {
	return func() { in[key(o)] = o }
}

// hear notes the changes of one kind.
func hear[O api.Any](ctx context.Context, l *ledger, c *client.Client, k *api.Kind[O], put func(O) entry, in map[string]O) {
	l.mu.Lock()
	l.seen[k.Plural] = 0
	l.mu.Unlock()
	for ev, err := range client.Of(c, k).Watch(ctx, "", nil, 0) {
		if err != nil {
			if ctx.Err() == nil {
				l.fail("the ledger of %s broke: %s", k.Plural, err)
			}
			return
		}
		l.mu.Lock()
		switch ev.Type {
		case api.EventPut:
			e := put(ev.Object)
			e.revision = ev.Revision
			l.entries = append(l.entries, e)
		case api.EventDelete:
			l.entries = append(l.entries, entry{revision: ev.Revision, apply: func() { delete(in, key(ev.Object)) }})
		case api.EventBookmark:
			l.seen[k.Plural] = ev.Revision
		}
		l.mu.Unlock()
	}
}

// pod is an entry of a pod, which is compared with what it was.
func (l *ledger) pod(p *api.Pod) entry {
	l.known[p.Meta.UID] = p
	e := entry{made: p}
	e.apply = func() {
		was := l.pods[key(p)]
		switch {
		case was == nil || was.Meta.UID != p.Meta.UID:
			return
		case !was.Status.Phase.MayBecome(p.Status.Phase):
			l.fail("%s went from %s to %s", p.Meta.Name, was.Status.Phase, p.Status.Phase)
		case was.Spec.Node != "" && was.Spec.Node != p.Spec.Node:
			l.fail("%s went from node %s to %q", p.Meta.Name, was.Spec.Node, p.Spec.Node)
		}
	}
	return e
}

// settle takes in all revisions that are known in full, and checks each.
func (l *ledger) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := slices.Min(slices.Collect(maps.Values(l.seen)))
	slices.SortStableFunc(l.entries, func(a, b entry) int { return cmp.Compare(a.revision, b.revision) })
	for len(l.entries) > 0 && l.entries[0].revision <= known {
		revision := l.entries[0].revision
		var made []*api.Pod
		for len(l.entries) > 0 && l.entries[0].revision == revision {
			e := l.entries[0]
			l.entries = l.entries[1:]
			e.apply()
			if p := e.made; p != nil {
				if was := l.pods[key(p)]; was == nil || was.Meta.UID != p.Meta.UID {
					made = append(made, p)
				}
				l.pods[key(p)] = p
			}
		}
		l.check(made)
	}
}

func (l *ledger) check(made []*api.Pod) {
	for _, p := range made {
		switch {
		case p.Spec.App != "":
			l.checkApp(p)
		case p.Spec.Job != "":
			l.checkJob(p)
		}
	}
	l.checkNodes()
	l.checkQuotas()
}

// blind is for how long a loop may go by nodes as they were: chaos breaks its
// watch of them, and not that of pods. Who comes back within it has its pods back,
// and nobody has seen that.
const blind = 2 * time.Second

// mates returns the pods that are, of those for which is says so, on nodes that
// are not dead or on their way to one, as a loop may have seen it at a moment.
func (l *ledger) mates(at time.Time, is func(*api.Pod) bool) (all, alive []*api.Pod) {
	for _, p := range l.pods {
		if over(p) || !is(p) {
			continue
		}
		all = append(all, p)
		if n := l.nodes["/"+p.Spec.Node]; p.Spec.Node == "" || n != nil && !n.Status.Health.Gone() && at.Sub(n.Status.Health.Since) > blind {
			alive = append(alive, p)
		}
	}
	return all, alive
}

func (l *ledger) checkApp(p *api.Pod) {
	app := l.apps[p.Meta.Namespace+"/"+p.Spec.App]
	if app == nil {
		l.fail("%s was made for an app that is gone", p.Meta.Name)
		return
	}
	all, alive := l.mates(p.Meta.CreatedAt, func(o *api.Pod) bool { return o.Meta.Namespace == p.Meta.Namespace && o.Spec.App == p.Spec.App })
	s := app.Effective
	most := api.Desired(app) + max(api.Deref(s.Update.Surge), api.Deref(s.Update.Canary))
	switch {
	case api.Deref(s.PerNode):
		for _, o := range all {
			if o != p && hostOf(o) == hostOf(p) {
				l.fail("%s was made while %s is on %s", p.Meta.Name, o.Meta.Name, hostOf(p))
			}
		}
		return
	case s.Stateful != nil:
		for _, o := range all {
			if o != p && ordinalOf(o) == ordinalOf(p) {
				l.fail("%s was made while %s has its ordinal", p.Meta.Name, o.Meta.Name)
			}
		}
		most = api.Desired(app)
	}
	if len(alive) > most {
		l.fail("%s was made as number %d of %s on nodes that are not dead, at most %d may be: %s", p.Meta.Name, len(alive), p.Spec.App, most, names(alive))
	}
}

func (l *ledger) checkJob(p *api.Pod) {
	job := l.jobs[p.Meta.Namespace+"/"+p.Spec.Job]
	if job == nil {
		l.fail("%s was made for a job that is gone", p.Meta.Name)
		return
	}
	_, alive := l.mates(p.Meta.CreatedAt, func(o *api.Pod) bool { return o.Meta.Namespace == p.Meta.Namespace && o.Spec.Run == p.Spec.Run })
	if most := api.Deref(job.Effective.Parallelism); len(alive) > most {
		l.fail("%s was made as number %d of run %s, at most %d may be at a time", p.Meta.Name, len(alive), p.Spec.Run, most)
	}
}

func (l *ledger) checkNodes() {
	type use struct {
		cpu, memory int64
		pods        int
	}
	used := map[string]use{}
	for _, p := range l.pods {
		if p.Spec.Node == "" || p.Status.Phase.Ended() {
			continue
		}
		cpu, memory := p.Spec.Requests()
		u := used[p.Spec.Node]
		used[p.Spec.Node] = use{u.cpu + cpu, u.memory + memory, u.pods + 1}
	}
	for name, u := range used {
		n := l.nodes["/"+name]
		if n == nil {
			continue // deleted: its pods are lost in a moment
		}
		if has := n.Status.Allocatable; u.cpu > has.CPU.Milli() || u.memory > has.Memory.Bytes() || u.pods > has.Pods {
			l.fail("%dm, %d bytes and %d pods are reserved on %s, which has %+v", u.cpu, u.memory, u.pods, name, has)
		}
	}
}

// checkQuotas: what is taken may be more than a quota that was lowered, and
// then must not grow.
func (l *ledger) checkQuotas() {
	for name, ns := range l.spaces {
		q := ns.Effective.Quota
		if q == nil {
			continue
		}
		sum := l.taken(ns.Meta.Name)
		was := l.took[name]
		l.took[name] = sum
		exceeds := func(limit, now, before int64) bool { return now > limit && now > before }
		if q.CPU != "" && exceeds(q.CPU.Milli(), sum.CPU, was.CPU) || q.Memory != "" && exceeds(q.Memory.Bytes(), sum.Memory, was.Memory) ||
			q.Replicas != nil && exceeds(int64(*q.Replicas), sum.Replicas, was.Replicas) || q.Volumes != nil && exceeds(int64(*q.Volumes), sum.Volumes, was.Volumes) ||
			q.Storage != "" && exceeds(q.Storage.Bytes(), sum.Storage, was.Storage) {
			l.fail("namespace %s takes %+v of %+v", ns.Meta.Name, sum.Used(), *q)
		}
	}
}

// taken sums what a namespace's quota is charged: what workloads declare, or
// the pods there are where those may be more.
func (l *ledger) taken(namespace string) (sum api.Charge) {
	add := func(declared api.Charge, elastic bool, is func(*api.Pod) bool) {
		var live api.Charge
		for _, p := range l.pods {
			if elastic && p.Meta.Namespace == namespace && is(p) && !p.Status.Phase.Ended() {
				live = live.Plus(p.Spec.Charge())
			}
		}
		sum = sum.Plus(declared.Most(live))
	}
	for _, a := range l.apps {
		if a.Meta.Namespace == namespace {
			add(a.Effective.Charge(), a.Effective.Elastic(), func(p *api.Pod) bool { return p.Spec.App == a.Meta.Name })
		}
	}
	for _, j := range l.jobs {
		if j.Meta.Namespace == namespace {
			add(j.Effective.Charge(), j.Effective.Elastic(), func(p *api.Pod) bool { return p.Spec.Job == j.Meta.Name })
		}
	}
	for _, v := range l.volumes {
		if v.Meta.Namespace == namespace {
			sum = sum.Plus(v.Effective.Charge())
		}
	}
	return sum
}

// audit follows a world, and its machines if they are any, until it is told to
// stop.
func (w *world) audit(machines []*hollowNode) (stop func()) {
	var mu sync.Mutex
	told := map[string]bool{}
	l := newLedger(func(format string, args ...any) { // once each
		mu.Lock()
		defer mu.Unlock()
		if m := fmt.Sprintf(format, args...); !told[m] {
			told[m] = true
			w.t.Error(m)
		}
	})
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.follow(ctx, w.client) })
	wg.Go(func() {
		for ctx.Err() == nil {
			sleep(ctx, time.Second)
			l.settle()
		}
	})
	for _, h := range machines {
		wg.Go(func() {
			for ctx.Err() == nil {
				l.look(machines)
				changes, err := h.Runtime.Events(ctx)
				for err == nil {
					if _, ok := <-changes; !ok {
						break
					}
					l.look(machines)
				}
				sleep(ctx, 250*time.Millisecond)
			}
		})
	}
	synctest.Wait() // what there is is told as it is now, not as it came to be
	return func() {
		time.Sleep(10 * time.Second) // two bookmarks
		cancel()
		wg.Wait()
		l.settle()
	}
}

// look compares what runs on all machines: of each ordinal, at most one pod.
func (l *ledger) look(machines []*hollowNode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	holders := map[string]holder{}
	for _, h := range machines {
		runs, err := h.Runtime.List(context.Background())
		if err != nil {
			continue
		}
		for _, r := range runs {
			p := l.known[r.Labels[pod.LabelUID]]
			if r.State != runtime.Running || p == nil || p.Spec.Ordinal == nil {
				continue
			}
			ordinal, me := fmt.Sprintf("%d of %s", *p.Spec.Ordinal, p.Spec.App), holder{h, r, p.Meta.Name}
			if other, ok := holders[ordinal]; ok && other.pod != me.pod && other.overlaps(me) {
				l.fail("two pods of ordinal %s run: %s, and %s", ordinal, other, me)
			}
			holders[ordinal] = me
		}
	}
}

// holder is a container that runs for an ordinal.
type holder struct {
	on  *hollowNode
	is  runtime.Status
	pod string
}

func (h holder) String() string {
	return fmt.Sprintf("%s on %s since %s", h.pod, h.on.name, h.is.StartedAt.Format("04:05.000"))
}

// overlaps reports whether it runs still, or ended after the other began: the
// machines were looked at one after the other.
func (h holder) overlaps(other holder) bool {
	runs, err := h.on.Runtime.List(context.Background())
	if err != nil {
		return false
	}
	for _, r := range runs {
		if r.ID == h.is.ID && r.StartedAt.Equal(h.is.StartedAt) {
			return r.State == runtime.Running || r.Exit.At.After(other.is.StartedAt)
		}
	}
	return false
}
