//go:build linux

package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets are where pods ask. Whoever holds them keeps what is asked while no
// server runs: the next one answers it, well before a resolver gives up.
type Sockets struct {
	udp, tcp *os.File
}

// Bind opens the sockets in the network namespace of the calling thread. The
// address need not be there yet.
func Bind(at netip.AddrPort) (*Sockets, error) {
	early := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		}), err)
	}}
	udp, err := early.ListenPacket(context.Background(), "udp4", at.String())
	if err != nil {
		return nil, listenError(err)
	}
	defer udp.Close()
	// Port 0 is any free one, the same for both.
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), udp.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	}
	tcp, err := early.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		return nil, listenError(err)
	}
	defer tcp.Close()
	s := &Sockets{}
	if s.udp, err = udp.(*net.UDPConn).File(); err == nil {
		s.tcp, err = tcp.(*net.TCPListener).File()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Inherited are the sockets that a parent passed on, beginning with a file
// descriptor, in the order of Files.
func Inherited(first uintptr) *Sockets {
	return &Sockets{udp: os.NewFile(first, "resolver-udp"), tcp: os.NewFile(first+1, "resolver-tcp")}
}

// Files are the sockets, to pass on.
func (s *Sockets) Files() []*os.File { return []*os.File{s.udp, s.tcp} }

// Close lets go of the sockets; servers that use them keep theirs.
func (s *Sockets) Close() error {
	var errs []error
	for _, f := range s.Files() {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// open returns connections of their own to the sockets.
func (s *Sockets) open() (net.PacketConn, net.Listener, error) {
	udp, err := net.FilePacketConn(s.udp)
	if err != nil {
		return nil, nil, err
	}
	tcp, err := net.FileListener(s.tcp)
	if err != nil {
		return nil, nil, errors.Join(err, udp.Close())
	}
	return udp, tcp, nil
}
