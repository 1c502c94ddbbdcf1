package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/content"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// undo takes out of the record what a plan noted of steps that were not done.
func (r *record) undo(steps []step) {
	for _, s := range steps {
		l, ok := r.Lives[s.Container]
		switch {
		case s.Do == drain:
			r.Stop.Asked = time.Time{}
			continue
		case !s.marks() || !ok:
			continue
		case s.Arg == "SIGKILL" && l.Ending.Killed:
			l.Ending.Killed = false
		default:
			l.Ending = ending{}
		}
		r.Lives[s.Container] = l
	}
}

// apply carries steps out in order. It reports how many, and whether the facts
// changed.
func (w *worker) apply(ctx context.Context, steps []step) (done int, progress bool, err error) {
	for _, s := range steps {
		switch s.Do {
		case addSandbox:
			err = w.setup(ctx)
		case removeSandbox:
			if err = w.cfg.Network.Teardown(ctx, w.pod.Meta.UID); err == nil {
				err = w.cfg.Storage.Unmount(ctx, w.pod.Meta.UID)
			}
			if err == nil {
				w.see.Gone, w.see.Sandbox = true, false
				err = w.cfg.Files.remove(w.pod.Meta.UID)
			}
		case begin:
			err = w.begin(ctx, s)
		case start:
			err = w.start(ctx, s)
		case signal:
			if err = w.cfg.Runtime.Signal(ctx, w.id(s), s.Arg); errors.Is(err, runtime.ErrNotFound) {
				w.stale[w.id(s)], err = true, nil
			}
		case remove:
			if err = w.cfg.Runtime.Remove(ctx, w.id(s)); err == nil {
				delete(w.see.Runs, w.id(s))
			}
		case pull:
			w.pull(ctx, s.Arg)
		case probe:
			w.probe(ctx, s)
		case drain:
			w.drain(ctx)
		case hook:
			w.hook(ctx)
		}
		if err != nil {
			return done, true, fmt.Errorf("%s: %w", s, err)
		}
		done++
		progress = progress || !s.async()
		if w.see.Rebuilt {
			break // the rest of the plan was about the sandbox before
		}
	}
	return done, progress, nil
}

func (w *worker) id(s step) string { return ID(w.pod.Meta.UID, s.Container, s.Attempt) }

func (w *worker) setup(ctx context.Context) error {
	mounted, err := w.cfg.Storage.Mount(ctx, &w.pod)
	if err != nil {
		return err
	}
	w.mounted = mounted
	sb, err := w.cfg.Network.Setup(ctx, w.pod.Meta.UID, w.pod.Spec.Hostname(w.pod.Meta.Name), api.Deref(w.pod.Spec.HostNetwork))
	if err != nil {
		return err
	}
	w.sandbox = sb
	w.see.Sandbox, w.see.IP = true, sb.IP
	w.see.Rebuilt = sb.Fresh && (len(w.see.Runs) > 0 || len(w.rec.Lives) > 0)
	return nil
}

func (w *worker) begin(ctx context.Context, s step) error {
	release, err := w.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	mounts, err := w.cfg.Files.write(&w.pod, w.see.IP)
	if err != nil {
		return err
	}
	env, files, err := w.contents(ctx, s.Container)
	if errors.Is(err, errLacks) {
		w.fail(s, err)
		return nil
	}
	if err != nil {
		return err
	}
	c := w.container(s, slices.Concat(w.mounts(s.Container), mounts, files))
	c.Env = append(c.Env, env...)
	if c.LogPath != "" {
		w.dropLogs(s.Container, s.Attempt-2)
		if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
			return err
		}
	}
	err = w.cfg.Runtime.Create(ctx, c)
	switch {
	case errors.Is(err, runtime.ErrCannotStart):
		w.fail(s, err)
		return nil
	case errors.Is(err, runtime.ErrNotFound):
		delete(w.see.Images, c.Image) // somebody removed it
		return err
	case err != nil:
		return err
	}
	w.see.Runs[c.ID] = runtime.Status{ID: c.ID, Pod: c.Pod, Labels: c.Labels, State: runtime.Created}
	return nil
}

func (w *worker) container(s step, mounts []runtime.Mount) runtime.Container {
	spec := w.pod.Spec.All()[s.Container]
	c := runtime.Container{
		ID: w.id(s), Pod: w.pod.Meta.UID, Image: spec.Image, Command: spec.Command, Args: spec.Args,
		Mounts: mounts, Sandbox: w.sandbox.Sandbox,
		Security: security(spec.Security),
		CPU:      spec.CPU.Milli(), CPULimit: limits(spec).CPU.Milli(), MemoryLimit: limits(spec).Memory.Bytes(), PIDLimit: int64(*limits(spec).PIDs),
		Labels: map[string]string{
			LabelNamespace: w.pod.Meta.Namespace, LabelPod: w.pod.Meta.Name, LabelUID: w.pod.Meta.UID,
			LabelContainer: s.Container, LabelAttempt: strconv.Itoa(s.Attempt),
		},
	}
	if w.pod.Spec.Isolation == api.StopIsolated {
		c.Lease = w.cfg.LeaseFile
	}
	if n := w.pod.Spec.Ordinal; n != nil {
		c.Env = append(c.Env, fmt.Sprintf("CLUSTERD_ORDINAL=%d", *n), fmt.Sprintf("CLUSTERD_EPOCH=%d", w.pod.Spec.Epoch))
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Env)) {
		c.Env = append(c.Env, k+"="+spec.Env[k])
	}
	if w.cfg.Logs != "" {
		c.LogPath = LogPath(w.cfg.Logs, w.pod.Meta.UID, s.Container, s.Attempt)
	}
	return c
}

