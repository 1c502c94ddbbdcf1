//go:build linux

package dns

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Domain is the root of the cluster's names, with the dot DNS wants.
const Domain = api.ClusterDomain + "."

// ttl of the cluster's own records, in seconds: what a pod may remember a pod's
// address for after it is gone.
const ttl = 5

// key names an object of the cluster.
type key struct{ namespace, name string }

// zone is what the node knows of the cluster's names.
type zone struct {
	mu        sync.RWMutex
	known     bool
	told      chan struct{} // closed once known
	services  map[key]*api.Service
	endpoints map[key]map[string]*api.Endpoints // by service, by slice
	apps      map[key]map[string]bool           // services of an app
	headless  map[key]map[string]*api.Endpoints // by app, by slice: those it has of its own
	vips      map[netip.Addr]key
	names     map[string]int // services by namespace: a name with others below it exists
}

// Reset replaces all that is known.
func (s *Server) Reset(services []*api.Service, endpoints []*api.Endpoints, _ int64) {
	z := &s.zone
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.known {
		close(z.told)
	}
	z.known = true
	z.services, z.endpoints = map[key]*api.Service{}, map[key]map[string]*api.Endpoints{}
	z.headless = map[key]map[string]*api.Endpoints{}
	z.apps, z.vips, z.names = map[key]map[string]bool{}, map[netip.Addr]key{}, map[string]int{}
	for _, s := range services {
		z.putService(s)
	}
	for _, e := range endpoints {
		z.putSlice(e)
	}
}

// Service tells of one change of a service.
func (s *Server) Service(ev api.WatchEvent[*api.Service]) {
	if ev.Object == nil {
		return
	}
	s.zone.mu.Lock()
	defer s.zone.mu.Unlock()
	s.zone.dropService(key{ev.Object.Meta.Namespace, ev.Object.Meta.Name})
	if ev.Type != api.EventDelete {
		s.zone.putService(ev.Object)
	}
}

// Endpoints tells of one change of a slice of a service's endpoints.
func (s *Server) Endpoints(ev api.WatchEvent[*api.Endpoints]) {
	if ev.Object == nil {
		return
	}
	s.zone.mu.Lock()
	defer s.zone.mu.Unlock()
	if ev.Type != api.EventDelete {
		s.zone.putSlice(ev.Object)
		return
	}
	all, of := s.zone.slices(ev.Object)
	delete(all[of], ev.Object.Meta.Name)
	if len(all[of]) == 0 {
		delete(all, of)
	}
}

func (z *zone) putService(svc *api.Service) {
	k := key{svc.Meta.Namespace, svc.Meta.Name}
	z.services[k] = svc
	z.names[k.namespace]++
	if ip, err := netip.ParseAddr(svc.Effective.IP); err == nil {
		z.vips[ip] = k
	}
	app := key{k.namespace, svc.Effective.App}
	if z.apps[app] == nil {
		z.apps[app] = map[string]bool{}
	}
	z.apps[app][k.name] = true
}

func (z *zone) dropService(k key) {
	svc := z.services[k]
	if svc == nil {
		return
	}
	delete(z.services, k)
	if z.names[k.namespace]--; z.names[k.namespace] == 0 {
		delete(z.names, k.namespace)
	}
	if ip, err := netip.ParseAddr(svc.Effective.IP); err == nil && z.vips[ip] == k {
		delete(z.vips, ip)
	}
	app := key{k.namespace, svc.Effective.App}
	if delete(z.apps[app], k.name); len(z.apps[app]) == 0 {
		delete(z.apps, app)
	}
}

// slices returns where the slice belongs: to a service, or to an app itself.
func (z *zone) slices(e *api.Endpoints) (all map[key]map[string]*api.Endpoints, of key) {
	if e.Spec.App != "" {
		return z.headless, key{e.Meta.Namespace, e.Spec.App}
	}
	return z.endpoints, key{e.Meta.Namespace, e.Spec.Service}
}

func (z *zone) putSlice(e *api.Endpoints) {
	all, of := z.slices(e)
	if all[of] == nil {
		all[of] = map[string]*api.Endpoints{}
	}
	all[of][e.Meta.Name] = e
}

