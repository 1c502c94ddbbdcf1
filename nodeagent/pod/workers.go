package pod

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

const (
	starters = 4           // containers started at a time: with more, each only takes longer
	resync   = time.Minute // how often everything is looked at, should an event have been lost
)

// Workers run the pods of a node. Use New.
type Workers struct {
	*mailbox
	cfg    Config
	starts chan struct{}
	views  views

	// What follows belongs to the goroutine of Run.
	ctx     context.Context // of Run
	workers sync.WaitGroup
	pods    map[string]*worker                   // by UID
	leased  int                                  // pods that need the lease
	ended   map[string]int64                     // pods of which nothing is left, by UID: the revision that the API has of them
	runs    map[string]map[string]runtime.Status // what the runtime had when it was last listed, by UID and id
	synced  bool                                 // the API told everything once
}

// New returns Workers. Nothing happens until Run.
func New(cfg Config) *Workers {
	return &Workers{
		mailbox: newMailbox(), cfg: cfg, starts: make(chan struct{}, starters),
		views: views{pods: map[string]View{}, changed: make(chan struct{})},
		pods:  map[string]*worker{}, ended: map[string]int64{},
	}
}

// Run adopts what runs and keeps the pods as they should be until ctx ends,
// which stops nothing.
func (s *Workers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	var listener sync.WaitGroup
	defer s.workers.Wait()
	defer listener.Wait()
	defer cancel()
	s.restore()
	listener.Go(func() { s.listen(ctx) })
	hold := time.AfterFunc(s.cfg.HoldFor, func() { s.post(s.release) })
	defer hold.Stop()
	for {
		s.work()
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// Sync says which pods the API has for the node: all of them. Pods of before
// that are not among them are stopped.
func (s *Workers) Sync(pods []*api.Pod) {
	s.post(func() {
		s.synced = true
		named := map[string]bool{}
		defer maps.DeleteFunc(s.ended, func(uid string, _ int64) bool { return !named[uid] })
		for _, p := range pods {
			named[p.Meta.UID] = true
			s.put(*p)
		}
		for uid, w := range s.pods {
			if !named[uid] {
				w.post(func() { w.disown("the API does not have it") })
			}
		}
		s.sweep()
	})
}

// Put says what a pod of the node is now.
func (s *Workers) Put(p api.Pod) { s.post(func() { s.put(p) }) }

// Delete says that a pod is gone from the API.
func (s *Workers) Delete(uid string) {
	s.post(func() {
		delete(s.ended, uid)
		if w := s.pods[uid]; w != nil {
			w.deleted = true
			w.post(func() { w.disown("it is gone from the API") })
		}
	})
}

// Retry makes pods that wait for an image look for it again: it was loaded.
func (s *Workers) Retry() {
	s.post(func() {
		for _, w := range s.pods {
			w.post(func() { w.retryImages() })
		}
	})
}

// Look makes every pod look at the node's lease.
func (s *Workers) Look() {
	s.post(func() {
		for _, w := range s.pods {
			w.post(func() {})
		}
	})
}

func (w *worker) retryImages() {
	for ref, f := range w.see.Images {
		if !f.Present && !f.Busy {
			delete(w.see.Images, ref)
		}
	}
}

func (s *Workers) put(p api.Pod) {
	p.Kind = api.Pods.Name
	if w := s.pods[p.Meta.UID]; w != nil {
		w.post(func() { w.heard(p) })
		return
	}
	// An ended pod has nothing here, or what it had is swept away. What is told of
	// it after its end may be of before.
	if p.Meta.Revision <= s.ended[p.Meta.UID] {
		return
	}
	if !p.Status.Phase.Ended() {
		w := newWorker(&s.cfg, s.starts, p, record{})
		w.heard(p)
		s.add(w)
	}
}

// restore makes workers of the checkpoints. They start nothing until the API
// had time to say which of them are still wanted.
func (s *Workers) restore() {
	saved, err := s.cfg.Store.Load()
	if err != nil {
		s.cfg.Log.Error("checkpoints cannot be read; the API will tell which pods to run", "error", err)
	}
	for uid, b := range saved {
		var c checkpoint
		if err := json.Unmarshal(b, &c); err != nil || c.Pod.Meta.UID != uid {
			s.cfg.Log.Error("a checkpoint is damaged; the API will tell about its pod", "uid", uid, "error", err)
			continue
		}
		w := newWorker(&s.cfg, s.starts, c.Pod, c.Record)
		w.saved = b
		w.see.Hold = true
		s.add(w)
	}
}

// release lets restored pods start: the API does not answer.
func (s *Workers) release() {
	if s.synced {
		return
	}
	s.cfg.Log.Warn("no word from the control plane; going on with the pods of the checkpoint", "pods", len(s.pods))
	for _, w := range s.pods {
		w.post(func() { w.see.Hold = false })
	}
}

func (s *Workers) add(w *worker) {
	uid := w.pod.Meta.UID
	s.pods[uid] = w
	w.leased = w.pod.Spec.Isolation == api.StopIsolated
	s.lease(w, 1)
	if s.runs != nil {
		runs := s.runs[uid]
		delete(s.runs, uid)
		w.post(func() { w.listed(values(runs)) })
	}
	w.view = func(v View) { s.views.set(uid, v) }
	s.workers.Go(func() {
		if done := w.run(s.ctx); done {
			s.post(func() { s.drop(w) })
		}
	})
}

// lease counts a pod that comes or goes, if it needs the lease.
func (s *Workers) lease(w *worker, by int) {
	if !w.leased || s.cfg.NeedLease == nil {
		return
	}
	before := s.leased > 0
	if s.leased += by; before != (s.leased > 0) {
		s.cfg.NeedLease(s.leased > 0)
	}
}

// drop forgets a pod of which nothing is left.
func (s *Workers) drop(w *worker) {
	uid := w.pod.Meta.UID
	delete(s.pods, uid)
	s.lease(w, -1)
	if !w.deleted {
		s.ended[uid] = w.out.rev
	}
	s.views.remove(uid)
	if s.cfg.Contents != nil {
		if err := s.cfg.Contents.Forget(uid); err != nil {
			w.log.Error("what it used of configs and secrets stays, encrypted", "error", err)
		}
	}
	if err := s.cfg.Store.Delete(uid); err != nil {
		w.log.Error("its checkpoint stays", "error", err)
	}
	w.log.Info("nothing is left of the pod")
}

// sweep removes what belongs to no pod, once both sides are known.
func (s *Workers) sweep() {
	if !s.synced || s.runs == nil {
		return
	}
	gone := map[string]bool{}
	for uid := range s.runs {
		gone[uid] = true
	}
	sandboxes, err := s.cfg.Network.List(s.ctx)
	if err != nil {
		s.cfg.Log.Warn("sandboxes cannot be listed; trying again later", "error", err)
	}
	for _, uid := range sandboxes {
		gone[uid] = true
	}
	stored, err := s.cfg.Storage.List(s.ctx)
	if err != nil {
		s.cfg.Log.Warn("what pods have mounted cannot be listed; trying again later", "error", err)
	}
	for _, uid := range stored {
		gone[uid] = true
	}
	for uid := range gone {
		if s.pods[uid] == nil {
			s.remove(uid)
		}
	}
}

// remove clears away what is left of an unknown pod. What fails is tried again
// at the next sweep.
func (s *Workers) remove(uid string) {
	log := s.cfg.Log.With("uid", uid)
	for id := range s.runs[uid] {
		if err := s.cfg.Runtime.Remove(s.ctx, id); err != nil {
			log.Warn("a container that belongs to no pod stays for now", "container", id, "error", err)
			return
		}
	}
	delete(s.runs, uid)
	err := s.cfg.Network.Teardown(s.ctx, uid)
	if err == nil {
		err = s.cfg.Storage.Unmount(s.ctx, uid)
	}
	if err == nil {
		err = s.cfg.Files.remove(uid)
	}
	if err != nil {
		log.Warn("a sandbox that belongs to no pod stays for now", "error", err)
		return
	}
	log.Info("removed what belongs to no pod")
}

// listen hands the runtime's events to the workers, and lists everything
// whenever events may have been missed.
func (s *Workers) listen(ctx context.Context) {
	tick := time.NewTicker(resync)
	defer tick.Stop()
	wait := retry{}
	for ctx.Err() == nil {
		// Subscribed before listed: nothing falls in between.
		sub, cancel := context.WithCancel(ctx)
		events, err := s.cfg.Runtime.Events(sub)
		if err == nil {
			err = s.list(ctx)
		}
		if err != nil {
			cancel()
			wait.failed(time.Now(), 5*time.Second)
			level := hclog.Warn
			if wait.tries < 3 { // it is only just starting, perhaps
				level = hclog.Debug
			}
			s.cfg.Log.Log(level, "the runtime does not answer; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(wait.at)):
			}
			continue
		}
		wait = retry{}
		s.follow(ctx, events, tick.C)
		cancel()
	}
}

func (s *Workers) follow(ctx context.Context, events <-chan runtime.Event, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			if err := s.list(ctx); err != nil {
				return
			}
		case e, ok := <-events:
			if !ok {
				return
			}
			uid, _, _ := strings.Cut(e.ID, ".")
			s.post(func() {
				if w := s.pods[uid]; w != nil {
					w.post(func() { w.stale[e.ID] = true })
				}
			})
		}
	}
}

func (s *Workers) list(ctx context.Context) error {
	all, err := s.cfg.Runtime.List(ctx)
	if err != nil {
		return err
	}
	byPod := map[string]map[string]runtime.Status{}
	for _, st := range all {
		uid := st.Labels[LabelUID]
		if uid == "" {
			continue // not a pod's
		}
		if byPod[uid] == nil {
			byPod[uid] = map[string]runtime.Status{}
		}
		byPod[uid][st.ID] = st
	}
	s.post(func() {
		for uid, w := range s.pods {
			runs := byPod[uid]
			delete(byPod, uid)
			w.post(func() { w.listed(values(runs)) })
		}
		s.runs = byPod
		s.sweep()
	})
	return nil
}

func values(m map[string]runtime.Status) []runtime.Status {
	out := make([]runtime.Status, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	return out
}
