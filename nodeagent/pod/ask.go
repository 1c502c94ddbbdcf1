package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// errUnasked is a check that could not be made: it says nothing about the container.
var errUnasked = errors.New("could not be asked")

// probe makes one check of a container, and notes what came of it.
func (w *worker) probe(ctx context.Context, s step) {
	spec, id, ip := w.pod.Spec.All()[s.Container], w.id(s), w.see.IP
	key := checkKey(s.Container, s.Arg)
	f := w.see.Checks[key]
	if f.Attempt != s.Attempt {
		f = checkFact{Attempt: s.Attempt}
	}
	f.Busy = true
	w.see.Checks[key] = f
	started := w.see.Runs[id].StartedAt
	w.async.Go(func() {
		err := w.ask(ctx, id, ip, spec, *checkOf(spec.Health, s.Arg))
		w.post(func() {
			f, l := w.see.Checks[key], w.rec.Lives[s.Container]
			if f.Attempt != s.Attempt || l.Attempt != s.Attempt || ctx.Err() != nil {
				return
			}
			f.Busy, f.Last = false, time.Now()
			f.Count++
			w.see.Checks[key] = f
			if errors.Is(err, errUnasked) {
				w.log.Debug("a check could not be made", "container", s.Container, "error", err)
				return
			}
			l.note(spec.Health, s.Arg, err, f.Last, started)
			w.rec.Lives[s.Container] = l
		})
	})
}

func (w *worker) ask(ctx context.Context, id, ip string, spec api.Container, c api.Check) error {
	if len(c.Exec) > 0 {
		return w.exec(ctx, id, c.Exec, c.Timeout.D())
	}
	port, err := c.PortOf(spec.Ports)
	if err != nil {
		return err
	}
	return w.cfg.Prober.Probe(ctx, Target{Container: id, IP: ip, Port: port, HTTP: c.HTTP, GRPC: c.GRPC, Timeout: c.Timeout.D()})
}

// exec runs a command in a container; its error says how it failed. A runtime
// that does not answer is no fault of the container: errUnasked.
func (w *worker) exec(ctx context.Context, id string, command []string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	said := &lastWords{}
	code, err := w.cfg.Runtime.Exec(ctx, id, command, false, runtime.ExecIO{Stdout: said, Stderr: said})
	what := strings.Join(command, " ")
	if len(what) > 80 { // a script, perhaps
		what = strings.ToValidUTF8(what[:80], "") + "…"
	}
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return fmt.Errorf("%s: did not end within %s", what, timeout)
	case errors.Is(err, runtime.ErrCannotStart):
		return fmt.Errorf("%s: %s", what, essence(err, runtime.ErrCannotStart))
	case err != nil:
		return fmt.Errorf("%s: %w: %w", what, errUnasked, err)
	case code != 0:
		return fmt.Errorf("%s: exited with code %d%s", what, code, said)
	}
	return nil
}

// lastWords keeps the end of what a command wrote, to both of its outputs.
type lastWords struct {
	mu sync.Mutex
	b  []byte
}

func (l *lastWords) Write(b []byte) (int, error) {
	const most = 400
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b...)
	l.b = l.b[max(0, len(l.b)-most):]
	return len(b), nil
}

// String is the last line, as the end of a sentence.
func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := bytes.TrimSpace(steering.ReplaceAllLiteral(l.b, nil))
	if i := bytes.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	if len(text) == 0 {
		return ""
	}
	return ": " + strings.ToValidUTF8(string(text), "")
}

// hook runs the pod's pre_stop in its main container.
func (w *worker) hook(ctx context.Context) {
	w.see.Hook = hookFact{Busy: true}
	id := ID(w.pod.Meta.UID, api.MainContainer, w.rec.Lives[api.MainContainer].Attempt)
	left := time.Until(w.rec.Stop.Signal.Add(hookBound(&w.pod)))
	command := w.pod.Spec.Stop.PreStop
	w.async.Go(func() {
		err := w.exec(ctx, id, command, left)
		w.post(func() {
			w.see.Hook = hookFact{Done: true}
			if err != nil {
				w.see.Hook.Err = err.Error()
			}
		})
	})
}
