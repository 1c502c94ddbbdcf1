package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// Config is what the scheduler works with. The client's writes must be fenced
// where more than one server may lead.
type Config struct {
	Client *client.Client
	Caches *reconcile.Caches // run by the caller
	Log    hclog.Logger
}

const (
	batchSize = 100 // binds in one transaction
	planSize  = 1000
	sayAtOnce = 100 // reasons written between two plans
	minRetry  = 100 * time.Millisecond
	maxRetry  = 5 * time.Second
	// oftenest is how often a pod's reason is rewritten when it changes: its
	// numbers move with every pod that comes and goes.
	oftenest = 10 * time.Second
	// hurtFor is how long a node on which a pod failed is the last choice for pods
	// of its revision.
	hurtFor = 10 * time.Minute
)

// loop is the picture, the pods that wait, and what was decided for them.
type loop struct {
	client *client.Client
	apps   *reconcile.Cache[*api.App]
	pods   *client.Kind[*api.Pod]
	log    hclog.Logger
	wake   chan struct{} // has a token when a plan may decide something new

	mu      sync.Mutex
	picture *picture
	waiting *backlog
	bound   map[string]int64 // revision of binds that the cache has not shown yet, by UID
	said    map[string]time.Time
	hurts   []hurt
}

// hurt is a pod of a revision that failed on a node.
type hurt struct {
	revision string
	node     int
	at       time.Time
}

// Run schedules until ctx ends. Its end is not an error.
func Run(ctx context.Context, cfg Config) error {
	for _, synced := range []func(context.Context) error{cfg.Caches.Nodes.Synced, cfg.Caches.Pods.Synced, cfg.Caches.Apps.Synced, cfg.Caches.Volumes.Synced} {
		if synced(ctx) != nil {
			return nil
		}
	}
	l := &loop{
		client: cfg.Client, apps: cfg.Caches.Apps, pods: client.Of(cfg.Client, api.Pods), log: cfg.Log.Named("scheduler"), wake: make(chan struct{}, 1),
		picture: newPicture(), waiting: newBacklog(), bound: map[string]int64{}, said: map[string]time.Time{},
	}
	l.picture.volumes = map[string]*volume{}
	defer cfg.Caches.Volumes.OnChange(l.volumeChanged)()
	defer cfg.Caches.Nodes.OnChange(l.nodeChanged)()
	defer cfg.Caches.Pods.OnChange(l.podChanged)()
	retry := time.Duration(0)
	for {
		again, err := l.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		retry = min(max(2*retry, minRetry), maxRetry)
		if err == nil {
			retry = 0
		} else {
			l.log.Warn("bind refused", "retry_in", retry, "error", err)
			again = retry
		}
		if !l.pause(ctx, again, err != nil) {
			return nil
		}
	}
}

// pause waits for something new, or for again if positive. After a failure
// what is new waits too.
func (l *loop) pause(ctx context.Context, again time.Duration, failed bool) bool {
	wake := l.wake
	if failed {
		wake = nil
	}
	if again <= 0 {
		again = time.Hour
	}
	t := time.NewTimer(again)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return true
}

func (l *loop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *loop) nodeChanged(was, is *api.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if is == nil {
		l.awaken(l.picture.dropNode(was.Meta.Name))
	} else {
		l.awaken(l.picture.setNode(is))
	}
}

func (l *loop) volumeChanged(was, is *api.Volume) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := is
	if o == nil {
		o = was
	}
	l.awaken(l.picture.setVolume(o.Meta.Namespace+"/"+o.Meta.Name, is))
}

// awaken has the pods looked at again that wait for something of better.
func (l *loop) awaken(better needs) {
	if better != 0 && l.waiting.awaken(better) {
		l.poke()
	}
}

func (l *loop) podChanged(was, is *api.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was != nil && (is == nil || is.Meta.UID != was.Meta.UID) {
		l.awaken(l.forget(was.Meta.UID) | l.picture.unplace(was.Meta.UID))
	}
	if is == nil {
		return
	}
	l.noteFailure(was, is)
	uid := is.Meta.UID
	if waiting(is) {
		if at, ok := l.bound[uid]; ok && is.Meta.Revision < at {
			return // the bind is on its way to the cache
		}
		w, known := l.waiting.all[uid]
		if !known {
			w = newCandidate(is)
			l.poke()
		}
		w.pod = is // it asks for the same: only its status changes
		l.waiting.put(w)
		return
	}
	l.awaken(l.forget(uid) | l.picture.setPod(is))
}

