package api

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Services give an app's ready pods one address.
var Services = &Kind[*Service]{
	Name: "Service", Plural: "services", Aliases: []string{"service", "svc"}, Scope: Namespaced,
	Doc: "A virtual IP, a DNS name and node ports in front of an app's ready pods.",
	Indexes: map[string]func(*Service) string{
		"app": func(s *Service) string { return s.Spec.App },
	},
	Columns: []Column[*Service]{
		{Name: "APP", Of: func(s *Service) string { return s.Spec.App }},
		{Name: "IP", Of: func(s *Service) string { return dash(s.Effective.IP) }},
		{Name: "PORTS", Of: func(s *Service) string { return s.Effective.portsColumn() }},
		{Name: "ENDPOINTS", Of: func(s *Service) string { return fmt.Sprint(s.Status.Endpoints) }},
		{Name: "DNS", Wide: true, Of: func(s *Service) string { return ServiceDNSName(s.Meta.Namespace, s.Meta.Name) }},
		{Name: "AGE", Of: func(s *Service) string { return Age(s.Meta.CreatedAt) }},
	},
}

// Service is a stable address in front of an app's ready pods.
type Service = Object[ServiceSpec, ServiceStatus]

// ServiceSpec is what a team wants to reach.
type ServiceSpec struct {
	App      string                 `json:"app" doc:"The app, in the same namespace, whose ready pods answer."`
	Ports    map[string]ServicePort `json:"ports" doc:"Named ports of the virtual IP."`
	Affinity string                 `json:"affinity,omitempty" doc:"client_ip: a client's connections go to the same pod while it lives." enum:"none,client_ip" default:"none"`
	IP       string                 `json:"ip,omitempty" doc:"Virtual IP; by default a free one of the cluster's service range."`
}

// ServicePort is one port of a service.
type ServicePort struct {
	Port     int    `json:"port" doc:"Port of the virtual IP."`
	Target   string `json:"target,omitempty" doc:"The app's port, by name or number; by default the port of the same name, else the same number."`
	NodePort *int   `json:"node_port,omitempty" doc:"Also answer on this port of every node: 30000 to 32767."`
	Protocol string `json:"protocol,omitempty" doc:"tcp or udp." enum:"tcp,udp" default:"tcp"`
}

// Node ports a service may ask for.
const (
	MinNodePort = 30000
	MaxNodePort = 32767
)

// Validate reports every violation.
func (s ServiceSpec) Validate() error {
	var errs Errors
	errs.Add("app", CheckName(s.App))
	if len(s.Ports) == 0 {
		errs.Addf("ports", "at least one port is required, such as http = { port = 80 }")
	}
	seen := map[string]string{}
	for _, name := range sortedKeys(s.Ports) {
		p, at := s.Ports[name], join("ports", keyPath(name))
		errs.Add(at, CheckName(name))
		if p.Port < 1 || p.Port > 65535 {
			errs.Addf(at+".port", "%d is out of range: want 1 to 65535", p.Port)
		}
		if p.Protocol != "" && p.Protocol != "tcp" && p.Protocol != "udp" {
			errs.Addf(at+".protocol", "%q is unknown: want tcp or udp", p.Protocol)
		}
		proto := cmp.Or(p.Protocol, "tcp")
		if n := p.NodePort; n != nil {
			if *n < MinNodePort || *n > MaxNodePort {
				errs.Addf(at+".node_port", "%d is out of range: want %d to %d", *n, MinNodePort, MaxNodePort)
			}
			key := fmt.Sprintf("node port %d/%s", *n, proto)
			if other, dup := seen[key]; dup {
				errs.Addf(at+".node_port", "%s is used by port %s too", key, other)
			}
			seen[key] = name
		}
		key := fmt.Sprintf("port %d/%s", p.Port, proto)
		if other, dup := seen[key]; dup {
			errs.Addf(at+".port", "%s is used by port %s too", key, other)
		}
		seen[key] = name
		if p.Target != "" && CheckName(p.Target) != nil {
			if _, _, err := Port(p.Target).Parse(); err != nil {
				errs.Addf(at+".target", "%q is neither a port name nor a number", p.Target)
			}
		}
	}
	if s.Affinity != "" && s.Affinity != "none" && s.Affinity != "client_ip" {
		errs.Addf("affinity", "%q is unknown: want none or client_ip", s.Affinity)
	}
	if s.IP != "" {
		if a, err := netip.ParseAddr(s.IP); err != nil || !a.Is4() {
			errs.Addf("ip", "%q is not an IPv4 address", s.IP)
		}
	}
	return errs.Err()
}

// WithDefaults fills in every unset field but the IP, which the server allocates.
func (s ServiceSpec) WithDefaults() ServiceSpec {
	s.Affinity = cmp.Or(s.Affinity, "none")
	for name, p := range s.Ports {
		p.Protocol = cmp.Or(p.Protocol, "tcp")
		s.Ports[name] = p
	}
	return s
}

