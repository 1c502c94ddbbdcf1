package fake

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/lease"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// container is one state machine; the runtime's mutex guards it.
type container struct {
	rt     *Runtime
	spec   runtime.Container
	image  Image
	status runtime.Status

	script     []string
	timer      *time.Timer // the next step, or the delayed answer to a signal
	lease      *time.Timer // its end; nil without one
	listening  bool
	commands   int // what they end with; 0: as they do
	ignoreTerm bool
	oom        bool // a process of it was killed for want of memory
	termCode   int
	termTakes  time.Duration
	log        *logfile.Writer

	used   runtime.Usage // at usedAt
	usedAt time.Time
	milli  int // thousandths of a core it uses since
}

// usage is what it has used by now.
func (c *container) usage() runtime.Usage {
	u := c.used
	u.CPU += time.Since(c.usedAt) * time.Duration(c.milli) / 1000
	return u
}

// Usage returns what the container's script says it uses.
func (r *Runtime) Usage(_ context.Context, id string) (runtime.Usage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("usage of container %s: %w", id, err)
	}
	if c.status.State != runtime.Running {
		return runtime.Usage{}, fmt.Errorf("usage of container %s: %w", id, runtime.ErrNotRunning)
	}
	return c.usage(), nil
}

// Create makes a container of an image on the node.
func (r *Runtime) Create(_ context.Context, c runtime.Container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return r.down
	}
	if r.containers[c.ID] != nil {
		return nil
	}
	ref, image, ok := r.find(c.Image)
	if !ok {
		return fmt.Errorf("create container %s: image %s: %w", c.ID, c.Image, runtime.ErrNotFound)
	}
	if why := refuses(c.Security, image); why != "" {
		return fmt.Errorf("create container %s: %w: %s", c.ID, runtime.ErrCannotStart, why)
	}
	n := &container{rt: r, spec: c, image: image, script: image.Script, termCode: 143}
	if image.ArgsReplace && len(c.Args) > 0 {
		n.script = c.Args
	}
	n.status = runtime.Status{
		ID: c.ID, Pod: c.Pod, Labels: maps.Clone(c.Labels), State: runtime.Created, Image: image.describe(ref).Digest,
	}
	r.containers[c.ID] = n
	r.tell(c.ID)
	return nil
}

// Start starts a created container.
func (r *Runtime) Start(ctx context.Context, id string) (runtime.Status, error) {
	r.mu.Lock()
	takes := r.startTakes
	r.mu.Unlock()
	if err := sleep(ctx, takes); err != nil {
		return runtime.Status{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return runtime.Status{}, fmt.Errorf("start container %s: %w", id, err)
	}
	if c.status.State != runtime.Created {
		return c.snapshot(), nil
	}
	if program, ok := c.image.missing(c.spec.Command); !ok {
		return c.snapshot(), fmt.Errorf("%w: %s", runtime.ErrCannotStart, program)
	}
	left := time.Duration(0)
	if c.spec.Lease != "" {
		if left = lease.Left(c.spec.Lease, r.clock); left == 0 {
			return c.snapshot(), fmt.Errorf("start container %s: the node's run lease has ended", id)
		}
	}
	if c.spec.LogPath != "" {
		if c.log, err = logfile.Open(c.spec.LogPath); err != nil {
			return c.snapshot(), fmt.Errorf("start container %s: log: %w", id, err)
		}
	}
	r.pid++
	c.status.State, c.status.PID, c.status.StartedAt = runtime.Running, r.pid, time.Now()
	r.tell(id)
	if left > 0 {
		c.guard(left)
	}
	c.run()
	return c.snapshot(), nil
}

// guard kills the container once its lease has ended, whoever is there to see.
func (c *container) guard(left time.Duration) {
	c.lease = time.AfterFunc(left, func() {
		c.rt.mu.Lock()
		defer c.rt.mu.Unlock()
		if left := lease.Left(c.spec.Lease, c.rt.clock); left > 0 {
			c.lease.Reset(left)
			return
		}
		c.end(runtime.Exit{Code: 137, At: time.Now()})
	})
}

// missing says what runc would when the command's program is not in the image.
func (i Image) missing(command []string) (string, bool) {
	if len(i.Programs) == 0 {
		return "", true
	}
	program := i.Programs[0]
	if len(command) > 0 {
		program = command[0]
	}
	if slices.Contains(i.Programs, program) && program != "/none" {
		return "", true
	}
	if !strings.Contains(program, "/") {
		return fmt.Sprintf("exec: %q: executable file not found in $PATH", program), false
	}
	return fmt.Sprintf("exec: %q: stat %s: no such file or directory", program, program), false
}

// run takes steps until one takes time or ends the container.
func (c *container) run() {
	for c.status.State == runtime.Running {
		if len(c.script) == 0 {
			c.end(runtime.Exit{At: time.Now()})
			return
		}
		verb, value, _ := strings.Cut(c.script[0], "=")
		c.script = c.script[1:]
		switch verb {
		case "print":
			c.print(logfile.Stdout, value)
		case "warn":
			c.print(logfile.Stderr, value)
		case "env":
			for _, kv := range c.spec.Env {
				if v, ok := strings.CutPrefix(kv, value+"="); ok {
					c.print(logfile.Stdout, v)
				}
			}
		case "exit-if":
			if slices.Contains(c.spec.Env, value) {
				c.print(logfile.Stderr, "will not run with "+value)
				c.end(runtime.Exit{Code: 1, At: time.Now()})
			}
		case "listen":
			c.listening = true
		case "deaf":
			c.listening = false
		case "commands":
			c.commands = atoi(value)
		case "ignore-term":
			c.ignoreTerm = true
		case "on-term":
			code, takes, _ := strings.Cut(value, ",")
			c.termCode, c.termTakes = atoi(code), duration(cmp.Or(takes, "0s"))
		case "write", "id", "rights", "open", "fork":
			if text := c.allowed(verb, value); text != "" {
				c.print(logfile.Stdout, text)
			}
		case "use":
			milli, bytes, _ := strings.Cut(value, ",")
			c.used, c.usedAt = c.usage(), time.Now()
			c.milli, c.used.Memory = atoi(milli), int64(atoi(bytes))
		case "oom-child":
			c.oom = true
		case "exit":
			c.end(runtime.Exit{Code: atoi(value), At: time.Now()})
		case "oom":
			c.end(runtime.Exit{Code: 137, OOM: true, At: time.Now()})
		case "forever":
			return
		case "wait":
			if d := duration(value); d > 0 {
				c.timer = time.AfterFunc(d, func() {
					c.rt.mu.Lock()
					defer c.rt.mu.Unlock()
					c.run()
				})
				return
			}
		default:
			panic("fake: no step " + verb)
		}
	}
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic("fake: script: " + err.Error())
	}
	return d
}