// forget drops a pod that waits no more. What was kept for it is free.
func (l *loop) forget(uid string) (better needs) {
	if l.waiting.all[uid].nominated != "" {
		better = needRoom
	}
	l.waiting.drop(uid)
	delete(l.bound, uid)
	delete(l.said, uid)
	return better
}

// noteFailure remembers where a pod could not run, by itself or for certain.
func (l *loop) noteFailure(was, is *api.Pod) {
	failed := func(pod *api.Pod) bool {
		return pod != nil && (pod.Status.Phase == api.PhaseFailed || pod.Status.Fatal != nil)
	}
	if is.Spec.Node == "" || !failed(is) || was != nil && was.Meta.UID == is.Meta.UID && failed(was) {
		return
	}
	h := hurt{groupOf(is.Meta.Namespace, ownerOf(is), is.Spec.Revision).revision, l.picture.at(is.Spec.Node), time.Now()}
	l.hurts = append(l.hurts, h)
	if l.picture.hurt[h.revision] == nil {
		l.picture.hurt[h.revision] = map[int]int{}
	}
	l.picture.hurt[h.revision][h.node]++
}

// heal forgets failures that are long ago.
func (l *loop) heal(now time.Time) {
	for len(l.hurts) > 0 && now.Sub(l.hurts[0].at) >= hurtFor {
		h, of := l.hurts[0], l.picture.hurt[l.hurts[0].revision]
		l.hurts = l.hurts[1:]
		if of[h.node]--; of[h.node] == 0 {
			delete(of, h.node)
		}
		if len(of) == 0 {
			delete(l.picture.hurt, h.revision)
		}
	}
}

// plan decides for the pods that are to be looked at, and parks those that fit
// nowhere. Those for whom room is kept are in every plan: it is kept there.
func (l *loop) plan() decisions {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heal(time.Now())
	if !l.waiting.awake() {
		return nil
	}
	ds := planBinds(l.picture, l.waiting.inOrder(), planSize, l.spare)
	for _, d := range ds {
		if w := l.waiting.all[d.pod.Meta.UID]; d.node == "" {
			w.parked, w.nominated = d.need, d.nominated
			l.waiting.put(w)
		}
	}
	return ds
}

// spare is how many ready pods an app can do without.
func (l *loop) spare(app string, ready int) int {
	namespace, name, _ := strings.Cut(app, "/")
	a := l.apps.Get(namespace, name)
	if a == nil {
		return ready
	}
	u := api.Deref(a.Effective.Update)
	if u.MinAvailable == nil {
		return max(api.Deref(u.MaxParallel), 1)
	}
	return ready - *u.MinAvailable
}

// round plans once and carries the plan out. It asks to be run again after
// again, if positive.
func (l *loop) round(ctx context.Context) (again time.Duration, err error) {
	plan := l.plan()
	if len(plan) == 0 {
		return 0, nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "decisions", plan.String())
	}
	var binds, refused decisions
	for _, d := range plan {
		if d.node != "" {
			binds = append(binds, d)
		} else {
			refused = append(refused, d)
		}
	}
	for chunk := range slices.Chunk(binds, batchSize) {
		if failed := l.bind(ctx, chunk); failed != nil {
			err = failed
		}
	}
	if err == nil {
		err = l.evict(ctx, refused)
	}
	if err != nil {
		l.unpark(refused)
		return 0, err
	}
	if len(binds) > 0 {
		l.mu.Lock()
		l.awaken(needPods) // of an app that others want to be with
		l.mu.Unlock()
	}
	if len(binds) == planSize {
		l.poke() // there was more
	}
	return l.say(ctx, refused)
}

// unpark has pods looked at again whose decision was not carried out.
func (l *loop) unpark(ds decisions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		if w, ok := l.waiting.all[d.pod.Meta.UID]; ok {
			w.parked = 0
			l.waiting.put(w)
		}
	}
}

// evict asks pods to leave for those of a higher priority.
func (l *loop) evict(ctx context.Context, ds decisions) error {
	for _, d := range ds {
		if len(d.victims) == 0 {
			continue
		}
		ops := make([]api.BatchWrite, len(d.victims))
		for i, v := range d.victims {
			ops[i].Delete = &api.BatchDelete{Ref: v.Ref(), UID: v.Meta.UID}
		}
		if _, err := l.client.Batch(ctx, ops); err != nil {
			return fmt.Errorf("make room for %s: %w", d.pod.Ref(), err)
		}
		l.mu.Lock()
		for _, v := range d.victims {
			if at, ok := l.picture.placed[v.Meta.UID]; ok {
				at.evicted = true
				l.picture.placed[v.Meta.UID] = at
			}
		}
		l.mu.Unlock()
		mine := priorityOf(d.pod)
		for _, v := range d.victims {
			why := fmt.Sprintf("%s of priority %d makes room on node %s for %s/%s of priority %d", v.Meta.Name, priorityOf(v), v.Spec.Node, d.pod.Meta.Namespace, d.pod.Meta.Name, mine)
			l.log.Info("pod is preempted", "ref", v.Ref(), "node", v.Spec.Node, "for", d.pod.Ref())
			e := api.Event{Warning: true, Reason: "preempted", Message: why, By: "scheduler"}
			_ = l.client.Record(ctx, v.Ref(), e)
			if v.Spec.App != "" {
				_ = l.client.Record(ctx, api.Apps.Ref(v.Meta.Namespace, v.Spec.App), e)
			}
		}
	}
	return nil
}

