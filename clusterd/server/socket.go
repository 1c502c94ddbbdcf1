package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
)

// SocketFile is in the data directory: the way in for when every token is lost.
const SocketFile = "admin.sock"

// serveLocal serves the API to root of this machine, without a token: who is
// root here can read the keys of everything anyway. What is done is audited as
// user:root@NAME, a name that no token can have. A server goes on without it.
func (s *Server) serveLocal(ctx context.Context) error {
	path := filepath.Join(s.cfg.DataDir, SocketFile)
	l, err := listenLocal(path)
	if err != nil {
		s.log.Warn("no local way in", "path", path, "error", err)
		<-ctx.Done()
		return nil
	}
	h := &http.Server{
		Handler:           s.api.InProcess(apiserver.Identity{Role: apiserver.RoleUser, Name: "root@" + s.cfg.Name}),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // watches end with it
		ErrorLog:          s.log.Named("socket").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if err := h.Serve(rootsOnly{l, s.log}); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenLocal takes the place of a socket that an earlier run has left.
func listenLocal(path string) (*net.UnixListener, error) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// rootsOnly accepts root, and who the server itself runs as. The file's mode
// says the same; it may have been changed, and the kernel's word cannot.
type rootsOnly struct {
	*net.UnixListener
	log hclog.Logger
}

// Accept implements net.Listener.
func (l rootsOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && !trusted(uid, os.Geteuid()) {
			err = fmt.Errorf("user %d is not root", uid)
		}
		if err == nil {
			return c, nil
		}
		l.log.Warn("refused at the local socket", "error", err)
		c.Close()
	}
}

// trusted says whether who runs as uid may do everything on a server that runs
// as own.
func trusted(uid uint32, own int) bool { return uid == 0 || int64(uid) == int64(own) }
