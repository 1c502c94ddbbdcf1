package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// appPlan is what to do next for one app.
type appPlan struct {
	create   []*api.Pod
	claims   []*api.Volume // of ordinals: to make, or to grow
	remove   []removal
	finalize []*api.Pod // nothing of them is left on a node

	status api.AppStatus
	// record says that the rollout begins: its declared spec is to be kept.
	record bool
	// rollback is the declared spec to put back, in the same transaction that
	// says so in the status, with the images of the rollout of that number.
	rollback   json.RawMessage
	rollbackTo int64
	restore    []putBack // of configs and secrets, likewise
	finish     bool      // the app itself goes
	events     []api.Event
	again      time.Duration
}

// removal asks a pod to stop.
type removal struct {
	pod *api.Pod
	why string
}

func (p appPlan) String() string {
	var b strings.Builder
	for _, pod := range p.finalize {
		fmt.Fprintf(&b, "x %s %s\n", pod.Meta.Name, cmp.Or(pod.Status.Phase, api.PhasePending))
	}
	for _, r := range p.remove {
		fmt.Fprintf(&b, "- %s %s\n", r.pod.Meta.Name, r.why)
	}
	for _, v := range p.claims {
		fmt.Fprintf(&b, "%s volume %s %s\n", map[bool]string{true: "+", false: "~"}[v.Meta.UID == ""], v.Meta.Name, v.Spec.Size)
	}
	for _, pod := range p.create {
		fmt.Fprintf(&b, "+ %s %s", pod.Meta.Name, api.ShortImage(pod.Spec.Image))
		if pod.Spec.Target != "" {
			fmt.Fprintf(&b, " on %s", pod.Spec.Target)
		}
		b.WriteByte('\n')
	}
	if p.finish {
		b.WriteString("x the app\n")
	}
	if p.rollback != nil {
		fmt.Fprintf(&b, "< %s\n", p.rollback)
	}
	for _, back := range p.restore {
		fmt.Fprintln(&b, back)
	}
	st := p.status
	fmt.Fprintf(&b, "= desired=%d replicas=%d ready=%d updated=%d", st.Desired, st.Replicas, st.Ready, st.Updated)
	if st.Failures > 0 {
		fmt.Fprintf(&b, " failures=%d", st.Failures)
	}
	if st.Epoch > 0 {
		fmt.Fprintf(&b, " epoch=%d", st.Epoch)
	}
	b.WriteByte('\n')
	if st.Message != "" {
		fmt.Fprintf(&b, "= %s\n", st.Message)
	}
	for i, r := range append([]api.Rollout{st.Rollout}, st.History...) {
		if r.Generation == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s generation %d revision %s %s", []string{"=", " "}[min(i, 1)], r.Generation, r.Revision, r.Phase)
		if r.Reason != "" {
			fmt.Fprintf(&b, " (%s)", r.Reason)
		}
		if r.Cause != nil {
			fmt.Fprintf(&b, ": %s: %s", r.Cause.Reason, r.Cause.Message)
		}
		b.WriteByte('\n')
	}
	if p.again > 0 {
		fmt.Fprintf(&b, "again %s\n", p.again)
	}
	return b.String()
}

// sooner asks for another run after d, if positive.
func (p *appPlan) sooner(d time.Duration) { p.again = sooner(p.again, d) }

func (p *appPlan) event(warning bool, reason, format string, args ...any) {
	p.events = append(p.events, api.Event{Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...), By: "app"})
}

// facts is what a plan is made from beside the app or the job itself.
type facts struct {
	pods  []*api.Pod
	nodes map[string]*api.Node // by name
	// volumes of the namespace, by name.
	volumes map[string]*api.Volume
	// contents returns the versions of the configs and secrets that pods of a
	// template use, and the cause if one is missing. Nil: nothing is known of any.
	contents func(api.PodTemplate) (map[string]string, *api.Cause)
	wanted   int // what the scaler wants; 0: it has no say
	// refused says why the quota of the namespace had no room for some of what
	// was planned a moment ago, by what that was.
	refused map[api.Ref]string
	now     time.Time
}

