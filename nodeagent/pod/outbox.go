package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// outbox is how a pod's status gets to the API: one write at a time, always of
// the newest status, tried again until it is there.
type outbox struct {
	known   bool   // the API told of the pod in this life of the agent
	acked   []byte // status the API has
	rev     int64  // of acked
	writing bool
	dirty   bool // acked is not what is so
	retry   retry
}

// heard takes in the pod as the API has it.
func (w *worker) heard(p api.Pod) {
	if p.Meta.Revision < w.out.rev {
		return
	}
	w.pod = p
	w.see.Hold = false
	w.out.known = true
	w.acked(p.Status, p.Meta.Revision)
	switch mine := w.rec.Status.Phase; {
	case p.Status.Phase.Ended() && !mine.Ended():
		w.disown("it is " + string(p.Status.Phase))
	case mine.MayBecome(p.Status.Phase): // an older checkpoint than the API's news
		w.rec.Status.Phase = p.Status.Phase
	}
}

func (w *worker) acked(st api.PodStatus, rev int64) {
	w.out.acked, w.out.rev = encode(st), rev
	w.see.Acked = st.Phase
}

func (w *worker) disown(why string) {
	if !w.see.Disowned {
		w.see.Disowned, w.see.Hold = true, false
		w.log.Info("the pod is no longer ours; stopping it", "why", why)
	}
}

// reports are events on their way to the API, one after another, as they came.
type reports struct {
	mu      sync.Mutex
	queue   []api.Event
	sending bool
}

// add reports whether somebody has to begin sending.
func (r *reports) add(events []api.Event) (begin bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, events...)
	begin = !r.sending
	r.sending = true
	return begin
}

// next takes the oldest; without one, nobody is sending any more.
func (r *reports) next() (e api.Event, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		r.sending = false
		return e, false
	}
	e, r.queue = r.queue[0], r.queue[1:]
	return e, true
}

// tell sends events on their way. The end of the pod does not stop them: they may
// say how it came.
func (w *worker) tell(agent context.Context, events []api.Event) {
	if len(events) == 0 || w.see.Offline || w.see.Disowned || !w.out.known {
		return
	}
	ref := w.pod.Ref()
	ref.Kind = api.Pods.Name
	if !w.news.add(events) {
		return
	}
	w.async.Go(func() {
		for e, ok := w.news.next(); ok; e, ok = w.news.next() {
			w.cfg.API.Record(agent, ref, e)
		}
	})
}

// publish sends the status on its way.
func (w *worker) publish(ctx context.Context) {
	if w.see.Disowned || !w.out.known {
		w.out.dirty = false
		return
	}
	b := encode(w.rec.Status)
	w.out.dirty = !w.out.writing && (!bytes.Equal(b, w.out.acked) || isWord(w.rec.Status.Phase) && w.rec.unsaid(&w.pod))
	if !w.out.dirty || time.Now().Before(w.out.retry.at) {
		return
	}
	w.out.writing, w.out.dirty = true, false
	st, terms := api.Clone(w.rec.Status), w.rec.terms(&w.pod)
	m := w.pod.Meta
	p := &api.Pod{Kind: api.Pods.Name, Meta: api.Meta{Name: m.Name, Namespace: m.Namespace, UID: m.UID}, Spec: w.pod.Spec, Status: st}
	w.async.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		stored, err := w.cfg.API.PutStatus(ctx, p)
		w.post(func() { w.wrote(st, terms, stored, err) })
	})
}

// wrote takes in how a write of the status went, on those terms.
func (w *worker) wrote(st api.PodStatus, terms int64, stored *api.Pod, err error) {
	w.out.writing = false
	switch api.CodeOf(err) {
	case 0:
		w.see.Offline = false
		w.out.retry = retry{}
		w.rec.said(st.Phase, terms)
		if stored.Meta.Revision >= w.out.rev {
			w.acked(st, stored.Meta.Revision)
		}
		return
	case api.NotFound, api.Conflict, api.Precondition:
		w.disown(err.Error())
		return
	}
	w.see.Offline = true
	w.out.retry.failed(time.Now(), 10*time.Second)
	w.out.retry.at = w.out.retry.at.Add(rand.N(500 * time.Millisecond))
	level := hclog.Debug
	if !api.Is(err, api.Unready) && !errors.Is(err, context.DeadlineExceeded) {
		level = hclog.Warn // no server that is away: somebody has to look
	}
	w.log.Log(level, "status not written; trying again", "error", err)
}

func encode(st api.PodStatus) []byte {
	b, err := json.Marshal(st)
	if err != nil {
		panic(err) // every api type marshals
	}
	return b
}