// answer fills in what the cluster says to a question. It reports false for
// names that are not the cluster's.
func (z *zone) answer(q dns.Question, reply *dns.Msg) bool {
	name := strings.ToLower(dns.Fqdn(q.Name))
	in := dns.IsSubDomain(Domain, name)
	if !in && !strings.HasSuffix(name, ".in-addr.arpa.") {
		return false
	}
	z.mu.RLock()
	defer z.mu.RUnlock()
	if !in {
		return z.reverse(name, q, reply)
	}
	reply.Authoritative = true
	if !z.known {
		reply.Rcode = dns.RcodeServerFailure
		return true
	}
	exists, records := z.lookup(strings.TrimSuffix(strings.TrimSuffix(name, Domain), "."), q)
	for _, rr := range records {
		if t := rr.Header().Rrtype; t == q.Qtype || q.Qtype == dns.TypeANY {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 {
		reply.Ns = []dns.RR{soa()} // says for how long the "no" may be remembered
	}
	return true
}

// lookup returns the records of a name below the cluster's domain, and whether
// the name, or one below it, exists.
func (z *zone) lookup(name string, q dns.Question) (exists bool, records []dns.RR) {
	labels := strings.Split(name, ".")
	slices.Reverse(labels) // svc, namespace, service, _protocol, _port
	at := func(i int) string {
		if i < len(labels) {
			return labels[i]
		}
		return ""
	}
	kind, k := at(0), key{at(1), at(2)}
	switch {
	case name == "":
		return true, []dns.RR{soa()}
	case len(labels) == 1:
		return kind == "svc" || kind == "app", nil
	case len(labels) == 2:
		return kind == "svc" && z.names[k.namespace] > 0 || kind == "app" && z.hasApp(k.namespace), nil
	case kind == "svc" && len(labels) <= 5:
		svc := z.services[k]
		if svc == nil {
			return false, nil
		}
		return z.service(svc, labels[3:], q)
	case kind == "app" && len(labels) == 3:
		ips := z.ready(k)
		if z.apps[k] == nil && z.headless[k] == nil {
			return false, nil
		}
		for _, ip := range ips {
			records = append(records, a(q.Name, ip))
		}
		return true, records
	case kind == "app" && len(labels) == 4:
		return z.host(k, at(3), q)
	}
	return false, nil
}

// host returns the address of one ordinal of an app, ready or not.
func (z *zone) host(app key, host string, q dns.Question) (exists bool, records []dns.RR) {
	for _, s := range z.headless[app] {
		for _, e := range s.Spec.Addresses {
			ip, err := netip.ParseAddr(e.IP)
			if err == nil && e.Host == host {
				records = append(records, a(q.Name, ip))
			}
		}
	}
	return len(records) > 0, records
}

// hasApp reports whether the namespace has an app with a name.
func (z *zone) hasApp(namespace string) bool {
	for k := range z.headless {
		if k.namespace == namespace {
			return true
		}
	}
	return z.names[namespace] > 0 // a service leads to one
}

// service returns the records of a service, or of one of its ports: below
// holds the labels in front of the service's name, the nearest first.
func (z *zone) service(svc *api.Service, below []string, q dns.Question) (exists bool, records []dns.RR) {
	ip, err := netip.ParseAddr(svc.Effective.IP)
	if len(below) == 0 {
		if err == nil {
			records = append(records, a(q.Name, ip))
		}
		for _, name := range slices.Sorted(maps.Keys(svc.Effective.Ports)) {
			records = append(records, srv(q.Name, svc, svc.Effective.Ports[name].Port))
		}
		return true, records
	}
	for name, p := range svc.Effective.Ports {
		if below[0] != "_"+p.Protocol || len(below) == 2 && below[1] != "_"+name {
			continue
		}
		exists = true
		if len(below) == 2 {
			records = append(records, srv(q.Name, svc, p.Port))
		}
	}
	return exists, records
}

// ready returns the addresses of an app's pods that take connections, in a new
// order each time.
func (z *zone) ready(app key) []netip.Addr {
	ips := map[netip.Addr]bool{}
	add := func(slices map[string]*api.Endpoints) {
		for _, s := range slices {
			for _, e := range s.Spec.Addresses {
				if ip, err := netip.ParseAddr(e.IP); err == nil && !e.Draining {
					ips[ip] = true
				}
			}
		}
	}
	add(z.headless[app])
	for svc := range z.apps[app] {
		add(z.endpoints[key{app.namespace, svc}])
	}
	out := slices.SortedFunc(maps.Keys(ips), netip.Addr.Compare)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// reverse answers what the name of a virtual IP is.
func (z *zone) reverse(name string, q dns.Question, reply *dns.Msg) bool {
	labels := strings.Split(strings.TrimSuffix(name, ".in-addr.arpa."), ".")
	slices.Reverse(labels)
	ip, err := netip.ParseAddr(strings.Join(labels, "."))
	if err != nil {
		return false
	}
	k, ok := z.vips[ip]
	if !ok {
		return false
	}
	reply.Authoritative = true
	if q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
		reply.Answer = []dns.RR{&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: api.ServiceDNSName(k.namespace, k.name) + "."}}
	}
	return true
}

func header(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

func a(name string, ip netip.Addr) dns.RR {
	return &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}
}

func srv(name string, svc *api.Service, port int) dns.RR {
	return &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: uint16(port), Target: api.ServiceDNSName(svc.Meta.Namespace, svc.Meta.Name) + "."}
}

func soa() dns.RR {
	return &dns.SOA{Hdr: header(Domain, dns.TypeSOA), Ns: "ns." + Domain, Mbox: "hostmaster." + Domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}
