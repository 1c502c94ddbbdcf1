// Package scheduler gives every pod a node, once.
//
// It keeps a picture of the cluster as arrays, one entry per node and field: a
// decision looks at every node, exactly, and touches nothing but numbers. Pods
// that ask for the same thing share what does not depend on load. A decision
// is an assumption until the API has accepted the bind in a transaction that
// checks the node's room again.
//
// Invariants: a pod is bound only to a node that passes every filter; the
// picture counts a pod's request from the assumption to the pod's end; the
// same picture and pods lead to the same decisions; a pod that fits nowhere
// says why, in words that count nodes.
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

	capCPU, capMem   []int64 // thousandths of a core, bytes
	capPods          []int32
	freeCPU, freeMem []int64 // less than nothing on a node that shrank
	freePods         []int32
	perCPU, perMem   []float32 // 100 / cap: scores without divisions

	placed  map[string]placement // by pod UID
	apps    map[string]*spread   // by namespace/app, and again by namespace/app@revision
	domains map[string]*domain   // by label key
}

// placement is what one pod takes, and where.
type placement struct {
	node     int
	cpu, mem int64
	group    group
}

// group is whom a pod shares its work with: all pods of its app, and among
// them those of its revision, which are the ones that stay.
type group struct{ app, revision string }

func groupOf(namespace, app, revision string) group {
	name := namespace + "/" + app
	return group{name, name + "@" + revision}
}

// spread counts the pods of an app or of one revision.
type spread struct {
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
	return &picture{index: map[string]int{}, placed: map[string]placement{}, apps: map[string]*spread{}, domains: map[string]*domain{}}
}

// at returns the index of a node. One that is named by a pod but not known
// yet is gone until it is set.
func (p *picture) at(name string) int {
	i, known := p.index[name]
	if !known {
		i = len(p.names)
		p.index[name] = i
		p.names, p.shut, p.labels = append(p.names, name), append(p.shut, gone), append(p.labels, nil)
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

// setNode adds or updates a node; it reports whether pods that fitted nowhere
// may fit now.
func (p *picture) setNode(n *api.Node) (better bool) {
	i := p.at(n.Meta.Name)
	cpu, mem, pods := n.Status.Allocatable.CPU.Milli(), n.Status.Allocatable.Memory.Bytes(), int32(n.Status.Allocatable.Pods)
	if pods == 0 {
		pods = defaultPods
	}
	shut, moved := shutWhy(n), !maps.Equal(p.labels[i], n.Meta.Labels)
	better = moved || shut == "" && p.shut[i] != "" || cpu > p.capCPU[i] || mem > p.capMem[i] || pods > p.capPods[i]
	if moved {
		p.labels[i] = n.Meta.Labels
		p.recount()
	}
	p.shut[i] = shut
	p.freeCPU[i] += cpu - p.capCPU[i]
	p.freeMem[i] += mem - p.capMem[i]
	p.freePods[i] += pods - p.capPods[i]
	p.capCPU[i], p.capMem[i], p.capPods[i] = cpu, mem, pods
	p.perCPU[i], p.perMem[i] = 100/float32(max(cpu, 1)), 100/float32(max(mem, 1))
	return better
}

// dropNode shuts a node that is no more.
func (p *picture) dropNode(name string) { p.shut[p.at(name)] = gone }

// place counts a pod on a node. A pod is counted once, wherever it was before.
func (p *picture) place(uid string, g group, node string, cpu, mem int64) {
	p.unplace(uid)
	p.take(uid, g, p.at(node), cpu, mem)
}

func (p *picture) take(uid string, g group, i int, cpu, mem int64) {
	p.placed[uid] = placement{i, cpu, mem, g}
	p.count(g, i, +1, cpu, mem)
}

// unplace forgets a pod; it reports whether room became free.
func (p *picture) unplace(uid string) bool {
	at, ok := p.placed[uid]
	if ok {
		delete(p.placed, uid)
		p.count(at.group, at.node, -1, at.cpu, at.mem)
	}
	return ok
}

func (p *picture) count(g group, i int, sign int32, cpu, mem int64) {
	p.freeCPU[i] -= int64(sign) * cpu
	p.freeMem[i] -= int64(sign) * mem
	p.freePods[i] -= sign
	p.countIn(g.app, i, sign)
	p.countIn(g.revision, i, sign)
}

func (p *picture) countIn(app string, i int, sign int32) {
	s := p.spreadOf(app)
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

func (p *picture) spreadOf(app string) *spread {
	s := p.apps[app]
	if s == nil {
		s = &spread{onNode: make([]int32, len(p.names)), inDomain: map[string][]int32{}}
		p.apps[app] = s
	}
	return s
}

// domainOf numbers the values of a label.
func (p *picture) domainOf(key string) *domain {
	d := p.domains[key]
	if d == nil {
		d = &domain{of: make([]int32, len(p.names)), number: map[string]int32{}}
		for i, labels := range p.labels {
			v, ok := labels[key]
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

// perDomain counts an app's pods in each domain of a label.
func (p *picture) perDomain(s *spread, key string) []int32 {
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
