//go:build linux

// Package dns is the resolver of a node's pods: it knows the cluster's own
// names and asks the node's resolvers for all others.
//
//	<service>.<namespace>.svc.cluster.local   the virtual IP; SRV for named ports
//	<app>.<namespace>.app.cluster.local       the addresses of the app's ready pods behind its services
//	<a>.<b>.<c>.<d>.in-addr.arpa              the name of a virtual IP
//
// Invariants: an answer about the cluster comes from memory and never waits for
// anybody, so names resolve while the control plane is away; a name of the
// cluster never leaves it; a name that exists and has no such record is told
// from one that does not exist; before the services are known, the answer is
// "try again" and never "no such name".
package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"
)

// Config says where to listen and whom to ask.
type Config struct {
	Address   netip.AddrPort   // where pods ask, UDP and TCP
	Sockets   *Sockets         // bound to Address; by default Listen's own
	Upstreams []netip.AddrPort // the node's own resolvers; see Upstreams
	Log       hclog.Logger
}

// Server answers the pods of one node. It is a sink of the proxy's Feed.
type Server struct {
	cfg  Config
	log  hclog.Logger
	zone zone
	up   upstream
	udp  net.PacketConn
	tcp  net.Listener

	patience time.Duration
}

const timeout = 5 * time.Second // of a query over TCP, reading and writing

// patience is how long the first questions wait for the services to be known:
// a resolver gives up after five seconds, and at once when it is told to try again.
const patience = 3 * time.Second

// Listen opens the server's sockets, in the network namespace of the calling thread.
func Listen(cfg Config) (*Server, error) {
	s := newServer(cfg)
	at, err := cfg.Sockets, error(nil)
	if at == nil {
		if at, err = Bind(cfg.Address); err != nil {
			return nil, err
		}
		defer at.Close()
	}
	if s.udp, s.tcp, err = at.open(); err != nil {
		return nil, listenError(err)
	}
	return s, nil
}

func listenError(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("resolver: %w: another DNS server of this machine listens on all addresses: give it one of its own", err)
	}
	return fmt.Errorf("resolver: %w", err)
}

func newServer(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	s := &Server{cfg: cfg, log: cfg.Log.Named("dns"), up: newUpstream(cfg.Upstreams, cfg.Address), patience: patience}
	s.zone.told = make(chan struct{})
	return s
}

// Address returns where the server listens.
func (s *Server) Address() netip.AddrPort {
	return s.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Run answers until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-s.zone.told:
	case <-time.After(s.patience):
	case <-ctx.Done():
	}
	servers := []*dns.Server{
		{PacketConn: s.udp, Handler: s, UDPSize: dns.DefaultMsgSize},
		{Listener: s.tcp, Handler: s, ReadTimeout: timeout, WriteTimeout: timeout},
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, d := range servers {
		wg.Go(func() {
			if err := d.ActivateAndServe(); err != nil {
				cancel(fmt.Errorf("resolver: %w", err))
			}
		})
	}
	<-ctx.Done()
	// Closing the sockets ends both, also one that had not begun to serve.
	s.udp.Close()
	s.tcp.Close()
	wg.Wait()
	return context.Cause(ctx)
}

// ServeDNS answers one query.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	reply := s.answer(q, w.RemoteAddr().Network() == "tcp")
	if err := w.WriteMsg(reply); err != nil {
		s.log.Debug("cannot answer", "client", w.RemoteAddr(), "error", err)
	}
}

func (s *Server) answer(q *dns.Msg, tcp bool) *dns.Msg {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	reply := new(dns.Msg).SetReply(q)
	reply.RecursionAvailable = true
	switch {
	case q.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET:
		reply.Rcode = dns.RcodeRefused
	default:
		if !s.zone.answer(q.Question[0], reply) {
			return s.up.ask(q, reply, tcp, size)
		}
	}
	if opt := q.IsEdns0(); opt != nil {
		reply.SetEdns0(uint16(dns.DefaultMsgSize), false)
	}
	reply.Truncate(size)
	return reply
}
