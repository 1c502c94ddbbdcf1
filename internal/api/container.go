package api

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Container is one process tree of a pod and what it may use.
type Container struct {
	Image   string            `json:"image,omitempty" required:"true" doc:"Image reference, such as nginx:1.27."`
	Command []string          `json:"command,omitempty" doc:"Replaces the image's entrypoint."`
	Args    []string          `json:"args,omitempty" doc:"Replaces the image's arguments."`
	Env     map[string]string `json:"env,omitempty" doc:"Environment variables."`
	CPU     CPU               `json:"cpu,omitempty" doc:"CPU reserved for the container, such as 100m or 2. Also its share when the node is busy." default:"100m"`
	Memory  Memory            `json:"memory,omitempty" doc:"Memory reserved for the container and its limit, such as 64Mi." default:"128Mi"`
	Ports   map[string]Port   `json:"ports,omitempty" doc:"Named ports the container listens on, such as http = 80."`
}

// Defaults of an unset field.
const (
	DefaultCPU    CPU    = "100m"
	DefaultMemory Memory = "128Mi"
)

func (c Container) validate() error {
	var errs Errors
	errs.Add("image", checkImage(c.Image))
	if len(c.Command) > 0 && c.Command[0] == "" {
		errs.Addf("command", "the first word is the program to run: it must not be empty")
	}
	for _, k := range sortedKeys(c.Env) {
		if !envRE.MatchString(k) {
			errs.Addf(join("env", keyPath(k)), "not a variable name: want letters, digits and _, not starting with a digit")
		}
	}
	if c.CPU != "" {
		if n, err := ParseCPU(string(c.CPU)); err != nil {
			errs.Add("cpu", err)
		} else if n < 1 {
			errs.Addf("cpu", "must be at least 1m")
		}
	}
	if c.Memory != "" {
		if n, err := ParseMemory(string(c.Memory)); err != nil {
			errs.Add("memory", err)
		} else if n < 4<<20 {
			errs.Addf("memory", "must be at least 4Mi: a container cannot start with less")
		}
	}
	for _, name := range sortedKeys(c.Ports) {
		errs.Add(join("ports", keyPath(name)), CheckName(name))
		_, _, err := c.Ports[name].Parse()
		errs.Add(join("ports", keyPath(name)), err)
	}
	return errs.Err()
}

func (c Container) withDefaults() Container {
	c.CPU, c.Memory = cmp.Or(c.CPU, DefaultCPU), cmp.Or(c.Memory, DefaultMemory)
	return c
}

var (
	envRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	imageRE = regexp.MustCompile(`^([a-zA-Z0-9.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

func checkImage(ref string) error {
	switch {
	case ref == "":
		return fmt.Errorf("required")
	case len(ref) > 512 || !imageRE.MatchString(ref):
		return fmt.Errorf("%q is not an image reference: want [registry/]name[:tag][@sha256:digest]", ref)
	}
	return nil
}

// Health says how to tell that the main container serves. It is readiness at
// once, and a restart after three times the threshold.
type Health struct {
	HTTP        string   `json:"http,omitempty" doc:"Path to GET; any status from 200 to 399 is healthy."`
	TCP         *bool    `json:"tcp,omitempty" doc:"True: a connection that opens is healthy."`
	Port        string   `json:"port,omitempty" doc:"Port name or number to check; by default the only port, or the one named http."`
	Interval    Duration `json:"interval,omitempty" doc:"Time between checks." default:"2s"`
	Timeout     Duration `json:"timeout,omitempty" doc:"A check that takes longer has failed." default:"1s"`
	GracePeriod Duration `json:"grace_period,omitempty" doc:"After a start, failing checks do not lead to a restart for this long." default:"10s"`
	Threshold   *int     `json:"threshold,omitempty" doc:"Failures in a row until not ready; three times as many restart the container." default:"3"`
}

func (h Health) validate(ports map[string]Port) error {
	var errs Errors
	switch tcp := Deref(h.TCP); {
	case h.HTTP != "" && tcp:
		errs.Addf("http", "set http or tcp, not both")
	case h.HTTP == "" && !tcp:
		errs.Addf("http", "one check is required: http = \"/path\" or tcp = true")
	case h.HTTP != "" && !strings.HasPrefix(h.HTTP, "/"):
		errs.Addf("http", "%q is not a path: it must start with /", h.HTTP)
	}
	if _, err := h.PortOf(ports); err != nil {
		errs.Add("port", err)
	}
	errs.Add("interval", h.Interval.check(100*time.Millisecond, time.Hour))
	errs.Add("timeout", h.Timeout.check(10*time.Millisecond, time.Hour))
	errs.Add("grace_period", h.GracePeriod.check(0, 24*time.Hour))
	if h.Threshold != nil && *h.Threshold < 1 {
		errs.Addf("threshold", "must be at least 1")
	}
	return errs.Err()
}

func (h Health) withDefaults() *Health {
	h.Interval = cmp.Or(h.Interval, "2s")
	h.Timeout = cmp.Or(h.Timeout, "1s")
	h.GracePeriod = cmp.Or(h.GracePeriod, "10s")
	h.Threshold = or(h.Threshold, 3)
	return &h
}

// PortOf returns the number of the port to check.
func (h Health) PortOf(ports map[string]Port) (int, error) {
	if h.Port == "" {
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
	return ResolvePort(h.Port, ports)
}

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

// Stop says how containers are asked to end.
type Stop struct {
	Signal      string   `json:"signal,omitempty" doc:"Signal that asks the process to end; by default the image's own, else SIGTERM."`
	GracePeriod Duration `json:"grace_period,omitempty" doc:"Time between the signal and SIGKILL." default:"10s"`
}

var signals = []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGWINCH"}

func (s Stop) validate() error {
	var errs Errors
	if s.Signal != "" && !slices.Contains(signals, s.Signal) {
		errs.Addf("signal", "%q is not a signal: want one of %s", s.Signal, strings.Join(signals, ", "))
	}
	errs.Add("grace_period", s.GracePeriod.check(0, time.Hour))
	return errs.Err()
}