func (see facts) contentsOf(t api.PodTemplate) (map[string]string, *api.Cause) {
	if see.contents == nil {
		return nil, nil
	}
	return see.contents(t)
}

// fleet is the pods of one app, sorted by what they are good for.
type fleet struct {
	all      []*api.Pod
	current  []*api.Pod // of the wanted revision, neither asked to stop nor ended
	older    []*api.Pod // of any other, likewise
	stopping []*api.Pod // asked to stop, and not ended
	ended    []*api.Pod // nothing of them is left on a node
}

func newFleet(pods []*api.Pod, revision string) (f fleet) {
	f.all = pods
	for _, pod := range pods {
		switch {
		case pod.Status.Phase.Ended(), pod.Meta.Deleting() && pod.Spec.Node == "": // no scheduler binds it any more
			f.ended = append(f.ended, pod)
		case pod.Meta.Deleting():
			f.stopping = append(f.stopping, pod)
		case pod.Spec.Revision == revision:
			f.current = append(f.current, pod)
		default:
			f.older = append(f.older, pod)
		}
	}
	return f
}

// planApp decides without doing: it has no context, no clock and no client. A
// nil app is one that is gone; its pods follow. A change of the spec begins a
// rollout, which proceeds step by step until it is complete or has failed
// (rollout.go says how, cause.go why); then pods are only kept alive.
func planApp(app *api.App, see facts) (p appPlan) {
	if app == nil || app.Meta.Deleting() {
		p.end(app, newFleet(see.pods, ""))
		return p
	}
	p.status = app.Status
	p.status.History = slices.Clone(p.status.History)
	var hosts []string
	p.status.Desired, hosts = size(app, see)
	p.begin(app, see)
	f := newFleet(see.pods, p.status.Rollout.Revision)
	p.count(f)
	r := newRollout(app, &p, f, see)
	r.hosts = hosts
	r.expire()
	if p.status.Rollout.Phase == api.RolloutInProgress {
		r.proceed()
	} else {
		r.heal()
	}
	if p.status.Rollout.Revision != r.is.revision { // what was before is put back
		p.count(newFleet(see.pods, p.status.Rollout.Revision))
	}
	p.status.Message = r.message()
	if len(p.create) > 0 {
		p.event(false, "created", "created %s", names(p.create))
	}
	for _, r := range p.remove {
		p.event(false, "stopping", "%s is asked to stop: %s", r.pod.Meta.Name, r.why)
	}
	return p
}

// size says how many pods an app wants now, and where each has its own node,
// on which.
func size(app *api.App, see facts) (n int, hosts []string) {
	s := app.Effective
	switch {
	case api.Deref(s.PerNode):
		hosts = hostsOf(app, see)
		return len(hosts), hosts
	case s.Scale != nil:
		return min(max(cmp.Or(see.wanted, app.Status.Desired), api.Deref(s.Scale.Min)), s.Scale.Max), nil
	}
	return api.Deref(s.Replicas), nil
}