func (w *worker) start(ctx context.Context, s step) error {
	if _, ok := w.see.Runs[w.id(s)]; !ok {
		return nil // its creation went wrong
	}
	release, err := w.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	st, err := w.cfg.Runtime.Start(ctx, w.id(s))
	switch {
	case errors.Is(err, runtime.ErrCannotStart):
		w.fail(s, err)
		return nil
	case errors.Is(err, runtime.ErrNotFound):
		delete(w.see.Runs, w.id(s))
		return nil
	case err != nil:
		return err
	}
	if st.Labels == nil {
		st.Labels = w.see.Runs[w.id(s)].Labels
	}
	w.saw(st)
	return nil
}

// turn waits for one of the few places to start a container: more at a time
// would only make each slower.
func (w *worker) turn(ctx context.Context) (release func(), err error) {
	select {
	case w.starts <- struct{}{}:
		return func() { <-w.starts }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *worker) fail(s step, err error) {
	w.see.Failed[s.Container] = failure{Attempt: s.Attempt, At: time.Now(), Err: essence(err, runtime.ErrCannotStart)}
	w.see.Tails[s.Container] = nil
}

// essence is what err says beyond kind, which its reader is told in other words.
func essence(err, kind error) string {
	if _, after, ok := strings.Cut(err.Error(), kind.Error()+": "); ok {
		return after
	}
	return err.Error()
}

// dropLogs removes the logs of old runs; those of the last two stay.
func (w *worker) dropLogs(container string, upTo int) {
	for n := upTo; n >= 0; n-- {
		old, _ := filepath.Glob(LogPath(w.cfg.Logs, w.pod.Meta.UID, container, n) + "*")
		if len(old) == 0 {
			return
		}
		for _, path := range old {
			if err := os.Remove(path); err != nil {
				w.log.Debug("an old log stays", "error", err)
			}
		}
	}
}

func (w *worker) pull(ctx context.Context, ref string) {
	f := w.see.Images[ref]
	f.Busy = true
	if f.First.IsZero() {
		f.First = time.Now()
	}
	w.see.Images[ref] = f
	tell := func(done, total int64) {
		w.post(func() {
			if f := w.see.Images[ref]; f.Busy {
				f.Progress = progress(done, total)
				w.see.Images[ref] = f
			}
		})
	}
	pod := w.pod
	w.async.Go(func() {
		img, err := w.ensure(ctx, &pod, ref, tell)
		w.post(func() {
			if err == nil {
				w.see.Images[ref] = imageFact{Present: true, Image: img}
				return
			}
			f := w.see.Images[ref]
			f.Refused = errors.Is(err, runtime.ErrRefused)
			kind := runtime.ErrUnavailable
			if f.Refused {
				kind = runtime.ErrRefused
			}
			f.Busy, f.Failed, f.Err, f.Progress = false, time.Now(), essence(err, kind), ""
			f.Tries++
			w.see.Images[ref] = f
		})
	})
}

// ensure gets an image as the pod's pull_auth says. It is called beside the worker.
func (w *worker) ensure(ctx context.Context, p *api.Pod, ref string, tell func(done, total int64)) (runtime.Image, error) {
	var values content.Values
	if p.Spec.PullAuth != "" && w.cfg.Contents != nil {
		var err error
		if values, err = w.cfg.Contents.Of(ctx, p); err != nil {
			return runtime.Image{}, err
		}
	}
	f := fetchOf(p, ref, values)
	f.Progress = tell
	return w.cfg.Images.Ensure(ctx, f, p.Spec.Pull)
}

// fetchOf is what to ask a registry for, and as whom.
func fetchOf(p *api.Pod, ref string, values content.Values) runtime.Fetch {
	f := runtime.Fetch{Reference: ref}
	if keys := values["secret/"+p.Spec.PullAuth]; p.Spec.PullAuth != "" {
		f.Credentials = runtime.Credentials{Username: keys["username"], Password: keys["password"]}
	}
	return f
}

// progress says how far a transfer is, in steps that are worth telling.
func progress(done, total int64) string {
	const step = 5 // percent
	if total <= 0 {
		return ""
	}
	return fmt.Sprintf("%d %% of %d MiB", done*100/total/step*step, (total+1<<20-1)>>20)
}

func (w *worker) drain(ctx context.Context) {
	pod := w.pod
	w.async.Go(func() {
		if err := w.cfg.API.Drained(ctx, &pod); err != nil && ctx.Err() == nil {
			w.log.Warn("cannot tell whether the pod is drained", "error", err)
		}
		// Whatever the answer, it is as good as it gets.
		w.post(func() { w.see.Drained = true })
	})
}
