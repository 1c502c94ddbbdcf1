// Package tunnel carries what servers ask of nodes over a connection that the
// node opened: logs, exec, image import. A worker needs no open port for it.
//
// Invariants:
//   - One connection per node and server, multiplexed; the server opens the
//     streams, each an HTTP/1.1 connection to the node's handler.
//   - A machine that is gone without a word is noticed within four seconds, by
//     the kernel at either end; that makes a connection a witness of its node's
//     health. An agent that hangs on a machine that lives is noticed in ten, a
//     server in fifteen.
//   - A node's newer connection replaces its older one.
//   - A connection ends with the certificate that opened it.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/yamux"
)

// A server pings every five seconds, and wants the answer in as many. A node does
// not ask itself: it hears the server's pings, or nothing for as long as silence.
const (
	pingEvery   = 5 * time.Second
	pingTimeout = 5 * time.Second
	silence     = 15 * time.Second
)

func muxConfig(log hclog.Logger) *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive, c.ConnectionWriteTimeout = false, pingTimeout
	c.StreamOpenTimeout = 10 * time.Second
	c.StreamCloseTimeout = 30 * time.Second
	c.LogOutput, c.Logger = nil, log.Named("yamux").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
	return c
}

// Dialer is a node's side: it keeps one connection to one server.
type Dialer struct {
	Addr    string      // host:port of the server
	TLS     *tls.Config // shows the node's certificate, verifies the server's
	Handler http.Handler
	// Connected hears of every connection that is made; nil: not wanted.
	Connected func()
	Log       hclog.Logger

	dial func(context.Context) (net.Conn, error) // instead of Dial, in tests
}

// Run keeps the connection up until ctx is done. It never gives up: a server
// that is away comes back.
func (d *Dialer) Run(ctx context.Context) error {
	const first, most = 100 * time.Millisecond, 2 * time.Second
	log := d.Log
	if log == nil {
		log = hclog.NewNullLogger()
	}
	log = log.With("server", d.Addr)
	for wait, quiet := first, false; ; {
		began := time.Now()
		up, err := d.serve(ctx, log)
		if ctx.Err() != nil {
			return nil
		}
		if up {
			quiet = false
		}
		// One line per outage, not per attempt.
		if !quiet {
			log.Warn("not connected; trying again", "error", err)
			quiet = true
		}
		if time.Since(began) > 5*time.Second {
			wait = first
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, most)
	}
}

// serve connects and answers until the connection ends. It reports whether it
// was ever up.
func (d *Dialer) serve(ctx context.Context, log hclog.Logger) (up bool, err error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return false, err
	}
	watchOver(conn)
	mux, err := yamux.Server(listening{conn}, muxConfig(log))
	if err != nil {
		conn.Close()
		return false, err
	}
	log.Info("connected")
	if d.Connected != nil {
		d.Connected()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler:           d.Handler,
		ReadHeaderTimeout: handshake,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	defer context.AfterFunc(ctx, func() { mux.Close(); srv.Close() })()
	err = srv.Serve(streams{mux})
	cancel()
	mux.Close()
	srv.Close()
	return true, fmt.Errorf("the connection ended: %w", err)
}

// listening is a connection that ends when nothing comes for as long as silence.
type listening struct{ net.Conn }

func (c listening) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// streams are the connections in a session. Any error is its end: one that is a
// timeout http.Server would wait for to pass.
type streams struct{ *yamux.Session }

func (s streams) Accept() (net.Conn, error) {
	c, err := s.Session.Accept()
	if err != nil {
		return nil, errors.New(err.Error())
	}
	return c, nil
}

func (d *Dialer) connect(ctx context.Context) (net.Conn, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.Addr+"/v1/tunnel", nil)
	if err != nil {
		return nil, err
	}
	if d.dial != nil {
		conn, err := d.dial(ctx)
		if err != nil {
			return nil, err
		}
		return Upgrade(ctx, conn, r, Protocol)
	}
	return Dial(ctx, d.Addr, d.TLS, r, Protocol)
}
