package api

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Health says how to tell that a container serves. Its own check is readiness
// at once, and a restart after three times the threshold; start, ready and live
// ask something else for one of the three.
type Health struct {
	HTTP        string   `json:"http,omitempty" doc:"Path to GET; any status from 200 to 399 is healthy."`
	TCP         *bool    `json:"tcp,omitempty" doc:"True: a connection that opens is healthy."`
	Exec        []string `json:"exec,omitempty" doc:"Command to run in the container; exit code 0 is healthy."`
	GRPC        *string  `json:"grpc,omitempty" doc:"Service to ask for by the gRPC health protocol; the empty name is the whole server."`
	Port        string   `json:"port,omitempty" doc:"Port name or number to check; by default the only port, or the one named http."`
	Interval    Duration `json:"interval,omitempty" doc:"Time between checks." default:"2s"`
	Timeout     Duration `json:"timeout,omitempty" doc:"A check that takes longer has failed." default:"1s"`
	GracePeriod Duration `json:"grace_period,omitempty" doc:"After a start, failing checks do not lead to a restart for this long." default:"10s"`
	Threshold   *int     `json:"threshold,omitempty" doc:"Failures in a row until not ready; three times as many restart the container." default:"3"`
	Start       *Check   `json:"start,omitempty" doc:"Must pass once before the others are asked; its last failure in a row restarts the container."`
	Ready       *Check   `json:"ready,omitempty" doc:"Decides alone whether the container gets requests."`
	Live        *Check   `json:"live,omitempty" doc:"Decides alone whether the container is restarted."`
}

// Check is one way to ask a container how it is.
type Check struct {
	HTTP      string   `json:"http,omitempty" doc:"Path to GET; any status from 200 to 399 passes."`
	TCP       *bool    `json:"tcp,omitempty" doc:"True: a connection that opens passes."`
	Exec      []string `json:"exec,omitempty" doc:"Command to run in the container; exit code 0 passes."`
	GRPC      *string  `json:"grpc,omitempty" doc:"Service to ask for by the gRPC health protocol; the empty name is the whole server."`
	Port      string   `json:"port,omitempty" doc:"Port name or number; by default that of the health check around it."`
	Interval  Duration `json:"interval,omitempty" doc:"Time between checks; by default that of the health check around it."`
	Timeout   Duration `json:"timeout,omitempty" doc:"A check that takes longer has failed; by default that of the health check around it."`
	Threshold *int     `json:"threshold,omitempty" doc:"Failures in a row that count; by default 3, for start 30."`
}

// check is the health's own check.
func (h Health) check() Check {
	return Check{HTTP: h.HTTP, TCP: h.TCP, Exec: h.Exec, GRPC: h.GRPC, Port: h.Port, Interval: h.Interval, Timeout: h.Timeout, Threshold: h.Threshold}
}

// asks reports whether the check says how to ask.
func (c Check) asks() bool {
	return c.HTTP != "" || Deref(c.TCP) || len(c.Exec) > 0 || c.GRPC != nil
}

func (h Health) validate(ports map[string]Port) error {
	var errs Errors
	own := h.check()
	if own.asks() || h.Ready == nil && h.Live == nil && h.Start == nil {
		errs.Add("", own.validate(ports))
	}
	errs.Add("grace_period", h.GracePeriod.check(0, 24*time.Hour))
	for name, c := range map[string]*Check{"start": h.Start, "ready": h.Ready, "live": h.Live} {
		if c != nil {
			in := *c
			in.Port = cmp.Or(in.Port, h.Port)
			errs.Add(name, in.validate(ports))
		}
	}
	slices.SortStableFunc(errs, func(a, b FieldError) int { return strings.Compare(a.Path, b.Path) })
	return errs.Err()
}

