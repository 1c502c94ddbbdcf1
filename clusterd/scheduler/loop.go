package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
)

// loop is the picture, the pods that wait, and what was decided for them.
type loop struct {
	client *client.Client
	pods   client.Kind[api.PodSpec, api.PodStatus]
	log    hclog.Logger
	wake   chan struct{} // has a token when a plan may decide something new

	mu      sync.Mutex
	picture *picture
	waiting map[string]candidate // by UID
	bound   map[string]int64     // revision of binds that the cache has not shown yet, by UID
	said    map[string]time.Time
}

// Run schedules until ctx ends. Its end is not an error.
func Run(ctx context.Context, cfg Config) error {
	for _, synced := range []func(context.Context) error{cfg.Caches.Nodes.Synced, cfg.Caches.Pods.Synced} {
		if synced(ctx) != nil {
			return nil
		}
	}
	l := &loop{
		client: cfg.Client, pods: client.Of(cfg.Client, api.Pods), log: cfg.Log.Named("scheduler"), wake: make(chan struct{}, 1),
		picture: newPicture(), waiting: map[string]candidate{}, bound: map[string]int64{}, said: map[string]time.Time{},
	}
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
		l.picture.dropNode(was.Meta.Name)
	} else if l.picture.setNode(is) {
		l.poke()
	}
}

func (l *loop) podChanged(was, is *api.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was != nil && (is == nil || is.Meta.UID != was.Meta.UID) {
		uid := was.Meta.UID
		delete(l.waiting, uid)
		delete(l.bound, uid)
		delete(l.said, uid)
		if l.picture.unplace(uid) {
			l.poke()
		}
	}
	if is == nil {
		return
	}
	uid := is.Meta.UID
	if waiting(is) {
		if at, ok := l.bound[uid]; ok && is.Meta.Revision < at {
			return // the bind is on its way to the cache
		}
		w, known := l.waiting[uid]
		if !known {
			w = newCandidate(is)
			l.poke()
		}
		w.pod = is // it asks for the same: only its status changes
		l.waiting[uid] = w
		return
	}
	delete(l.waiting, uid)
	delete(l.bound, uid)
	delete(l.said, uid)
	if l.picture.setPod(is) {
		l.poke()
	}
}

// round plans once and carries the plan out. It asks to be run again after
// again, if positive.
func (l *loop) round(ctx context.Context) (again time.Duration, err error) {
	l.mu.Lock()
	plan := planBinds(l.picture, slices.Collect(maps.Values(l.waiting)), planSize)
	l.mu.Unlock()
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
	if err != nil {
		return 0, err
	}
	if len(binds) == planSize {
		l.poke() // there was more
	}
	return l.say(ctx, refused)
}

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
		if _, ok := l.waiting[uid]; ok { // else the cache was faster
			delete(l.waiting, uid)
			l.bound[uid] = revision
		}
	}
}

// takeBack withdraws assumptions.
func (l *loop) takeBack(ds decisions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		if _, ok := l.waiting[d.pod.Meta.UID]; ok {
			l.picture.unplace(d.pod.Meta.UID)
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

// say writes on the pods why they have no node, when that has changed.
func (l *loop) say(ctx context.Context, ds decisions) (again time.Duration, err error) {
	now, written := time.Now(), 0
	for _, d := range ds {
		st := d.pod.Status
		if st.Reason == api.Unschedulable && st.Message == d.why && st.Crowded == d.crowded {
			continue
		}
		l.mu.Lock()
		since := now.Sub(l.said[d.pod.Meta.UID])
		l.mu.Unlock()
		if wait := oftenest - since; st.Reason == api.Unschedulable && wait > 0 {
			again = min(wait, cmp.Or(again, wait))
			continue
		}
		if written++; written > sayAtOnce {
			return minRetry, nil
		}
		pod := *d.pod
		pod.Status.Phase, pod.Status.Reason, pod.Status.Message = api.PhasePending, api.Unschedulable, d.why
		pod.Status.Crowded = d.crowded
		if _, err := l.pods.PutStatus(ctx, &pod); err != nil {
			if api.Is(err, api.NotFound) || api.Is(err, api.Precondition) || api.Is(err, api.Conflict) {
				continue // gone or bound meanwhile
			}
			return 0, fmt.Errorf("say why %s waits: %w", d.pod.Ref(), err)
		}
		l.mu.Lock()
		l.said[d.pod.Meta.UID] = now
		l.mu.Unlock()
		if st.Reason != api.Unschedulable {
			l.log.Info("pod fits no node", "ref", d.pod.Ref(), "why", d.why)
			_ = l.client.Record(ctx, d.pod.Ref(), api.Event{Warning: true, Reason: api.Unschedulable, Message: d.why, By: "scheduler"})
		}
	}
	return again, nil
}
