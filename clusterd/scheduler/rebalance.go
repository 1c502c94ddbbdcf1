package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Bounds of a rebalance.
const (
	// movesMost is how many pods one moves.
	movesMost = 50
	// worthwhile is by how many percentage points the node that a pod goes to
	// must stay below what its node is at now. It keeps pods from moving to and fro.
	worthwhile = 10
)

// movesPlan is pods to move, in their order.
type movesPlan struct{ api.Rebalance }

func (p movesPlan) String() string {
	var b strings.Builder
	for _, m := range p.Moves {
		fmt.Fprintln(&b, m)
	}
	fmt.Fprintf(&b, "= %d %% -> %d %%: %s\n", p.Before, p.After, p.Message)
	return b.String()
}

// planRebalance decides which pods to move, at most limit, each once and only
// those that may, to where the scheduler would place their replacements. First
// those whose revision is farther apart then; after them, from the fullest node
// on, the pod whose going leaves both nodes the least full, if that crowds no
// revision. So with every move the pods of a revision in a domain, their pods on
// a node, or the loads of the nodes, the fullest first, are less than before, in
// this order: no plan undoes another. Nodes that take no pods are left alone:
// whoever shut them has plans. The picture is as before when it returns.
func planRebalance(p *picture, movable func(*api.Pod) bool, limit int) (plan movesPlan) {
	plan.Moves = []api.PodMove{}
	on := p.movable(movable)
	wanted := p.wanted()
	moved := map[string]int{} // where from
	defer func() {
		for uid, i := range moved {
			at := p.placed[uid]
			p.unplace(uid)
			p.take(uid, at.request, i, at.pod)
		}
	}()
	nodes := p.fullest()
	if len(nodes) > 0 {
		plan.Before, _ = p.load(nodes[0], 0, 0)
	}
	plan.Message = "no other move is worth it"
	for {
		next, to := p.apart(nodes, on, wanted)
		spreads := next != nil
		if !spreads {
			next, to = p.lighter(nodes, on, wanted)
		}
		if next == nil {
			break
		}
		if len(plan.Moves) == limit {
			plan.Message = fmt.Sprintf("no more than %d pods move at a time: ask again after them", limit)
			break
		}
		uid, at := next.Meta.UID, p.placed[next.Meta.UID]
		m := api.PodMove{Namespace: next.Meta.Namespace, Pod: next.Meta.Name, UID: uid, From: p.names[at.node], To: p.names[to]}
		m.Before, m.Resource = p.load(at.node, 0, 0)
		m.After = p.share(m.Resource, at.node, -at.cpu, -at.mem)
		m.Why = fmt.Sprintf("%s %d %% -> %d %% %s", m.From, m.Before, m.After, m.Resource)
		if spreads {
			m.Why = p.sayCrowd(at, to)
		}
		plan.Moves = append(plan.Moves, m)
		on[at.node] = slices.DeleteFunc(on[at.node], func(pod *api.Pod) bool { return pod == next })
		moved[uid] = at.node
		p.unplace(uid)
		p.take(uid, at.request, to, next)
		nodes = p.fullest()
	}
	if len(nodes) > 0 {
		plan.After, _ = p.load(nodes[0], 0, 0)
	}
	return plan
}

// movable returns the pods that may move by node, in the order of their names.
// A pod that is not ready is on its way, or would be missed; one with an ordinal
// or a volume goes down to move.
func (p *picture) movable(may func(*api.Pod) bool) map[int][]*api.Pod {
	on := map[int][]*api.Pod{}
	for _, at := range p.placed {
		pod := at.pod
		if pod == nil || pod.Spec.App == "" || pod.Spec.Target != "" || pod.Spec.Ordinal != nil || len(at.uses) > 0 || !pod.Status.Ready || pod.Meta.Deleting() || p.shut[at.node] != "" {
			continue
		}
		if may(pod) {
			on[at.node] = append(on[at.node], pod)
		}
	}
	for _, pods := range on {
		slices.SortFunc(pods, func(a, b *api.Pod) int {
			return cmp.Or(strings.Compare(a.Meta.Namespace, b.Meta.Namespace), strings.Compare(a.Meta.Name, b.Meta.Name))
		})
	}
	return on
}

// wanted returns in which domains pods of other apps want to be with those of
// an app, by that app.
func (p *picture) wanted() map[string][]string {
	out := map[string][]string{}
	for _, at := range p.placed {
		for _, rel := range at.affinity {
			if rel.app != at.group.app && !slices.Contains(out[rel.app], rel.domain) {
				out[rel.app] = append(out[rel.app], rel.domain)
			}
		}
	}
	return out
}

// apart returns a pod that is to move so that its revision is spread better, and
// where to; nil: there is none.
func (p *picture) apart(nodes []int, on map[int][]*api.Pod, wanted map[string][]string) (pod *api.Pod, to int) {
	for _, from := range nodes {
		for pod, to := range p.prospects(from, on[from], wanted, p.crowded) {
			if p.crowds(p.placed[pod.Meta.UID], to) < 0 {
				return pod, to
			}
		}
	}
	return nil, 0
}

// lighter returns the pod whose going makes the loads least, and where to, from
// the fullest node that has one worth it; nil: there is none.
func (p *picture) lighter(nodes []int, on map[int][]*api.Pod, wanted map[string][]string) (best *api.Pod, to int) {
	for _, from := range nodes {
		before, _ := p.load(from, 0, 0)
		least := before
		for pod, i := range p.prospects(from, on[from], wanted, nil) {
			at := p.placed[pod.Meta.UID]
			there, _ := p.load(i, at.cpu, at.mem)
			here, _ := p.load(from, -at.cpu, -at.mem)
			if here == before || p.crowds(at, i) > 0 {
				continue // it takes nothing that would make room, or its kind needs the distance
			}
			if there <= before-worthwhile && max(there, here) < least {
				best, to, least = pod, i, max(there, here)
			}
		}
		if best != nil {
			return best, to
		}
	}
	return nil, 0
}