func (c Check) validate(ports map[string]Port) error {
	var errs Errors
	errs.Add("exec", checkWords(c.Exec))
	ways := 0
	for _, set := range []bool{c.HTTP != "", Deref(c.TCP), len(c.Exec) > 0, c.GRPC != nil} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		errs.Addf("http", "set one of http, tcp, exec and grpc, not several")
	case ways == 0:
		errs.Addf("http", "one check is required: http = \"/path\", tcp = true, exec = [\"command\"] or grpc = \"\"")
	case c.HTTP != "" && !strings.HasPrefix(c.HTTP, "/"):
		errs.Addf("http", "%q is not a path: it must start with /", c.HTTP)
	case len(c.Exec) > 0 && c.Exec[0] == "":
		errs.Addf("exec", "the first word is the program to run: it must not be empty")
	}
	if len(c.Exec) == 0 {
		if _, err := c.PortOf(ports); err != nil {
			errs.Add("port", err)
		}
	}
	errs.Add("interval", c.Interval.check(100*time.Millisecond, time.Hour))
	errs.Add("timeout", c.Timeout.check(10*time.Millisecond, time.Hour))
	if c.Threshold != nil && *c.Threshold < 1 {
		errs.Addf("threshold", "must be at least 1")
	}
	return errs.Err()
}

func (h Health) withDefaults() *Health {
	h.Interval = cmp.Or(h.Interval, "2s")
	h.Timeout = cmp.Or(h.Timeout, "1s")
	h.GracePeriod = cmp.Or(h.GracePeriod, "10s")
	h.Threshold = or(h.Threshold, 3)
	h.Start, h.Ready, h.Live = h.Start.withDefaults(h, 30), h.Ready.withDefaults(h, 3), h.Live.withDefaults(h, 3)
	return &h
}

func (c *Check) withDefaults(around Health, threshold int) *Check {
	if c == nil {
		return nil
	}
	in := *c
	in.Port = cmp.Or(in.Port, around.Port)
	in.Interval, in.Timeout = cmp.Or(in.Interval, around.Interval), cmp.Or(in.Timeout, around.Timeout)
	in.Threshold = or(in.Threshold, threshold)
	return &in
}

// Readiness returns the check that decides whether the container gets requests:
// nil when nothing but a running process is asked for. Call it on an effective health.
func (h *Health) Readiness() *Check {
	if h == nil {
		return nil
	}
	if own := h.check(); h.Ready == nil && own.asks() {
		return &own
	}
	return h.Ready
}

// Liveness returns the check whose threshold of failures restarts the container,
// or nil. Call it on an effective health.
func (h *Health) Liveness() *Check {
	if h == nil {
		return nil
	}
	if own := h.check(); h.Live == nil && own.asks() {
		own.Threshold = or(nil, 3*Deref(own.Threshold))
		return &own
	}
	return h.Live
}

// PortOf returns the number of the port to check.
func (c Check) PortOf(ports map[string]Port) (int, error) {
	if c.Port == "" {
		if len(ports) == 1 {
			for _, p := range ports {
				return p.Number(), nil
			}
		}
		if p, ok := ports["http"]; ok {
			return p.Number(), nil
		}
		if len(ports) == 0 {
			return 0, errors.New("required: the container declares no ports, so say which to check")
		}
		return 0, fmt.Errorf("required: the container has %d ports and none is named http", len(ports))
	}
	return ResolvePort(c.Port, ports)
}

// PortOf returns the number of the port of the health's own check.
func (h Health) PortOf(ports map[string]Port) (int, error) { return h.check().PortOf(ports) }

// ResolvePort returns the number of a port given by name or number.
func ResolvePort(port string, ports map[string]Port) (int, error) {
	if p, ok := ports[port]; ok {
		return p.Number(), nil
	}
	if n, proto, err := Port(port).Parse(); err == nil && proto == "tcp" {
		return n, nil
	}
	if len(ports) == 0 {
		return 0, fmt.Errorf("no port %q: the container declares no ports", port)
	}
	return 0, fmt.Errorf("no port %q: want a number or one of %s", port, strings.Join(sortedKeys(ports), ", "))
}