func (c *container) print(stream, text string) {
	if c.log != nil {
		c.log.Print(stream, text)
	}
}

// end finishes a container that runs; one that does not is left alone.
func (c *container) end(how runtime.Exit) {
	if c.status.State != runtime.Running {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.lease != nil {
		c.lease.Stop()
	}
	if c.log != nil {
		c.log.Close()
	}
	how.OOM = how.OOM || c.oom && how.Code != 0
	c.status.State, c.status.PID, c.status.Exit = runtime.Exited, 0, how
	c.listening = false
	c.rt.tell(c.spec.ID)
}

func (c *container) snapshot() runtime.Status {
	s := c.status
	s.Labels = maps.Clone(s.Labels)
	return s
}

// signals maps names to numbers, as far as they end a process.
var signals = map[string]int{"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGKILL": 9, "SIGTERM": 15}

// Signal sends a signal.
func (r *Runtime) Signal(_ context.Context, id, signal string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	number, deadly := signals[signal]
	switch {
	case signal == "SIGKILL":
		c.end(runtime.Exit{Code: 137, At: time.Now()})
	case signal == "SIGTERM" || signal == c.image.StopSignal:
		c.term()
	case deadly:
		c.end(runtime.Exit{Code: 128 + number, At: time.Now()})
	}
	return nil
}

// term is the container's answer to being told to stop.
func (c *container) term() {
	if c.ignoreTerm || c.status.State != runtime.Running {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.termTakes == 0 {
		c.end(runtime.Exit{Code: c.termCode, At: time.Now()})
		return
	}
	c.timer = time.AfterFunc(c.termTakes, func() {
		c.rt.mu.Lock()
		defer c.rt.mu.Unlock()
		c.end(runtime.Exit{Code: c.termCode, At: time.Now()})
	})
}

// Remove kills what still runs and forgets the container.
func (r *Runtime) Remove(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return r.down
	}
	c := r.containers[id]
	if c == nil {
		return nil
	}
	c.end(runtime.Exit{Code: 137, At: time.Now()})
	delete(r.containers, id)
	r.tell(id)
	return nil
}

// Status returns one container.
func (r *Runtime) Status(_ context.Context, id string) (runtime.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return runtime.Status{}, fmt.Errorf("container %s: %w", id, err)
	}
	return c.snapshot(), nil
}

// List returns all containers, by id.
func (r *Runtime) List(context.Context) ([]runtime.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return nil, r.down
	}
	all := []runtime.Status{}
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		all = append(all, r.containers[id].snapshot())
	}
	return all, nil
}

func (r *Runtime) get(id string) (*container, error) {
	if r.down != nil {
		return nil, r.down
	}
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, runtime.ErrNotFound
}
