package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// serveExec runs a command in a container and connects it to the caller.
func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	command := q["command"]
	if len(command) == 0 {
		return badQuery("command", "", "the program and its arguments, each as a command parameter")
	}
	var tty, stdin bool
	for name, flag := range map[string]*bool{"tty": &tty, "stdin": &stdin} {
		if s := q.Get(name); s != "" {
			var err error
			if *flag, err = strconv.ParseBool(s); err != nil {
				return badQuery(name, s, "true or false")
			}
		}
	}
	name := containerOf(r)
	view, ok, _ := a.workers.View(r.PathValue("uid"))
	run, named := view.Containers[name]
	switch {
	case !ok:
		return api.Errorf(api.NotFound, "the pod is not on node %s (any more)", a.cfg.Name)
	case !named:
		return a.noContainer(r.PathValue("uid"), name)
	case !run.Running:
		return api.Errorf(api.Conflict, "container %s does not run now: try again once it does", name)
	}
	conn, err := tunnel.Accept(w, r, tunnel.ExecProtocol)
	if err != nil {
		return api.Errorf(api.BadRequest, "%s", err)
	}
	defer conn.Close()
	frames := tunnel.NewFrames(conn)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	in := &input{frames: frames, gone: cancel, resize: make(chan runtime.Size, 1)}
	streams := runtime.ExecIO{Stdout: frames.Writer(tunnel.FrameStdout), Stderr: frames.Writer(tunnel.FrameStderr)}
	if tty {
		streams.Resize = in.resize
	}
	pr, pw := io.Pipe()
	defer pr.Close()
	if stdin {
		streams.Stdin = pr
	} else {
		pr.Close() // what is sent all the same goes nowhere
	}
	go in.read(pw) // ends with the connection, which this function closes
	code, err := a.cfg.Runtime.Exec(ctx, run.ID, command, tty, streams)
	if ctx.Err() != nil {
		return nil // the caller hung up, or its server did for it: then this end is not the command's
	}
	exit := tunnel.Exit{Code: code}
	if err != nil {
		exit = tunnel.Exit{Code: execFailed(err), Error: err.Error()}
	}
	a.log.Debug("exec ended", "container", run.ID, "command", command[0], "exit_code", exit.Code, "error", exit.Error)
	_ = frames.WriteJSON(tunnel.FrameExit, exit) // a caller that hung up does not hear it
	// What the caller still sends must not meet a closed connection: that could
	// cost it what it has not read yet. It hangs up once it knows.
	select {
	case <-ctx.Done():
	case <-time.After(hangUp):
	}
	return nil
}

// hangUp is how long a caller has to hang up after its command has ended.
const hangUp = 2 * time.Second

// execFailed is the exit code a shell shows for a command it could not run.
func execFailed(err error) int {
	if errors.Is(err, runtime.ErrCannotStart) || errors.Is(err, runtime.ErrNotFound) {
		return 127
	}
	return 126
}

// input is what the caller sends to a session.
type input struct {
	frames *tunnel.Frames
	gone   func()
	resize chan runtime.Size
}

// read hands frames on until the caller hangs up, which ends the command.
func (in *input) read(stdin *io.PipeWriter) {
	defer in.gone()
	defer stdin.Close()
	for {
		t, data, err := in.frames.Read()
		if err != nil {
			return
		}
		switch t {
		case tunnel.FrameStdin:
			if _, err := stdin.Write(data); err != nil {
				stdin.Close() // the command reads no more; it may go on
			}
		case tunnel.FrameCloseStdin:
			stdin.Close()
		case tunnel.FrameResize:
			var s tunnel.Size
			if json.Unmarshal(data, &s) != nil {
				continue
			}
			select { // only the newest size matters
			case <-in.resize:
			default:
			}
			in.resize <- runtime.Size(s)
		}
	}
}
