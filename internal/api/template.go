package api

import (
	"fmt"
	"slices"
)

// When a node fetches an image.
const (
	PullIfAbsent = "if_absent"
	PullAlways   = "always"
	PullNever    = "never"
)

// PodTemplate is what a pod runs, with every default filled in.
type PodTemplate struct {
	Container
	Init        map[string]Init      `json:"init,omitempty" doc:"Containers that run to their end before the others start, one after another in the order of their names."`
	Sidecars    map[string]Container `json:"sidecars,omitempty" doc:"Containers that start and are ready before the main one, share its network and storage, and end after it."`
	Placement   *Placement           `json:"placement,omitempty" doc:"Where pods may and should run."`
	Restart     *Restart             `json:"restart,omitempty" doc:"What happens to a container that ended; the main one of a job is never restarted."`
	Stop        *Stop                `json:"stop,omitempty" doc:"How containers are asked to end."`
	HostNetwork *bool                `json:"host_network,omitempty" doc:"Pods have the network of their node; the namespace must allow it. Default: false."`
	Pull        string               `json:"pull,omitempty" doc:"When a node fetches an image: if_absent, always before a container starts, or never." enum:"if_absent,always,never" default:"if_absent"`
	PullAuth    string               `json:"pull_auth,omitempty" doc:"Name of a secret with username and password for the images' registry."`
}

// Init is a container that runs to its end before a pod's others start.
type Init struct {
	Image    string            `json:"image,omitempty" doc:"Image reference; by default the main container's."`
	Command  []string          `json:"command,omitempty" doc:"Replaces the image's entrypoint."`
	Args     []string          `json:"args,omitempty" doc:"Replaces the image's arguments."`
	Env      map[string]string `json:"env,omitempty" doc:"Environment variables."`
	CPU      CPU               `json:"cpu,omitempty" doc:"CPU reserved for it; the pod reserves the most that any of its steps needs." default:"100m"`
	Memory   Memory            `json:"memory,omitempty" doc:"Memory reserved for it, and its limit." default:"128Mi"`
	Limits   *Limits           `json:"limits,omitempty" doc:"The most it may use."`
	Secrets  map[string]string `json:"secrets,omitempty" doc:"Environment variables from secrets: name/key."`
	Configs  map[string]string `json:"configs,omitempty" doc:"Environment variables from configs: name/key."`
	Files    map[string]File   `json:"files,omitempty" doc:"Files it finds, by absolute path."`
	Mounts   map[string]Mount  `json:"mounts,omitempty" doc:"Storage it finds, by absolute path of a directory."`
	Security *Security         `json:"security,omitempty" doc:"What it may do on its node."`
}

// Container is the init container as any other.
func (i Init) Container() Container {
	return Container{
		Image: i.Image, Command: i.Command, Args: i.Args, Env: i.Env, CPU: i.CPU, Memory: i.Memory, Limits: i.Limits,
		Secrets: i.Secrets, Configs: i.Configs, Files: i.Files, Mounts: i.Mounts, Security: i.Security,
	}
}

func (i Init) withDefaults(image string) Init {
	if i.Image == "" {
		i.Image = image
	}
	c := i.Container().withDefaults()
	i.CPU, i.Memory, i.Limits, i.Files, i.Security = c.CPU, c.Memory, c.Limits, c.Files, c.Security
	return i
}