func priorityOf(pod *api.Pod) int { return requestOfPod(pod).priority }

// bind carries out one transaction's worth. Writes that the server refuses are
// taken back, and the others tried once more without them.
func (l *loop) bind(ctx context.Context, ds decisions) (err error) {
	for try := 0; len(ds) > 0; try++ {
		ops := make([]api.BatchWrite, len(ds))
		for i, d := range ds {
			ops[i].Bind = &api.Binding{Namespace: d.pod.Meta.Namespace, Pod: d.pod.Meta.Name, UID: d.pod.Meta.UID, Node: d.node}
		}
		revision, failed := l.client.Batch(ctx, ops)
		if failed == nil {
			l.settle(ds, revision)
			return err
		}
		err = failed
		bad := named(failed, len(ds))
		if len(bad) == 0 || try == 2 {
			l.takeBack(ds)
			return err
		}
		var good, gone decisions
		for i, d := range ds {
			if bad[i] {
				gone = append(gone, d)
			} else {
				good = append(good, d)
			}
		}
		l.takeBack(gone)
		ds = good
	}
	return err
}

// settle records binds that the cache is about to show.
func (l *loop) settle(ds decisions, revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		uid := d.pod.Meta.UID
		if _, ok := l.waiting.all[uid]; ok { // else the cache was faster
			l.waiting.drop(uid)
			l.bound[uid] = revision
		}
	}
}

// takeBack withdraws assumptions.
func (l *loop) takeBack(ds decisions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		if _, ok := l.waiting.all[d.pod.Meta.UID]; ok {
			l.awaken(l.picture.unplace(d.pod.Meta.UID))
		}
	}
}

// named returns the writes that an error of a batch blames.
func named(err error, n int) map[int]bool {
	bad := map[int]bool{}
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return bad
	}
	for _, f := range e.Fields {
		var i int
		if _, err := fmt.Sscanf(strings.TrimPrefix(f.Path, "/"), "writes[%d]", &i); err == nil && i < n {
			bad[i] = true
		}
	}
	return bad
}

// say writes on the pods why they have no node, when that has changed. Those it
// does not get to are looked at again.
func (l *loop) say(ctx context.Context, ds decisions) (again time.Duration, err error) {
	now, written := time.Now(), 0
	for i, d := range ds {
		st := d.pod.Status
		reason := api.Unschedulable
		if d.nominated != "" {
			reason = api.MakingRoom
		}
		if st.Reason == reason && st.Message == d.why && st.Crowded == d.crowded {
			continue
		}
		l.mu.Lock()
		since := now.Sub(l.said[d.pod.Meta.UID])
		l.mu.Unlock()
		if wait := oftenest - since; st.Reason == reason && wait > 0 {
			again = min(wait, cmp.Or(again, wait))
			l.unpark(ds[i : i+1])
			continue
		}
		if written++; written > sayAtOnce {
			l.unpark(ds[i:])
			return minRetry, nil
		}
		pod := *d.pod
		pod.Status.Phase, pod.Status.Reason, pod.Status.Message = api.PhasePending, reason, d.why
		pod.Status.Crowded = d.crowded
		if _, err := l.pods.PutStatus(ctx, &pod); err != nil {
			if api.Is(err, api.NotFound) || api.Is(err, api.Precondition) || api.Is(err, api.Conflict) {
				continue // gone or bound meanwhile
			}
			l.unpark(ds[i:])
			return 0, fmt.Errorf("say why %s waits: %w", d.pod.Ref(), err)
		}
		l.mu.Lock()
		l.said[d.pod.Meta.UID] = now
		l.mu.Unlock()
		if st.Reason != reason {
			l.log.Info("pod fits no node", "ref", d.pod.Ref(), "why", d.why)
			_ = l.client.Record(ctx, d.pod.Ref(), api.Event{Warning: true, Reason: reason, Message: d.why, By: "scheduler"})
		}
	}
	return again, nil
}
