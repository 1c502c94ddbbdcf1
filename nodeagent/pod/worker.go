package pod

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/content"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// mostTrouble is the longest wait before a step that went wrong is tried again.
const mostTrouble = 5 * time.Second

// worker looks after one pod. All its fields belong to the goroutine of run;
// others post.
type worker struct {
	*mailbox
	cfg    *Config
	log    hclog.Logger
	starts chan struct{} // bounds how many containers are started at a time
	async  sync.WaitGroup

	pod     api.Pod
	rec     record
	see     facts
	sandbox Sandbox
	mounted map[string]string // where what the pod mounts is, by api.Mount.Source
	stale   map[string]bool   // ids to ask the runtime about
	saved   []byte
	trouble *retry // steps that go wrong for now

	deleted bool // belongs to Workers: the API told that the pod is gone
	leased  bool // belongs to Workers: the pod needs the node's run lease

	out  outbox
	news reports
	view func(View) // tells others
}

// retry spaces out tries at something that does not work for now.
type retry struct {
	tries int
	at    time.Time
}

func (r *retry) failed(now time.Time, most time.Duration) {
	r.tries++
	r.at = now.Add(min(time.Duration(1)<<min(r.tries-1, 10)*500*time.Millisecond, most))
}

func newWorker(cfg *Config, starts chan struct{}, p api.Pod, rec record) *worker {
	if rec.Status.Phase == "" {
		rec.Status = p.Status
	}
	// A checkpoint that got lost is made up for by what the API knows: what
	// runs ready is still ready.
	if rec.Lives == nil && p.Status.Ready {
		rec.Served = true
		rec.Lives = map[string]life{}
		for name, c := range p.Status.Containers {
			_, init := p.Spec.Init[name]
			rec.Lives[name] = life{
				Attempt: c.Restarts, Healthy: c.Ready, Last: c.Last, Start: tally{Passed: c.Ready},
				Done: init && c.State == api.ContainerExited && c.Last != nil && c.Last.Code == 0,
			}
		}
	}
	w := &worker{
		mailbox: newMailbox(), cfg: cfg, starts: starts, pod: p, rec: rec,
		log:   cfg.Log.With("ref", p.Ref().String(), "uid", p.Meta.UID),
		stale: map[string]bool{}, trouble: &retry{},
		see: facts{
			Unknown: true, Runs: map[string]runtime.Status{}, Images: map[string]imageFact{},
			Failed: map[string]failure{}, Tails: map[string][]string{}, Brimful: map[string][]string{}, Checks: map[string]checkFact{}, IP: rec.Status.IP,
		},
	}
	return w
}

// run works until nothing of the pod is left, which it reports, or until ctx
// ends, which leaves everything as it is.
func (w *worker) run(ctx context.Context) (done bool) {
	agent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer w.async.Wait()
	defer cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	last := ""
	for ctx.Err() == nil {
		w.work()
		w.gather(ctx)
		w.look(ctx)
		if w.cfg.Lease != nil {
			w.see.Lease.Era, w.see.Lease.Left = w.cfg.Lease()
		}
		plan := planPod(&w.pod, w.rec, w.see, time.Now())
		if text := plan.news(); text != last {
			w.log.Debug("plan", "plan", text)
			last = text
		}
		began := w.rec.Era != plan.Record.Era
		w.rec = plan.Record
		// Before anything runs on the lease; and what others are told must hold
		// when the agent dies right after.
		if began || !slices.ContainsFunc(plan.Steps, step.marks) {
			w.save()
		}
		w.see.Rebuilt = w.see.Rebuilt && w.see.Unknown
		w.show()
		w.tell(agent, plan.Events)
		w.publish(ctx)
		if plan.Done {
			return true
		}
		progress := w.carryOut(ctx, plan.Steps)
		w.save()
		if progress {
			continue
		}
		again := plan.Again
		if w.trouble.tries > 0 {
			again = earliest(again, w.trouble.at)
		}
		if at := w.out.retry.at; w.out.dirty {
			again = earliest(again, at)
		}
		if again.IsZero() {
			again = time.Now().Add(time.Hour)
		}
		timer.Reset(time.Until(again))
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-timer.C:
		}
	}
	return false
}

// carryOut applies steps, unless one went wrong a moment ago. It reports
// whether the facts changed, so that it is time for another plan.
func (w *worker) carryOut(ctx context.Context, steps []step) (progress bool) {
	if time.Now().Before(w.trouble.at) {
		w.rec.undo(steps)
		return false
	}
	done, progress, err := w.apply(ctx, steps)
	w.rec.undo(steps[done:])
	if err != nil && ctx.Err() == nil {
		w.trouble.failed(time.Now(), mostTrouble)
		w.see.trouble(err, time.Now())
		w.log.Warn("a step went wrong; trying again", "error", err, "tries", w.trouble.tries)
		return false
	}
	cured := w.see.Trouble != ""
	w.trouble, w.see.Trouble, w.see.Full = &retry{}, "", time.Time{}
	return progress || cured
}

