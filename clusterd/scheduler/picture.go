// Package scheduler gives every pod a node, once.
//
// It keeps a picture of the cluster as arrays, one entry per node and field: a
// decision looks at every node, exactly, and touches nothing but numbers. Pods
// that ask for the same thing share what does not depend on load. What pods
// want of each other is counted per domain. A decision is an assumption until
// the API has accepted the bind in a transaction that checks the node again.
//
// Invariants: a pod is bound only to a node that passes every filter; the
// picture counts a pod's request from the assumption to the pod's end; the
// same picture and pods lead to the same decisions; a pod that fits nowhere
// says why, in words that count nodes; only pods of a lower priority are asked
// to make room.
package scheduler

import (
	"maps"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// defaultPods is how many pods fit a node that does not say.
const defaultPods = 110

// picture is every node and what is taken from it. Index i of every array is
// node i. A node that goes leaves a hole, so that pods keep their index.
type picture struct {
	index map[string]int // of known names
	names []string
	// shut says why a node takes no pods whatever they ask for: "" is open.
	shut   []string
	labels []map[string]string
	taints []map[string]string

	capCPU, capMem   []int64 // thousandths of a core, bytes
	capPods          []int32
	freeCPU, freeMem []int64 // less than nothing on a node that shrank
	freePods         []int32
	perCPU, perMem   []float32 // 100 / cap: scores without divisions

	placed  map[string]placement // by pod UID
	apps    map[string]*spread   // by namespace/app, namespace/app@revision, and the name of a repulsion
	domains map[string]*domain   // by label key
	// repelled are the names of the repulsions that keep an app out, with whose
	// they are and where they reach.
	repelled map[string]map[string]relation
	// touched are the nodes of which something was taken or given back, one after
	// another, since epoch began.
	touched []int32
	epoch   int
	// hurt counts pods of a revision that failed on a node lately.
	hurt map[string]map[int]int
	// volumes by namespace/name; nil: they are not looked at.
	volumes map[string]*volume
}

// placement is what one pod takes, and where.
type placement struct {
	node int
	*request
	pod     *api.Pod // as it is known; nil in a plan about pods that are not yet
	evicted bool     // it was asked to leave, though the cache may not show it yet
}

// bound reports whether it is a pod that has its node, and not only one that
// was just decided about.
func (at placement) bound() bool { return at.pod != nil && at.pod.Spec.Node != "" }

// leaves reports whether a bound pod's room will be free soon.
func (at placement) leaves() bool { return at.evicted || at.pod.Meta.Deleting() }

// spread counts pods of one sort.
type spread struct {
	asks     *request // of a revision: what one of its pods asks for
	onNode   []int32
	inDomain map[string][]int32 // by label key, then domain
	total    int
}

// domain numbers the values of one label over the nodes; -1 has none.
type domain struct {
	of     []int32
	number map[string]int32
}

func newPicture() *picture {
	return &picture{index: map[string]int{}, placed: map[string]placement{}, apps: map[string]*spread{}, domains: map[string]*domain{},
		repelled: map[string]map[string]relation{}, hurt: map[string]map[int]int{}}
}

// at returns the index of a node. One that is named by a pod but not known
// yet is gone until it is set.
func (p *picture) at(name string) int {
	i, known := p.index[name]
	if !known {
		i = len(p.names)
		p.index[name] = i
		p.names, p.shut, p.labels, p.taints = append(p.names, name), append(p.shut, gone), append(p.labels, nil), append(p.taints, nil)
		p.capCPU, p.capMem, p.capPods = append(p.capCPU, 0), append(p.capMem, 0), append(p.capPods, 0)
		p.freeCPU, p.freeMem, p.freePods = append(p.freeCPU, 0), append(p.freeMem, 0), append(p.freePods, 0)
		p.perCPU, p.perMem = append(p.perCPU, 0), append(p.perMem, 0)
		for _, s := range p.apps {
			s.onNode = append(s.onNode, 0)
		}
		p.recount()
	}
	return i
}

// recount drops what depends on labels: it is counted anew when a pod asks.
func (p *picture) recount() {
	clear(p.domains)
	for _, s := range p.apps {
		clear(s.inDomain)
	}
}

// setNode adds or updates a node; it reports what pods that fitted nowhere
// may have been waiting for.
func (p *picture) setNode(n *api.Node) (better needs) {
	i := p.at(n.Meta.Name)
	cpu, mem, pods := n.Status.Allocatable.CPU.Milli(), n.Status.Allocatable.Memory.Bytes(), int32(n.Status.Allocatable.Pods)
	if pods == 0 {
		pods = defaultPods
	}
	shut := shutWhy(n)
	if cpu > p.capCPU[i] || mem > p.capMem[i] || pods > p.capPods[i] {
		better |= needRoom
	}
	if shut == "" && p.shut[i] != "" {
		better |= needAny
	}
	if !maps.Equal(p.labels[i], n.Meta.Labels) {
		p.labels[i] = n.Meta.Labels
		p.recount()
		better |= needNode | needPods
	}
	if !maps.Equal(p.taints[i], n.Spec.Taints) {
		p.taints[i] = n.Spec.Taints
		better |= needNode
	}
	p.shut[i] = shut
	p.freeCPU[i] += cpu - p.capCPU[i]
	p.freeMem[i] += mem - p.capMem[i]
	p.freePods[i] += pods - p.capPods[i]
	p.capCPU[i], p.capMem[i], p.capPods[i] = cpu, mem, pods
	p.perCPU[i], p.perMem[i] = 100/float32(max(cpu, 1)), 100/float32(max(mem, 1))
	return better
}

// dropNode shuts a node that is no more. The domain that it was may not count
// any more, which can help others.
func (p *picture) dropNode(name string) needs {
	p.shut[p.at(name)] = gone
	return needPods
}

// setPod counts a pod where it is; ended ones and those without a node take
// nothing. It reports what pods that fitted nowhere may have been waiting for.
func (p *picture) setPod(pod *api.Pod) (better needs) {
	uid := pod.Meta.UID
	if pod.Spec.Node == "" || pod.Status.Phase.Ended() {
		return p.unplace(uid)
	}
	at, known := p.placed[uid]
	if known && at.node == p.at(pod.Spec.Node) { // a bound pod asks for the same all its life
		at.pod = pod
		p.placed[uid] = at
		return 0
	}
	p.unplace(uid)
	p.take(uid, requestOfPod(pod), p.at(pod.Spec.Node), pod)
	return needPods
}

func (p *picture) take(uid string, r *request, i int, pod *api.Pod) {
	at := placement{node: i, request: r, pod: pod}
	p.count(at, +1)
	// Pods of a revision ask for the same, and there are many.
	if s := p.apps[r.group.revision]; s.asks == nil {
		s.asks = r
	} else if s.asks.key == r.key {
		at.request = s.asks
	}
	p.placed[uid] = at
}

// unplace forgets a pod; it reports what that may help.
func (p *picture) unplace(uid string) needs {
	at, ok := p.placed[uid]
	if !ok {
		return 0
	}
	delete(p.placed, uid)
	p.count(at, -1)
	return needRoom | needPods
}

func (p *picture) count(at placement, sign int32) {
	i := at.node
	p.touch(i)
	p.mount(at, sign)
	p.freeCPU[i] -= int64(sign) * at.cpu
	p.freeMem[i] -= int64(sign) * at.mem
	p.freePods[i] -= sign
	p.countIn(at.group.app, i, sign)
	p.countIn(at.group.revision, i, sign)
	for _, port := range at.ports {
		p.countIn(portSort(port), i, sign)
	}
	for _, rel := range at.anti {
		name := at.group.app + "!" + rel.app + "!" + rel.domain
		p.countIn(name, i, sign)
		by := p.repelled[rel.app]
		switch {
		case p.apps[name] == nil:
			if delete(by, name); len(by) == 0 {
				delete(p.repelled, rel.app)
			}
		case by == nil:
			p.repelled[rel.app] = map[string]relation{name: {at.group.app, rel.domain}}
		default:
			by[name] = relation{at.group.app, rel.domain}
		}
	}
}

func (p *picture) countIn(app string, i int, sign int32) {
	s := p.apps[app]
	if s == nil {
		s = &spread{onNode: make([]int32, len(p.names)), inDomain: map[string][]int32{}}
		p.apps[app] = s
	}
	s.onNode[i] += sign
	for key, n := range s.inDomain {
		if d := p.domains[key].of[i]; d >= 0 {
			n[d] += sign
		}
	}
	if s.total += int(sign); s.total == 0 {
		delete(p.apps, app)
	}
}

// domainOf numbers the values of a label.
func (p *picture) domainOf(key string) *domain {
	d := p.domains[key]
	if d == nil {
		d = &domain{of: make([]int32, len(p.names)), number: map[string]int32{}}
		for i, labels := range p.labels {
			v, ok := labels[key]
			if key == api.DomainNode {
				v, ok = p.names[i], true
			}
			if !ok {
				d.of[i] = -1
				continue
			}
			n, known := d.number[v]
			if !known {
				n = int32(len(d.number))
				d.number[v] = n
			}
			d.of[i] = n
		}
		p.domains[key] = d
	}
	return d
}

// perDomain counts pods of a sort in each domain of a label; nil: there are none.
func (p *picture) perDomain(sort, key string) []int32 {
	s := p.apps[sort]
	if s == nil {
		return nil
	}
	n := s.inDomain[key]
	if n == nil {
		d := p.domainOf(key)
		n = make([]int32, len(d.number))
		for i, c := range s.onNode {
			if d.of[i] >= 0 {
				n[d.of[i]] += c
			}
		}
		s.inDomain[key] = n
	}
	return n
}
