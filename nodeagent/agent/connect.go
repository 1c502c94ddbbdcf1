package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// dialTimeout bounds a connection to a pod of this very node.
const dialTimeout = 3 * time.Second

// serveConnect connects the caller to a port of a pod.
func (a *Agent) serveConnect(w http.ResponseWriter, r *http.Request) error {
	text := r.URL.Query().Get("port")
	if port, err := strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
		return badQuery("port", text, "a number from 1 to 65535")
	}
	view, ok, _ := a.workers.View(r.PathValue("uid"))
	switch {
	case !ok:
		return api.Errorf(api.NotFound, "the pod is not on node %s (any more)", a.cfg.Name)
	case view.IP == "":
		return api.Errorf(api.Conflict, "the pod has no address yet: try again once it runs")
	}
	address := net.JoinHostPort(view.IP, text)
	to, err := a.cfg.Dial(r.Context(), address)
	if err != nil {
		return api.Errorf(api.Conflict, "nothing answers on port %s of the pod: %s", text, essence(err))
	}
	defer to.Close()
	conn, err := tunnel.Accept(w, r, tunnel.ExecProtocol)
	if err != nil {
		return api.Errorf(api.BadRequest, "%s", err)
	}
	defer conn.Close()
	ctx, gone := context.WithCancel(context.WithoutCancel(r.Context()))
	defer gone()
	defer context.AfterFunc(ctx, func() { to.Close() })()
	frames := tunnel.NewFrames(conn)
	var hungUp atomic.Bool // the caller did, or its server for it
	go func() {
		defer gone()
		for {
			t, data, err := frames.Read()
			if err != nil {
				hungUp.Store(true)
				return
			}
			switch t {
			case tunnel.FrameStdin:
				if _, err := to.Write(data); err != nil {
					return
				}
			case tunnel.FrameCloseStdin:
				if half, ok := to.(interface{ CloseWrite() error }); ok {
					half.CloseWrite()
				}
			}
		}
	}()
	_, err = io.Copy(frames.Writer(tunnel.FrameStdout), to)
	if hungUp.Load() {
		return nil // this end is not the pod's
	}
	exit := tunnel.Exit{}
	if err != nil && ctx.Err() == nil {
		exit = tunnel.Exit{Code: 1, Error: err.Error()}
	}
	_ = frames.WriteJSON(tunnel.FrameExit, exit) // a caller that hung up does not hear it
	select {                                     // it hangs up once it has read that
	case <-ctx.Done():
	case <-time.After(hangUp):
	}
	return nil
}

// essence is what went wrong, without where: the caller knows.
func essence(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}
