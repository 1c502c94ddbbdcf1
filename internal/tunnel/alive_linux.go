package tunnel

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// watchOver has the kernels at both ends tell whether the other machine is
// there: a connection over which nothing gets through ends after two seconds, and
// up to three and a half when something is sent into the silence, from which the
// kernel then counts. They answer for each other however busy their machines are,
// but not for a process that leaves much unread for as long.
func watchOver(conn net.Conn) {
	if b, ok := conn.(*bufferedConn); ok {
		conn = b.Conn
	}
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return // a pipe: both ends are here
	}
	const lost = 1500 * time.Millisecond // the second probe finds it past
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2})
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(lost.Milliseconds()))
		})
	}
}