func (s ServiceSpec) portsColumn() string {
	var out []string
	for _, name := range sortedKeys(s.Ports) {
		p := s.Ports[name]
		text := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort != nil {
			text = fmt.Sprintf("%d:%d/%s", p.Port, *p.NodePort, p.Protocol)
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

// TargetPort returns the pod's port number behind the service port called name.
func (s ServiceSpec) TargetPort(name string, ports map[string]Port) (int, error) {
	p := s.Ports[name]
	if p.Target != "" {
		return ResolvePort(p.Target, ports)
	}
	if q, ok := ports[name]; ok {
		return q.Number(), nil
	}
	return p.Port, nil
}

// ServiceStatus is written by the service loop.
type ServiceStatus struct {
	Endpoints int    `json:"endpoints" doc:"Ready pods behind the service."`
	Message   string `json:"message,omitempty" doc:"Why there are none."`
}

// ClusterDomain is the root of the cluster's DNS names.
const ClusterDomain = "cluster.local"

// ServiceDNSName returns the name a pod reaches the service by.
func ServiceDNSName(namespace, name string) string {
	return name + "." + namespace + ".svc." + ClusterDomain
}

// EndpointSlices say who answers for a service.
var EndpointSlices = &Kind[*Endpoints]{
	Name: "Endpoints", Plural: "endpoints", Aliases: []string{"endpoint", "ep"}, Scope: Namespaced, Derived: true,
	Doc: "The addresses behind a service, computed by the service loop, in slices of at most 100.",
	Indexes: map[string]func(*Endpoints) string{
		"service": func(e *Endpoints) string { return e.Spec.Service },
		"app":     func(e *Endpoints) string { return e.Spec.App },
	},
	Columns: []Column[*Endpoints]{
		{Name: "SERVICE", Of: func(e *Endpoints) string { return dash(e.Spec.Service) }},
		{Name: "APP", Wide: true, Of: func(e *Endpoints) string { return dash(e.Spec.App) }},
		{Name: "ADDRESSES", Of: func(e *Endpoints) string { return e.Spec.addressesColumn() }},
		{Name: "AGE", Of: func(e *Endpoints) string { return Age(e.Meta.CreatedAt) }},
	},
}

// MaxEndpoints is the most addresses one slice holds.
const MaxEndpoints = 100

// Endpoints is one slice of the addresses behind a service. Slice n of
// service web is called web-n.
type Endpoints = Object[EndpointsSpec, EndpointsStatus]

// EndpointsSpec is written by the service loop.
type EndpointsSpec struct {
	Service   string     `json:"service,omitempty" doc:"The service, in the same namespace."`
	App       string     `json:"app,omitempty" doc:"Instead of a service: the app whose own name, without a virtual IP, they are for."`
	Addresses []Endpoint `json:"addresses,omitempty"`
}

// Endpoint is one pod behind a service.
type Endpoint struct {
	Pod      string         `json:"pod"`
	UID      string         `json:"uid" doc:"UID of the pod."`
	Node     string         `json:"node"`
	IP       string         `json:"ip"`
	Ports    map[string]int `json:"ports" doc:"Pod port number by service port name."`
	Draining bool           `json:"draining,omitempty" doc:"Gets no new connections; open ones go on."`
	Host     string         `json:"host,omitempty" doc:"Name of its own below that of the app: that of its ordinal, which leads to it before it is ready too."`
}

// EndpointsStatus is empty: endpoints are all spec.
type EndpointsStatus struct{}

// Validate reports every violation.
func (s EndpointsSpec) Validate() error {
	var errs Errors
	if s.App == "" {
		errs.Add("service", CheckName(s.Service))
	} else {
		errs.Add("app", CheckName(s.App))
	}
	if s.App != "" && s.Service != "" {
		errs.Addf("app", "these are the endpoints of service %s: leave one of the two out", s.Service)
	}
	if len(s.Addresses) > MaxEndpoints {
		errs.Addf("addresses", "%d are too many for one slice: at most %d", len(s.Addresses), MaxEndpoints)
	}
	for i, a := range s.Addresses {
		if ip, err := netip.ParseAddr(a.IP); err != nil || !ip.Is4() {
			errs.Addf(fmt.Sprintf("addresses[%d].ip", i), "%q is not an IPv4 address", a.IP)
		}
	}
	return errs.Err()
}

// WithDefaults returns s: endpoints are derived.
func (s EndpointsSpec) WithDefaults() EndpointsSpec { return s }

func (s EndpointsSpec) addressesColumn() string {
	var out []string
	for _, a := range s.Addresses {
		text := a.IP
		if a.Draining {
			text += " (draining)"
		}
		out = append(out, text)
	}
	return dash(strings.Join(out, ","))
}