// validateParts checks what a template has beside its main container.
func (t PodTemplate) validateParts() error {
	var errs Errors
	seen := map[Port]string{}
	for _, name := range sortedKeys(t.Ports) {
		seen[t.Ports[name]] = "ports." + name
	}
	for _, name := range sortedKeys(t.Init) {
		at, c := "init."+keyPath(name), t.Init[name].Container()
		errs.Add(at, CheckName(name))
		if c.Image == "" {
			c.Image = t.Image
		}
		if _, dup := t.Sidecars[name]; dup || name == MainContainer {
			errs.Addf(at, "another container of the pod is called %s: choose another name", name)
		}
		errs.Add(at, c.validate())
	}
	for _, name := range sortedKeys(t.Sidecars) {
		at := "sidecars." + keyPath(name)
		errs.Add(at, CheckName(name))
		if name == MainContainer {
			errs.Addf(at, "%q is the main container's own name: choose another", name)
		}
		c := t.Sidecars[name]
		errs.Add(at, c.validate())
		for _, port := range sortedKeys(c.Ports) {
			if other, dup := seen[c.Ports[port]]; dup {
				errs.Addf(join(at+".ports", keyPath(port)), "port %s is taken by %s: containers of a pod share one network", c.Ports[port], other)
			}
			seen[c.Ports[port]] = at + ".ports." + port
		}
	}
	errs.Add("", t.validateNodePorts())
	errs.Add("", t.validateScratch())
	if t.Placement != nil {
		errs.Add("placement", t.Placement.validate())
	}
	if t.Restart != nil {
		errs.Add("restart", t.Restart.validate())
	}
	if t.Stop != nil {
		errs.Add("stop", t.Stop.validate())
	}
	switch t.Pull {
	case "", PullIfAbsent, PullAlways, PullNever:
	default:
		errs.Addf("pull", "%q is unknown: want if_absent, always or never", t.Pull)
	}
	if t.PullAuth != "" {
		errs.Add("pull_auth", CheckName(t.PullAuth))
	}
	return errs.Err()
}

// withDefaults fills in every unset field.
func (t PodTemplate) withDefaults() PodTemplate {
	t.Container = t.Container.withDefaults()
	for name, c := range t.Init {
		t.Init[name] = c.withDefaults(t.Image)
	}
	for name, c := range t.Sidecars {
		t.Sidecars[name] = c.withDefaults()
	}
	t.Placement, t.Restart, t.Stop = t.Placement.withDefaults(), t.Restart.withDefaults(), t.Stop.withDefaults()
	if t.Pull == "" {
		t.Pull = PullIfAbsent
	}
	return t
}

// Containers returns the containers that run side by side, by name; the main
// one is "main".
func (t PodTemplate) Containers() map[string]Container {
	all := map[string]Container{MainContainer: t.Container}
	for name, c := range t.Sidecars {
		all[name] = c
	}
	return all
}

// All returns every container by name: those that run side by side, and the
// init ones before them.
func (t PodTemplate) All() map[string]Container {
	all := t.Containers()
	for name, c := range t.Init {
		all[name] = c.Container()
	}
	return all
}

// validateNodePorts keeps pods that share their node's network off the ports
// that services answer on, on every node.
func (t PodTemplate) validateNodePorts() error {
	if !Deref(t.HostNetwork) {
		return nil
	}
	var errs Errors
	check := func(at string, ports map[string]Port) {
		for _, name := range sortedKeys(ports) {
			if n, _, err := ports[name].Parse(); err == nil && n >= MinNodePort && n <= MaxNodePort {
				errs.Addf(join(at, keyPath(name)), "ports %d to %d of a node are its services': with host_network, choose another", MinNodePort, MaxNodePort)
			}
		}
	}
	check("ports", t.Ports)
	for _, name := range sortedKeys(t.Sidecars) {
		check("sidecars."+keyPath(name)+".ports", t.Sidecars[name].Ports)
	}
	return errs.Err()
}

// NodePorts are the ports that a pod takes of its node's own, in order: those
// of its containers, when it shares the node's network.
func (t PodTemplate) NodePorts() (ports []Port) {
	if !Deref(t.HostNetwork) {
		return nil
	}
	for _, c := range t.Containers() {
		for _, p := range c.Ports {
			if n, protocol, err := p.Parse(); err == nil {
				ports = append(ports, Port(fmt.Sprintf("%d/%s", n, protocol)))
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Requests returns what the pod reserves: thousandths of a core, and bytes. Init
// containers run alone, so the largest of them counts if it is more than the
// others together.
func (t PodTemplate) Requests() (milliCPU, memory int64) {
	for _, c := range t.Containers() {
		milliCPU += c.CPU.Milli()
		memory += c.Memory.Bytes()
	}
	for _, c := range t.Init {
		milliCPU, memory = max(milliCPU, c.CPU.Milli()), max(memory, c.Memory.Bytes())
	}
	return milliCPU, memory
}