// show tells those who serve logs and exec.
func (w *worker) show() {
	v := View{Ref: w.pod.Ref(), UID: w.pod.Meta.UID, IP: w.rec.Status.IP, Phase: w.rec.Status.Phase, Containers: map[string]Run{}}
	for name, c := range w.pod.Spec.All() {
		v.Images = append(v.Images, c.Image)
		l := w.rec.Lives[name]
		id := ID(v.UID, name, l.Attempt)
		v.Containers[name] = Run{ID: id, Attempt: l.Attempt, Running: w.see.Runs[id].State == runtime.Running, Done: l.Done}
	}
	w.view(v)
}

// gather asks the runtime about what may have changed.
func (w *worker) gather(ctx context.Context) {
	for _, id := range slices.Sorted(maps.Keys(w.stale)) {
		st, err := w.cfg.Runtime.Status(ctx, id)
		switch {
		case errors.Is(err, runtime.ErrNotFound):
			delete(w.see.Runs, id)
		case err != nil:
			w.see.Unknown = true
			w.log.Debug("the runtime does not answer", "container", id, "error", err)
			return
		default:
			w.saw(st)
		}
		delete(w.stale, id)
		if len(w.stale) == 0 {
			w.see.Unknown = false
		}
	}
}

// saw takes in how a run is now.
func (w *worker) saw(st runtime.Status) {
	name := st.Labels[LabelContainer]
	if old := w.see.Runs[st.ID]; st.State == runtime.Exited && old.State != runtime.Exited {
		w.see.Brimful[name] = w.brimful(name)
		if w.cfg.Logs != "" {
			w.see.Tails[name] = w.redact(tail(LogPath(w.cfg.Logs, w.pod.Meta.UID, name, attemptOf(st.Labels))))
		}
	}
	w.see.Runs[st.ID] = st
}

// steering is what a terminal takes for a command: colours, titles, the cursor.
// The lines end up in many places, Terraform's diagnostics among them.
var steering = regexp.MustCompile(`\x1b\[[0-9;:?]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f\x{80}-\x{9f}]`)

// tail returns the last lines of a log, cut to a readable length.
func tail(path string) []string {
	const lines, width = 10, 400
	var out []string
	for l, err := range logfile.Read(context.Background(), path, logfile.Query{Tail: lines}) {
		if err != nil {
			return out
		}
		l.Text = steering.ReplaceAllString(l.Text, "")
		if len(l.Text) > width {
			l.Text = l.Text[:width] + "…"
		}
		out = append(out, l.Text)
	}
	return out
}

// listed takes in a list of the pod's runs. What it tells otherwise than what
// was seen one by one is asked for again: the list may be the older news.
func (w *worker) listed(runs []runtime.Status) {
	first := w.see.Unknown && len(w.see.Runs) == 0
	seen := map[string]bool{}
	for _, st := range runs {
		seen[st.ID] = true
		switch old, ok := w.see.Runs[st.ID]; {
		case first:
			w.saw(st)
		case !ok || old.State != st.State || old.PID != st.PID:
			w.stale[st.ID] = true
		}
	}
	for id := range w.see.Runs {
		if !seen[id] {
			w.stale[id] = true
		}
	}
	if len(w.stale) == 0 {
		w.see.Unknown = false
	}
}

// look notes which images are here already: nothing has to be fetched then, and
// an adopted container's stop signal is known.
func (w *worker) look(ctx context.Context) {
	if w.see.Unknown {
		return
	}
	var values content.Values
	if w.pod.Spec.PullAuth != "" && w.cfg.Contents != nil {
		values = w.cfg.Contents.Known(&w.pod)
	}
	for _, c := range w.pod.Spec.All() {
		if _, known := w.see.Images[c.Image]; known {
			continue
		}
		if img, err := w.cfg.Images.Have(ctx, fetchOf(&w.pod, c.Image, values), w.pod.Spec.Pull); err == nil {
			w.see.Images[c.Image] = imageFact{Present: true, Image: img}
		}
	}
}

// checkpoint is what is kept on disk of a pod.
type checkpoint struct {
	Pod    api.Pod `json:"pod"`
	Record record  `json:"record"`
}

func (w *worker) save() {
	// What the API echoes of the status is no reason to write again.
	p := w.pod
	p.Meta.Revision, p.Status = 0, api.PodStatus{}
	b, err := json.Marshal(checkpoint{p, w.rec})
	if err == nil && string(b) != string(w.saved) {
		if err = w.cfg.Store.Save(w.pod.Meta.UID, b); err == nil {
			w.saved = b
		}
	}
	if err != nil {
		w.log.Error("the checkpoint is not written: the pod may be forgotten with a restart of the agent", "error", err)
	}
}
