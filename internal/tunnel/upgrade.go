package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"encoding/json"
)

// Protocols an HTTP/1.1 connection can be upgraded to.
const (
	Protocol     = "clusterd-tunnel" // yamux; the server opens streams that carry HTTP
	ExecProtocol = "clusterd-exec"   // Frames
)

// handshake bounds how long a peer may take to answer an upgrade.
const handshake = 10 * time.Second

// StatusError is an answer other than "switching protocols".
type StatusError struct {
	Status int
	Body   []byte
}

func (e *StatusError) Error() string {
	var problem struct{ Detail string }
	if json.Unmarshal(e.Body, &problem); problem.Detail != "" {
		return problem.Detail
	}
	if s := strings.TrimSpace(string(e.Body)); s != "" {
		return fmt.Sprintf("%d: %s", e.Status, s)
	}
	return fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
}

// Dial connects to addr (host:port) and upgrades the connection with r, whose
// URL host may be empty. The caller closes what it gets.
func Dial(ctx context.Context, addr string, conf *tls.Config, r *http.Request, protocol string) (net.Conn, error) {
	conf = conf.Clone()
	conf.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 5 * time.Second}, Config: conf}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if r.Host == "" {
		r.Host = addr
	}
	return Upgrade(ctx, conn, r, protocol)
}

// Upgrade sends r over conn, asking for protocol, and returns the connection
// that speaks it. On an error conn is closed; *StatusError is the peer's no.
func Upgrade(ctx context.Context, conn net.Conn, r *http.Request, protocol string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	up, err := upgrade(conn, r, protocol)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return up, nil
}

func upgrade(conn net.Conn, r *http.Request, protocol string) (net.Conn, error) {
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", protocol)
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, &StatusError{Status: resp.StatusCode, Body: b}
	}
	if got := resp.Header.Get("Upgrade"); !strings.EqualFold(got, protocol) {
		return nil, fmt.Errorf("the peer switched to %q, not to %s", got, protocol)
	}
	return leftover(conn, br), nil
}

// Accept is the other half: it takes the connection of r over, answers that
// it now speaks protocol, and returns it. After an error other than a failed
// write the caller still owns w.
func Accept(w http.ResponseWriter, r *http.Request, protocol string) (net.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), protocol) {
		return nil, fmt.Errorf("this path needs a connection upgrade to %s", protocol)
	}
	rc := http.NewResponseController(w)
	conn, rw, err := rc.Hijack()
	if err != nil {
		return nil, errors.New("this path needs HTTP/1.1")
	}
	conn.SetDeadline(time.Time{})
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return leftover(conn, rw.Reader), nil
}

// leftover puts what br has read ahead back in front of conn.
func leftover(conn net.Conn, br *bufio.Reader) net.Conn {
	if br.Buffered() == 0 {
		return conn
	}
	return &bufferedConn{conn, io.MultiReader(io.LimitReader(br, int64(br.Buffered())), conn)}
}

type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }
