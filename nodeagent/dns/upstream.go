//go:build linux

package dns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// Upstreams reads the node's resolvers from a resolv.conf. A file that is not
// there names none.
func Upstreams(path string) ([]netip.AddrPort, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conf, err := dns.ClientConfigFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []netip.AddrPort
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out, nil
}

const (
	askTimeout = 2 * time.Second // of one resolver; a pod's own patience is 5 s
	askAll     = 4 * time.Second
	maxAsking  = 512 // questions under way: more are answered "try again"
)

// upstream asks others.
type upstream struct {
	servers []netip.AddrPort
	asking  chan struct{}
	timeout time.Duration // of one server
}

// newUpstream asks servers, but never own: a question would go round and round.
func newUpstream(servers []netip.AddrPort, own netip.AddrPort) upstream {
	servers = slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool { return s == own })
	return upstream{servers, make(chan struct{}, maxAsking), askTimeout}
}

// ask passes a question on to the first resolver that answers it.
func (u upstream) ask(q, reply *dns.Msg, tcp bool, size int) *dns.Msg {
	if len(u.servers) == 0 {
		reply.Rcode = dns.RcodeRefused // final: a pod's resolver must not wait for better
		return reply
	}
	select {
	case u.asking <- struct{}{}:
		defer func() { <-u.asking }()
	default:
		reply.Rcode = dns.RcodeServerFailure
		return reply
	}
	c := &dns.Client{Net: "udp", Timeout: u.timeout, UDPSize: uint16(min(size, dns.DefaultMsgSize)), Dialer: &net.Dialer{Timeout: u.timeout}}
	if tcp {
		c.Net = "tcp"
	}
	deadline := time.Now().Add(askAll)
	for _, server := range u.servers {
		if time.Now().After(deadline) {
			break
		}
		r, _, err := c.Exchange(q, server.String())
		if err != nil || r.Rcode == dns.RcodeServerFailure || r.Rcode == dns.RcodeRefused {
			continue // perhaps the next one knows
		}
		r.Id = q.Id
		r.Truncate(size)
		return r
	}
	reply.Rcode = dns.RcodeServerFailure
	return reply
}
