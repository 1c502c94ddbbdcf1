package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// bind sets spec.node of a pod that has none.
func (t *txn) bind(b api.Binding) error {
	k := t.s.kinds["pods"]
	ref := k.ref(b.Namespace, b.Pod)
	old := t.read(k.key(b.Namespace, b.Pod))
	switch {
	case old == nil:
		return t.s.missing(t.snap, ref)
	case b.UID != "" && b.UID != old.meta.UID:
		return conflict(api.Precondition, ref, "was deleted and created again since it was read")
	case nodeOf(old) == b.Node && b.Node != "":
		return nil
	case nodeOf(old) != "":
		return conflict(api.Conflict, ref, "is bound to node %s already, for life", nodeOf(old))
	case old.meta.Deleting():
		return conflict(api.Conflict, ref, "is being deleted")
	case phaseOf(old).Ended():
		return conflict(api.Conflict, ref, "has ended: %s", phaseOf(old))
	}
	o := old.with()
	var err error
	if o.spec, err = withNode(old.spec, b.Node); err != nil {
		return fmt.Errorf("decode spec of %s: %w", ref, err)
	}
	o.meta.Generation++
	t.sign(o)
	was, err := old.shared()
	if err != nil {
		return err
	}
	pod := *was.(*api.Pod)
	pod.Meta, pod.Spec.Node = o.meta, b.Node
	if err := t.checkPlacement(old, o, &pod); err != nil {
		return err
	}
	o.known = &pod
	t.put(o)
	return nil
}

// withNode returns a pod's spec with its node. One that says nothing of a node,
// as nearly all do, is extended as it is.
func withNode(spec json.RawMessage, node string) (json.RawMessage, error) {
	if end := len(spec) - 1; end > 1 && spec[end] == '}' && !bytes.Contains(spec, []byte(`"node"`)) {
		return slices.Concat(spec[:end], []byte(`,"node":`), marshal(node), []byte(`}`)), nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(spec, &all); err != nil {
		return nil, err
	}
	all["node"] = marshal(node)
	return marshal(all), nil
}

// checkPlacement guards a pod's node: it is set once, and only to a node that
// is not known to be gone, takes the pod, has room, and has the ports of its own
// that the pod wants. A pod that replaces one of a dead node would otherwise
// follow it, by a scheduler that has not heard of the death yet.
// Of two binds that each fit, but not both, one fails: see guardBind.
func (t *txn) checkPlacement(old, o *object, pod *api.Pod) error {
	was := nodeOf(old)
	if was == pod.Spec.Node {
		return nil
	}
	if was != "" {
		return invalid(o.ref(), api.Errors{{Path: "spec.node", Message: fmt.Sprintf("is %s for the pod's life", was)}})
	}
	name := pod.Spec.Node
	no := t.read(t.s.kinds["nodes"].key("", name))
	if no == nil {
		return conflict(api.Conflict, o.ref(), "node %s does not exist", name)
	}
	known, err := no.shared()
	if err != nil {
		return err
	}
	node := known.(*api.Node)
	if v := node.Status.Health.Verdict; v == api.VerdictDead || v == api.VerdictLeft {
		return conflict(api.Conflict, o.ref(), "the verdict on node %s is %s", name, v)
	}
	if why := node.Effective.Refuses(node.Meta.Labels, pod.Spec.Placement); why != "" {
		return conflict(api.Conflict, o.ref(), "node %s is %s", name, why)
	}
	if err := t.guardBind(name); err != nil {
		return err
	}
	takes := pod.Spec.NodePorts()
	if port, by := t.portTaken(name, takes); by != "" {
		return conflict(api.Conflict, o.ref(), "does not fit node %s: %s has port %s of the node (host_network)", name, by, port)
	}
	cpu, memory := pod.Spec.Requests()
	add := load{cpu, memory, 1}
	if why := lacks(node.Status.Allocatable, t.snap.loadOf(name).plus(t.bound[name]), add); why != "" {
		return conflict(api.Conflict, o.ref(), "does not fit node %s: %s", name, why)
	}
	if err := t.claimVolumes(o, pod); err != nil {
		return err
	}
	t.bound[name] = t.bound[name].plus(add)
	for _, port := range takes {
		t.ports[nodePort{name, port}] = o.ref().String()
	}
	return nil
}

// guardBind reads and writes one guard key, as everyone does who binds, so that
// no two binds commit that know nothing of each other. It is one for all nodes,
// since one scheduler binds nearly everything: one for each would make twice as
// many writes of it. Servers of a lower level look at the node's only.
func (t *txn) guardBind(node string) error {
	at, err := levelOf(t.snap)
	if err != nil {
		return err
	}
	guards := []string{bindGuard}
	if at.Level < oneGuardLevel {
		guards = append(guards, nodeGuard(node))
	}
	for _, guard := range guards {
		t.read(guard)
		t.set(guard, []byte(`{}`))
	}
	return nil
}

const (
	bindGuard     = guardPrefix + "binds"
	oneGuardLevel = 2 // of a cluster whose servers all know bindGuard
)

func nodeGuard(name string) string { return guardPrefix + "node/" + name }

// nodePort is a port of a node's own.
type nodePort struct {
	node string
	port api.Port
}

// portTaken returns one of a node's ports that another pod has, and the pod.
func (t *txn) portTaken(node string, ports []api.Port) (port api.Port, by string) {
	if len(ports) == 0 {
		return "", ""
	}
	for _, port := range ports {
		if by := t.ports[nodePort{node, port}]; by != "" {
			return port, by
		}
	}
	t.snap.eachWhere(t.s.kinds["pods"], "node", node, func(p *object) bool {
		if now, staged := t.staged[p.key]; staged && now == nil {
			return true
		}
		for _, has := range p.ports {
			if slices.Contains(ports, has) {
				port, by = has, p.ref().String()
			}
		}
		return by == ""
	})
	return port, by
}

// lacks says why add does not fit beside used, or "".
func lacks(has api.Resources, used, add load) string {
	switch cpu, memory := has.CPU.Milli(), has.Memory.Bytes(); {
	case cpu == 0 && memory == 0:
		return "it has not reported what it can run yet"
	case used.cpu+add.cpu > cpu:
		return fmt.Sprintf("needs %dm cpu and %dm are free", add.cpu, max(cpu-used.cpu, 0))
	case used.memory+add.memory > memory:
		return fmt.Sprintf("needs %d MiB memory and %d MiB are free", (add.memory+1<<20-1)>>20, max(memory-used.memory, 0)>>20)
	case has.Pods > 0 && used.pods+add.pods > has.Pods:
		return fmt.Sprintf("it runs %d pods and no more fit", used.pods)
	}
	return ""
}
