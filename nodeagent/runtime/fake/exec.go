package fake

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Exec runs one of the commands the fake knows: a toolbox script, true (as whom
// databases are asked whether they serve: pg_isready), false,
// echo, cat, sleep, or sh -c with one of them or "exit N". In an image that
// lists its programs, only those are there.
func (r *Runtime) Exec(ctx context.Context, id string, command []string, tty bool, streams runtime.ExecIO) (int, error) {
	r.mu.Lock()
	c, err := r.get(id)
	var state runtime.State
	var missing string
	found, code := true, 0
	var spec runtime.Container
	if err == nil {
		state, spec, code = c.status.State, c.spec, c.commands
		missing, found = c.image.missing(command)
	}
	r.mu.Unlock()
	switch {
	case err != nil:
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	case state != runtime.Running:
		return 0, fmt.Errorf("exec in container %s: it is %s: %w", id, state, runtime.ErrNotRunning)
	case !found:
		return 0, fmt.Errorf("%w: %s", runtime.ErrCannotStart, missing)
	}
	if code != 0 {
		return code, nil
	}
	p := &process{ctx: ctx, out: streams.Stdout, err: streams.Stderr, in: streams.Stdin, resize: streams.Resize, env: spec.Env}
	if p.out == nil {
		p.out = io.Discard
	}
	if p.err == nil || tty {
		p.err = p.out
	}
	return p.run(command)
}

type process struct {
	ctx      context.Context
	in       io.Reader
	out, err io.Writer
	resize   <-chan runtime.Size
	env      []string
}

func (p *process) run(command []string) (int, error) {
	args := command[1:]
	switch command[0] {
	case "/toolbox":
		return p.steps(args)
	case "true", "pg_isready":
		return 0, nil
	case "false":
		return 1, nil
	case "echo":
		fmt.Fprintln(p.out, strings.Join(args, " "))
		return 0, nil
	case "cat":
		return p.steps([]string{"cat"})
	case "sleep":
		return 0, sleep(p.ctx, duration(args[0]+"s"))
	case "sh", "/bin/sh", "bash", "/bin/bash":
		if len(args) == 2 && args[0] == "-c" {
			if code, ok := strings.CutPrefix(args[1], "exit "); ok {
				return atoi(code), nil
			}
			return p.run(strings.Fields(args[1]))
		}
		return p.steps([]string{"cat"})
	}
	return 0, fmt.Errorf("%w: exec: %q: executable file not found in $PATH", runtime.ErrCannotStart, command[0])
}

// steps runs a toolbox script in the foreground.
func (p *process) steps(script []string) (int, error) {
	for _, step := range script {
		verb, value, _ := strings.Cut(step, "=")
		switch verb {
		case "print":
			fmt.Fprintln(p.out, value)
		case "warn":
			fmt.Fprintln(p.err, value)
		case "env":
			for _, kv := range p.env {
				if v, ok := strings.CutPrefix(kv, value+"="); ok {
					fmt.Fprintln(p.out, v)
				}
			}
		case "cat":
			if p.in != nil {
				if _, err := io.Copy(p.out, p.in); err != nil {
					return 0, err
				}
			}
		case "line":
			if p.in != nil {
				text, _ := bufio.NewReader(p.in).ReadString('\n')
				fmt.Fprint(p.out, text)
			}
		case "size":
			select {
			case s := <-p.resize:
				fmt.Fprintf(p.out, "%dx%d\n", s.Cols, s.Rows)
			case <-time.After(10 * time.Second):
				return 1, nil
			case <-p.ctx.Done():
				return 0, p.ctx.Err()
			}
		case "wait":
			if err := sleep(p.ctx, duration(value)); err != nil {
				return 0, err
			}
		case "exit":
			return atoi(value), nil
		case "forever":
			<-p.ctx.Done()
			return 0, p.ctx.Err()
		}
	}
	return 0, nil
}
