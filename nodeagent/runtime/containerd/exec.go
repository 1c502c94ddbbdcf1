//go:build linux

package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// goodbye bounds the end of a command whose caller has left.
const goodbye = 5 * time.Second

var execSerial atomic.Int64

// Exec runs a command beside the container's own, as its user and with its environment.
func (r *Runtime) Exec(ctx context.Context, id string, command []string, tty bool, streams runtime.ExecIO) (int, error) {
	c, err := r.load(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("exec in %w", err)
	}
	t, err := task(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("exec in %w", err)
	}
	if t == nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, runtime.ErrNotRunning)
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	process := *spec.Process
	process.Args, process.Terminal = command, tty
	if tty {
		process.Env = append([]string{"TERM=xterm"}, process.Env...)
	}
	stdin, opts := r.connect(tty, streams)
	name := "exec-" + strconv.FormatInt(time.Now().UnixNano(), 36) + strconv.FormatInt(execSerial.Add(1), 36)
	p, err := t.Exec(ctx, name, &process, cio.NewCreator(opts...))
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, execError(err))
	}
	code, err := run(ctx, t, p, stdin, streams.Resize)
	// Whatever happened, the process and its pipes are not left behind.
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if _, gone := p.Delete(leaving, client.WithProcessKill); gone != nil && err == nil && !errdefs.IsNotFound(gone) {
		err = gone
	}
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, cmp.Or(ctx.Err(), err))
	}
	return code, nil
}

// connect says where the process's streams go. A missing output is read and
// thrown away, so that the process never waits for a reader.
func (r *Runtime) connect(tty bool, streams runtime.ExecIO) (*ending, []cio.Opt) {
	var in io.Reader
	var end *ending
	if streams.Stdin != nil {
		end = &ending{Reader: streams.Stdin, ended: make(chan struct{})}
		in = end
	}
	out, errs := streams.Stdout, streams.Stderr
	if out == nil {
		out = io.Discard
	}
	if errs == nil {
		errs = io.Discard
	}
	opts := []cio.Opt{cio.WithStreams(in, out, errs), cio.WithFIFODir(r.config.pipes())}
	if tty {
		opts = append(opts, cio.WithTerminal)
	}
	return end, opts
}

// run starts a prepared process of a task and stays with it to its end.
func run(ctx context.Context, t client.Task, p client.Process, stdin *ending, sizes <-chan runtime.Size) (int, error) {
	exited, err := p.Wait(ctx)
	if err != nil {
		return 0, err
	}
	if err := p.Start(ctx); err != nil {
		if full := noRoom(int(t.Pid())); full != nil && ctx.Err() == nil {
			return 0, full
		}
		return 0, execError(err)
	}
	var typed <-chan struct{}
	if stdin != nil {
		typed = stdin.ended
	}
	for {
		select {
		case <-typed:
			typed = nil
			// The shim holds the pipe open for others who may still come.
			if err := p.CloseIO(ctx, client.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
				return 0, fmt.Errorf("close stdin: %w", err)
			}
		case s, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			// A command that has just ended has no size any more.
			if err := p.Resize(ctx, uint32(s.Cols), uint32(s.Rows)); err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
				return 0, fmt.Errorf("resize terminal: %w", err)
			}
		case status := <-exited:
			code, _, err := status.Result()
			if err != nil {
				return 0, errgrpc.ToNative(err)
			}
			return int(code), delivered(ctx, p)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// delivered waits until all output has reached the caller.
func delivered(ctx context.Context, p client.Process) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.IO().Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ending is a reader that tells when it has come to its end.
type ending struct {
	io.Reader
	ended chan struct{}
	told  bool
}

func (e *ending) Read(b []byte) (int, error) {
	n, err := e.Reader.Read(b)
	if err != nil && !e.told {
		e.told = true
		close(e.ended)
	}
	return n, err
}

// beginning is how many processes and threads a command takes while it begins.
const beginning = 8

// noRoom says that a container has about as many processes as it may, so that no
// command can begin in it; nil: that is not what is wrong.
func noRoom(pid int) error {
	has, may, err := crowd(pid)
	if err != nil || may == 0 || has+beginning <= may {
		return nil
	}
	return fmt.Errorf("%w: the container has %d of the %d processes and threads it may have (limits.pids), so no other can begin", runtime.ErrCannotStart, has, may)
}

func execError(err error) error {
	if s := startError(err); errors.Is(s, runtime.ErrCannotStart) {
		return s
	}
	if errdefs.IsFailedPrecondition(err) || strings.Contains(err.Error(), "not running") || strings.Contains(err.Error(), "stopped") || errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%w: %w", runtime.ErrNotRunning, err)
	}
	return err
}