// begin opens a rollout of what is asked for, a generation, versions of its
// contents and perhaps a restart, and closes the one it supersedes. What was
// asked for once begins once, however it ended.
func (p *appPlan) begin(app *api.App, see facts) {
	st, s := &p.status, app.Effective
	st.ObservedGeneration = app.Meta.Generation
	contents, missing := see.contentsOf(s.Template())
	restart := st.Intent.Restart
	asked := api.Asked(contents, restart)
	if st.Rollout.Generation > app.Meta.Generation && len(st.History) > 0 {
		// The spec that was put back was the declared one all along: there is no
		// such generation.
		st.Rollout, st.History = st.History[0], st.History[1:]
	}
	old := st.Rollout
	if old.Generation == app.Meta.Generation && (old.Asked == asked || missing != nil) {
		return // what runs keeps what it has of a secret that was taken away
	}
	p.retire(see.now)
	st.Rollout = api.Rollout{
		Number: old.Number + 1, Generation: app.Meta.Generation, Revision: s.Revision(contents, restart), Phase: api.RolloutInProgress,
		Image: app.Spec.Image, Images: api.DigestsOf(app.Spec.Template(), s.Template()), Contents: contents, Restarted: restart, Asked: asked, StartedAt: see.now, ProgressAt: see.now,
	}
	if old.Generation == app.Meta.Generation {
		st.Rollout.Reason = sameGeneration(&old, &st.Rollout)
	}
	st.Failures, st.FailedAt = 0, time.Time{}
	p.record = true
	if healthy := st.LastHealthy(); healthy != nil && healthy.Revision == st.Rollout.Revision {
		p.event(false, "scaled", "generation %d wants %d of revision %s", app.Meta.Generation, st.Desired, st.Rollout.Revision)
	} else {
		p.event(false, "rollout_started", "generation %d rolls out revision %s with image %s", app.Meta.Generation, st.Rollout.Revision, api.ShortImage(s.Image))
	}
}

