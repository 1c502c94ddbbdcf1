package api

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Container is one process tree of a pod and what it may use.
type Container struct {
	Image   string            `json:"image,omitempty" required:"true" doc:"Image reference, such as nginx:1.27."`
	Command []string          `json:"command,omitempty" doc:"Replaces the image's entrypoint."`
	Args    []string          `json:"args,omitempty" doc:"Replaces the image's arguments."`
	Env     map[string]string `json:"env,omitempty" doc:"Environment variables."`
	CPU     CPU               `json:"cpu,omitempty" doc:"CPU reserved for the container, such as 100m or 2. Also its share when the node is busy." default:"100m"`
	Memory  Memory            `json:"memory,omitempty" doc:"Memory reserved for the container, and its limit unless limits says more, such as 64Mi." default:"128Mi"`
	Limits  *Limits           `json:"limits,omitempty" doc:"The most the container may use."`
	Ports   map[string]Port   `json:"ports,omitempty" doc:"Named ports the container listens on, such as http = 80."`
	Health  *Health           `json:"health,omitempty" doc:"How to tell that the container serves."`

	Secrets  map[string]string `json:"secrets,omitempty" doc:"Environment variables from secrets, such as DATABASE_URL = \"db/url\": the name of a secret, and one of its keys."`
	Configs  map[string]string `json:"configs,omitempty" doc:"Environment variables from configs, such as LOG_LEVEL = \"web/log_level\": the name of a config, and one of its keys."`
	Files    map[string]File   `json:"files,omitempty" doc:"Files the container finds, by absolute path."`
	Mounts   map[string]Mount  `json:"mounts,omitempty" doc:"Storage the container finds, by absolute path of a directory."`
	Security *Security         `json:"security,omitempty" doc:"What the container may do on its node."`
}

// Limits are the most a container may use.
type Limits struct {
	CPU    CPU    `json:"cpu,omitempty" doc:"Processor time it is held to, such as 2; without one it may use what nobody else needs."`
	Memory Memory `json:"memory,omitempty" doc:"Memory at which it is killed; by default what it reserves."`
	PIDs   *int   `json:"pids,omitempty" doc:"Processes and threads." default:"4096"`
}

// DefaultPIDs is how many processes a container may have.
const DefaultPIDs = 4096

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
	errs.Add("command", checkWords(c.Command))
	errs.Add("args", checkWords(c.Args))
	for _, k := range sortedKeys(c.Env) {
		if !envRE.MatchString(k) {
			errs.Addf(join("env", keyPath(k)), "not a variable name: want letters, digits and _, not starting with a digit")
		}
		errs.Add(join("env", keyPath(k)), checkText(c.Env[k]))
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
	if c.Limits != nil {
		errs.Add("limits", c.Limits.validate(c))
	}
	if c.Health != nil {
		errs.Add("health", c.Health.validate(c.Ports))
	}
	errs.Add("", validateContent(c.Env, c.Secrets, c.Configs, c.Files, c.Mounts))
	if c.Security != nil {
		errs.Add("security", c.Security.validate())
	}
	return errs.Err()
}

// checkText refuses what no process can be given.
func checkText(s string) error {
	if strings.ContainsRune(s, 0) {
		return errors.New("has a NUL byte, which no process can be given: leave it out, or pass it in a file")
	}
	return nil
}

func checkWords(words []string) error {
	var errs Errors
	for i, w := range words {
		errs.Add(index("", i), checkText(w))
	}
	return errs.Err()
}

func (l Limits) validate(c Container) error {
	var errs Errors
	if l.CPU != "" {
		if n, err := ParseCPU(string(l.CPU)); err != nil {
			errs.Add("cpu", err)
		} else if n < cmp.Or(c.CPU, DefaultCPU).Milli() {
			errs.Addf("cpu", "%s is less than the %s that cpu reserves", l.CPU, cmp.Or(c.CPU, DefaultCPU))
		}
	}
	if l.Memory != "" {
		if n, err := ParseMemory(string(l.Memory)); err != nil {
			errs.Add("memory", err)
		} else if n < cmp.Or(c.Memory, DefaultMemory).Bytes() {
			errs.Addf("memory", "%s is less than the %s that memory reserves", l.Memory, cmp.Or(c.Memory, DefaultMemory))
		}
	}
	if l.PIDs != nil && (*l.PIDs < 1 || *l.PIDs > 1<<22) {
		errs.Addf("pids", "%d is out of range: want 1 to %d", *l.PIDs, 1<<22)
	}
	return errs.Err()
}

func (c Container) withDefaults() Container {
	c.CPU, c.Memory = cmp.Or(c.CPU, DefaultCPU), cmp.Or(c.Memory, DefaultMemory)
	l := Deref(c.Limits)
	l.Memory, l.PIDs = cmp.Or(l.Memory, c.Memory), or(l.PIDs, DefaultPIDs)
	c.Limits = &l
	if c.Health != nil {
		c.Health = c.Health.withDefaults()
	}
	c.Files = defaultFiles(c.Files)
	sec := Deref(c.Security).withDefaults()
	c.Security = &sec
	return c
}

var (
	envRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	imageRE = regexp.MustCompile(`^([a-zA-Z0-9.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

// maxImage is how long an image reference may be.
const maxImage = 512

func checkImage(ref string) error {
	switch {
	case ref == "":
		return fmt.Errorf("required")
	case len(ref) > maxImage || !imageRE.MatchString(ref):
		return fmt.Errorf("%q is not an image reference: want [registry/]name[:tag][@sha256:digest]", ref)
	}
	return nil
}
