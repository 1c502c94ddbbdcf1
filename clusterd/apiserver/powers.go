package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// checkPowers refuses what a pod asks for beyond the usual, unless its
// namespace gives it. The namespace is read in the write's own transaction: a
// power that was taken away before cannot be used.
func (t *txn) checkPowers(ref api.Ref, pod api.PodTemplate) error {
	has, err := t.powers(ref.Namespace)
	if err != nil {
		return err
	}
	c := claims{namespace: ref.Namespace, powers: has}
	if api.Deref(pod.HostNetwork) {
		c.want("host_network", api.Deref(has.HostNetwork), "host_network = true")
	}
	c.container("", pod.Security)
	for _, name := range slices.Sorted(maps.Keys(pod.Init)) {
		c.container("init."+name+".", pod.Init[name].Security)
	}
	for _, name := range slices.Sorted(maps.Keys(pod.Sidecars)) {
		c.container("sidecars."+name+".", pod.Sidecars[name].Security)
	}
	pod.EachMount(func(field, target string, m api.Mount) {
		if m.Host != "" {
			if field != "" {
				field += "."
			}
			c.want(fmt.Sprintf("%smounts[%q].host", field, target), within(m.Host, has.HostPaths), fmt.Sprintf("host_paths = [%q]", m.Host))
		}
	})
	return c.err(ref)
}

// checkNodePorts refuses node ports where the namespace takes them away.
func (t *txn) checkNodePorts(s *api.Service) error {
	has, err := t.powers(s.Meta.Namespace)
	if err != nil {
		return err
	}
	c := claims{namespace: s.Meta.Namespace, powers: has}
	for _, name := range slices.Sorted(maps.Keys(s.Spec.Ports)) {
		if s.Spec.Ports[name].NodePort != nil {
			c.want("ports."+name+".node_port", has.NodePorts == nil || *has.NodePorts, "node_ports = true")
		}
	}
	return c.err(s.Ref())
}

// powers reads what a namespace gives.
func (t *txn) powers(namespace string) (api.Powers, error) {
	o := t.read(t.s.kinds["namespaces"].key("", namespace))
	if o == nil || len(o.effective) == 0 {
		return api.Powers{}, nil // its absence is told elsewhere
	}
	var eff api.NamespaceSpec
	if err := json.Unmarshal(o.effective, &eff); err != nil {
		return api.Powers{}, fmt.Errorf("decode effective of %s: %w", o.ref(), err)
	}
	return api.Deref(eff.Powers), nil
}

// claims collects what is asked for and not given.
type claims struct {
	namespace string
	powers    api.Powers
	errs      api.Errors
}

// want adds an error at field unless it is given; power is what would give it.
func (c *claims) want(field string, given bool, power string) {
	if !given {
		c.errs.Addf("spec."+field, "namespace %s does not allow it: leave it out, or have powers = { %s } set for the namespace", c.namespace, power)
	}
}

func (c *claims) container(field string, s *api.Security) {
	if s == nil {
		return
	}
	field += "security."
	if api.Deref(s.Privileged) {
		c.want(field+"privileged", api.Deref(c.powers.Privileged), "privileged = true")
	}
	if s.Seccomp == "unconfined" {
		c.want(field+"seccomp", api.Deref(c.powers.Privileged), "privileged = true")
	}
	for i, name := range s.Add {
		name = strings.TrimPrefix(name, "CAP_")
		given := slices.Contains(api.DefaultCapabilities, name) ||
			slices.ContainsFunc(c.powers.Capabilities, func(p string) bool { return strings.TrimPrefix(p, "CAP_") == name })
		c.want(fmt.Sprintf("%sadd[%d]", field, i), given, fmt.Sprintf("capabilities = [%q]", name))
	}
	for i, d := range s.Devices {
		c.want(fmt.Sprintf("%sdevices[%d]", field, i), slices.Contains(c.powers.Devices, d), fmt.Sprintf("devices = [%q]", d))
	}
}

func (c *claims) err(ref api.Ref) error {
	if c.errs == nil {
		return nil
	}
	return invalid(ref, c.errs)
}

// within reports whether a path is one of dirs or in one, part by part. Both
// are clean; that no part is a symbolic link is for the node to see.
func within(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	})
}