// prospects yields the pods of a node that another would take, with that node:
// those that only lets through, if there is one.
func (p *picture) prospects(from int, pods []*api.Pod, wanted map[string][]string, only func(placement) bool) iter.Seq2[*api.Pod, int] {
	return func(yield func(*api.Pod, int) bool) {
		tried := map[string]bool{} // equal pods have equal prospects
		for _, pod := range pods {
			at := p.placed[pod.Meta.UID]
			if tried[at.key] || only != nil && !only(at) || p.needed(at, wanted) {
				continue
			}
			tried[at.key] = true
			i := p.choose(p.newClass(at.request)) // beside it, as it is done
			if i < 0 || i == from || !p.suits(at, i) {
				continue
			}
			if !yield(pod, i) {
				return
			}
		}
	}
}

// crowded reports whether a pod could be better off elsewhere: one that is alone
// could not.
func (p *picture) crowded(at placement) bool {
	if p.apps[at.group.revision].onNode[at.node] > 1 {
		return true
	}
	if at.spread == "" {
		return false
	}
	d := p.domainOf(at.spread).of[at.node]
	return d < 0 || p.perDomain(at.group.revision, at.spread)[d] > 1
}

// crowds compares how close the pods of a revision are once one of them has gone
// to a node with how close they are: less than 0, it spreads them.
func (p *picture) crowds(at placement, to int) int {
	if at.spread != "" {
		of := p.domainOf(at.spread).of
		switch from, there := of[at.node], of[to]; {
		case from == there:
		case from < 0:
			return -1
		case there < 0:
			return +1
		default:
			in := p.perDomain(at.group.revision, at.spread)
			if c := cmp.Compare(in[there]+1, in[from]); c != 0 {
				return c
			}
		}
	}
	on := p.apps[at.group.revision].onNode
	return cmp.Compare(on[to]+1, on[at.node])
}

// sayCrowd says why a pod's going to a node spreads its revision.
func (p *picture) sayCrowd(at placement, to int) string {
	noun := nounOf(at.group.app)
	if at.spread != "" && at.spread != api.DomainNode {
		of := p.domainOf(at.spread).of
		from, there := p.labels[at.node][at.spread], p.labels[to][at.spread]
		switch in := p.perDomain(at.group.revision, at.spread); {
		case of[at.node] < 0:
			return fmt.Sprintf("%s has no %s, which %s spreads over", p.names[at.node], at.spread, noun)
		case of[at.node] != of[to] && in[of[to]]+1 < in[of[at.node]]:
			return fmt.Sprintf("%s has %d pods in %s %s and %d in %s", noun, in[of[at.node]], at.spread, from, in[of[to]], there)
		}
	}
	on := p.apps[at.group.revision].onNode
	return fmt.Sprintf("%s has %d pods on %s and %d on %s", noun, on[at.node], p.names[at.node], on[to], p.names[to])
}

// needed reports whether a pod is the last of its app where pods of others want
// to be with one.
func (p *picture) needed(at placement, wanted map[string][]string) bool {
	return slices.ContainsFunc(wanted[at.group.app], func(key string) bool {
		d := p.domainOf(key).of[at.node]
		return d >= 0 && p.perDomain(at.group.app, key)[d] == 1
	})
}

// suits reports whether a pod fits a node once it has left its own.
func (p *picture) suits(at placement, i int) bool {
	uid := at.pod.Meta.UID
	p.unplace(uid)
	defer p.take(uid, at.request, at.node, at.pod)
	c := p.newClass(at.request)
	return !slices.ContainsFunc(p.rulesOf(c), func(u rule) bool { return !u.fits(i) })
}

// fullest returns the nodes that take pods, those with the highest load first.
func (p *picture) fullest() (nodes []int) {
	loads := make([]int, len(p.names))
	for i, shut := range p.shut {
		if shut == "" {
			nodes = append(nodes, i)
			loads[i], _ = p.load(i, 0, 0)
		}
	}
	slices.SortFunc(nodes, func(a, b int) int { return cmp.Or(loads[b]-loads[a], strings.Compare(p.names[a], p.names[b])) })
	return nodes
}

// load returns the percentage of a node that is reserved with so much more, of
// the resource that has more of it reserved.
func (p *picture) load(i int, cpu, mem int64) (percent int, resource string) {
	c, m := p.share("cpu", i, cpu, mem), p.share("memory", i, cpu, mem)
	if m > c {
		return m, "memory"
	}
	return c, "cpu"
}

func (p *picture) share(resource string, i int, cpu, mem int64) int {
	if resource == "memory" {
		return int((p.capMem[i] - p.freeMem[i] + mem) * 100 / max(p.capMem[i], 1))
	}
	return int((p.capCPU[i] - p.freeCPU[i] + cpu) * 100 / max(p.capCPU[i], 1))
}

// Rebalance says which pods to move, of those that may.
func (f *Forecast) Rebalance(ctx context.Context, movable func(*api.Pod) bool) (*api.Rebalance, error) {
	if err := f.synced(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	plan := planRebalance(f.picture, movable, movesMost)
	return &plan.Rebalance, nil
}