// sameGeneration says why a generation is rolled out once more.
func sameGeneration(was, is *api.Rollout) string {
	if !is.Restarted.Equal(was.Restarted) && is.Restarted.After(was.StartedAt) {
		return "restart"
	}
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(is.Contents)) {
		if was.Contents[name] != is.Contents[name] {
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 {
		return "contents changed"
	}
	return "change of " + strings.Join(changed, ", ")
}

const maxHistory = 10

// retire moves the current rollout to the history, which keeps the newest
// healthy one however many failed since: it is what a rollback puts back.
func (p *appPlan) retire(now time.Time) {
	st := &p.status
	old := st.Rollout
	if old.Generation == 0 {
		return
	}
	if old.Phase == api.RolloutInProgress {
		old.Phase, old.EndedAt = api.RolloutSuperseded, now
	}
	st.History = append([]api.Rollout{old}, st.History...)
	st.Rollout = api.Rollout{}
	for len(st.History) > maxHistory {
		last := len(st.History) - 1
		if healthy := st.LastHealthy(); healthy == &st.History[last] {
			last--
		}
		st.History = slices.Delete(st.History, last, last+1)
	}
}

// count fills in what the pods say.
func (p *appPlan) count(f fleet) {
	st := &p.status
	st.Replicas = len(f.current) + len(f.older) + len(f.stopping)
	st.Ready = len(ready(f.current)) + len(ready(f.older))
	st.Updated = len(f.current)
}

// end stops all pods of an app that is to go, and then lets it go.
func (p *appPlan) end(app *api.App, f fleet) {
	p.finalize = f.ended
	for _, pod := range slices.Concat(f.current, f.older) {
		p.remove = append(p.remove, removal{pod, "the app is deleted"})
	}
	if app == nil {
		return
	}
	p.status = app.Status
	p.count(f)
	if len(f.all) == 0 {
		p.finish = true
		return
	}
	p.status.Ready, p.status.Message = 0, fmt.Sprintf("being deleted: waits for %s to end", names(f.all))
}

func ready(pods []*api.Pod) []*api.Pod {
	return filter(pods, func(pod *api.Pod) bool { return pod.Status.Ready })
}

func filter(pods []*api.Pod, keep func(*api.Pod) bool) (out []*api.Pod) {
	for _, pod := range pods {
		if keep(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// names lists pods in words: the first few, and how many more.
func names(pods []*api.Pod) string {
	const most = 5
	var out []string
	for _, pod := range pods[:min(len(pods), most)] {
		out = append(out, pod.Meta.Name)
	}
	if more := len(pods) - most; more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

// apps is the loop that keeps apps running.
type apps struct {
	client *client.Client
	apps   *client.Kind[*api.App]
	caches *reconcile.Caches
	scaler *scaler
	log    hclog.Logger

	wroteApp, wrotePods, wroteConfigs, wroteSecrets reconcile.Written

	doubt sync.Map // by ref: a write whose fate is not known
}

func newApps(cfg Config) *apps {
	return &apps{client: cfg.Client, apps: client.Of(cfg.Client, api.Apps), caches: cfg.Caches, scaler: newScaler(cfg.Client), log: cfg.Log.Named("app")}
}

func (l *apps) loop() reconcile.Loop {
	return reconcile.Loop{
		Name:    "app",
		Workers: 4,
		Watch: []reconcile.Source{
			l.caches.Apps.Each(),
			l.caches.Pods.Refs(func(p *api.Pod) []api.Ref {
				if p.Spec.App == "" {
					return nil
				}
				return []api.Ref{api.Apps.Ref(p.Meta.Namespace, p.Spec.App)}
			}),
			l.caches.Nodes.Refs(l.onNode),
			l.caches.Configs.Refs(func(c *api.Config) []api.Ref { return l.onContent(c.Meta.Namespace, "config/"+c.Meta.Name) }),
			l.caches.Secrets.Refs(func(s *api.Secret) []api.Ref { return l.onContent(s.Meta.Namespace, "secret/"+s.Meta.Name) }),
			l.caches.Contents.Refs(func(c *api.Content) []api.Ref { return l.onContent(c.Meta.Namespace, c.Spec.Of) }),
		},
		Reconcile: l.reconcile,
	}
}

func (l *apps) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	// A config that was put back with the app, seen as it was before, would be
	// rolled out again.
	if err := cmp.Or(
		l.caches.Apps.Await(ctx, l.wroteApp.Of(ref)), l.caches.Pods.Await(ctx, l.wrotePods.Of(ref)),
		l.caches.Configs.Await(ctx, l.wroteConfigs.Of(ref)), l.caches.Secrets.Await(ctx, l.wroteSecrets.Of(ref)),
	); err != nil {
		return 0, err
	}
	app := l.caches.Apps.Get(ref.Namespace, ref.Name)
	pods := l.caches.Pods.By("app", ref.Namespace, ref.Name)
	if app == nil && len(pods) == 0 {
		l.scaler.forget(l.caches.Apps.List())
		for _, w := range []*reconcile.Written{&l.wroteApp, &l.wrotePods, &l.wroteConfigs, &l.wroteSecrets} {
			w.Forget(ref)
		}
		return 0, nil
	}
	if app == nil {
		if err := absent(ctx, l.apps, ref.Namespace, ref.Name); err != nil {
			return 0, err
		}
	}
	if _, unsure := l.doubt.Load(ref); unsure && app != nil {
		return 0, l.settle(ctx, ref)
	}
	see := look(l.caches, ref.Namespace, pods, api.Now())
	var measure time.Duration
	if app != nil && app.Effective.Scale != nil && !app.Meta.Deleting() {
		see.wanted, measure = l.scaler.wants(ctx, app, pods)
	}
	p := planApp(app, see)
	err := l.apply(ctx, ref, app, p)
	if see.refused = refused(err); see.refused != nil && app != nil {
		p = planApp(app, see)
		err = l.apply(ctx, ref, app, p)
	}
	if err != nil {
		return 0, err
	}
	p.sooner(measure)
	return p.again, nil
}

// onNode returns the apps that a change of a node may concern: those that want
// a pod on each, and those that have pods there.
func (l *apps) onNode(n *api.Node) (refs []api.Ref) {
	for _, app := range l.caches.Apps.List() {
		if api.Deref(app.Effective.PerNode) {
			refs = append(refs, refOf(api.Apps, app))
		}
	}
	for _, pod := range l.caches.Pods.By("node", "", n.Meta.Name) {
		if pod.Spec.App != "" {
			refs = append(refs, api.Apps.Ref(pod.Meta.Namespace, pod.Spec.App))
		}
	}
	return refs
}

// look gathers what a plan of an app or a job is made from.
func look(caches *reconcile.Caches, namespace string, pods []*api.Pod, now time.Time) facts {
	volumes := map[string]*api.Volume{}
	for _, v := range caches.Volumes.List() {
		if v.Meta.Namespace == namespace {
			volumes[v.Meta.Name] = v
		}
	}
	return facts{pods: pods, nodes: caches.Nodes.ByName(), volumes: volumes, contents: versions(caches, namespace), now: now}
}

// apply carries a plan out in one transaction, which fails if the app is not
// any more what the plan was made for.
func (l *apps) apply(ctx context.Context, ref api.Ref, app *api.App, p appPlan) error {
	var demand []api.BatchPrecondition
	if app != nil {
		demand = []api.BatchPrecondition{{Ref: ref, UID: app.Meta.UID, Generation: app.Meta.Generation}}
		if app.Effective.Stateful != nil { // nobody else may have counted on since
			demand[0].Revision = app.Meta.Revision
		}
		if p.record {
			declared, err := l.apps.GetDeclared(ctx, ref.Namespace, ref.Name)
			if err != nil {
				return fmt.Errorf("read declared spec: %w", err)
			}
			if declared.Meta.Generation != app.Meta.Generation {
				return errStale
			}
			p.status.Rollout.Spec = declared.Spec
		}
	}
	ops := p.ops(ref, app)
	if len(p.restore) > 0 {
		unchanged, back, err := l.restoring(app, p.restore)
		if err != nil {
			return err
		}
		demand, ops = append(demand, unchanged...), append(ops, back...)
	}
	if len(ops) == 0 {
		return nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	if app != nil && app.Effective.Stateful != nil {
		l.doubt.Store(ref, true)
	}
	err := batches(ctx, l.client, demand, ops, func(wrote api.Ref, revision int64) {
		switch wrote.Kind {
		case api.Pods.Name:
			l.wrotePods.Note(ref, revision)
		case api.Configs.Name:
			l.wroteConfigs.Note(ref, revision)
		case api.Secrets.Name:
			l.wroteSecrets.Note(ref, revision)
		case api.Apps.Name:
			l.wroteApp.Note(ref, revision)
		}
	})
	if err != nil {
		return err
	}
	l.doubt.Delete(ref)
	l.tellBack(ctx, app, p.restore)
	record(ctx, l.client, l.log, ref, p.events)
	return nil
}

// settle waits, after a write of which it is not known whether it happened,
// until pods are seen as they are with the app: to make a pod of an ordinal
// anew, it is not enough not to see the one there is.
func (l *apps) settle(ctx context.Context, ref api.Ref) error {
	app, err := l.apps.Get(ctx, ref.Namespace, ref.Name)
	if err != nil && !api.Is(err, api.NotFound) {
		return err
	}
	if err == nil {
		l.wroteApp.Note(ref, app.Meta.Revision)
		l.wrotePods.Note(ref, app.Meta.Revision)
	}
	l.doubt.Delete(ref)
	return errStale
}

// ops are the writes of a plan; what says that they happened comes last.
func (p appPlan) ops(ref api.Ref, app *api.App) (ops []write) {
	ops = departures(p.finalize, p.remove)
	for _, v := range p.claims {
		if v.Meta.UID == "" {
			ops = append(ops, create(api.Volumes, v))
		} else {
			ops = append(ops, put(api.Volumes, v))
		}
	}
	for _, pod := range p.create {
		ops = append(ops, create(api.Pods, pod))
	}
	switch {
	case app == nil:
	case p.finish:
		ops = append(ops, remove(ref, app.Meta.UID, true))
	case p.record || !reflect.DeepEqual(p.status, app.Status):
		o := *app
		o.Status = p.status
		ops = append(ops, status(api.Apps, &o))
	}
	if p.rollback != nil {
		ops = append(ops, write{ref, api.BatchWrite{Rollout: p.rollbackTo, Put: marshal(client.Declared{Kind: api.Apps.Name, Spec: p.rollback,
			Meta: api.Meta{Name: ref.Name, Namespace: ref.Namespace, UID: app.Meta.UID, Labels: app.Meta.Labels}})}})
	}
	return ops
}
