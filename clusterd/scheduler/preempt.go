package scheduler

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// budget returns how many ready pods of an app, namespace/name, others may
// take from it now; nil: any number.
type budget func(app string, ready int) int

// eviction makes room for pods of a higher priority within one plan.
type eviction struct {
	*picture
	spare    budget
	lowest   *int             // priority of any bound pod; nil until somebody asks
	onNode   map[int][]string // UIDs of bound pods; nil until somebody asks
	ready    map[string]int   // pods that serve and stay, by app
	victims  map[string]bool  // by UID
	reserved []string         // UIDs under which room is kept
}

// offer is one way to make room.
type offer struct {
	node    int
	victims []placement
	broken  int // victims whose app would be below its min_available
	highest int // priority among the victims
}

func (o offer) compare(x offer) int {
	return cmp.Or(o.broken-x.broken, len(o.victims)-len(x.victims), o.highest-x.highest, o.node-x.node)
}

// makeRoom chooses a node and who must leave it for a pod that fits nowhere,
// and keeps that room for the pod during the plan. The order: no app goes
// below its min_available for it if there is another way; then the fewest
// pods; then those of the lowest priority. A pod that was promised a node
// before waits for it as long as pods leave there.
func (e *eviction) makeRoom(c *class, w candidate) (node string, victims []*api.Pod) {
	if !e.anyBelow(c.request.priority) {
		return "", nil
	}
	e.look()
	best, found := offer{}, false
	for _, at := range c.candidates {
		i := int(at)
		if !c.large(e.picture, i) || slices.ContainsFunc(c.rules, func(u rule) bool { return !u.fits(i) }) {
			continue
		}
		o, ok := e.offer(i, c.request)
		if !ok {
			continue
		}
		if e.names[i] == w.nominated && len(o.victims) == 0 {
			best, found = o, true
			break
		}
		if !found || o.compare(best) < 0 {
			best, found = o, true
		}
	}
	if !found {
		return "", nil
	}
	for _, v := range best.victims {
		e.victims[v.pod.Meta.UID] = true
		if v.pod.Status.Ready {
			e.ready[v.group.app]--
		}
		victims = append(victims, v.pod)
	}
	uid := "for " + w.pod.Meta.UID
	e.take(uid, &request{group: group{uid, uid + "@"}, cpu: c.request.cpu, mem: c.request.mem}, best.node, nil) // room alone: the pod is not there yet
	e.reserved = append(e.reserved, uid)
	return e.names[best.node], victims
}

// release gives up what was kept: the next plan keeps it again for who still
// waits.
func (e *eviction) release() {
	for _, uid := range e.reserved {
		e.unplace(uid)
	}
}

// anyBelow reports whether there is a pod of a lower priority anywhere.
func (e *eviction) anyBelow(priority int) bool {
	if e.lowest == nil {
		least := math.MaxInt
		for _, at := range e.placed {
			if at.bound() {
				least = min(least, at.priority)
			}
		}
		e.lowest = &least
	}
	return *e.lowest < priority
}

// look sorts the pods by node, once in a plan.
func (e *eviction) look() {
	if e.onNode != nil {
		return
	}
	e.onNode, e.ready, e.victims = map[int][]string{}, map[string]int{}, map[string]bool{}
	for uid, at := range e.placed {
		if !at.bound() {
			continue
		}
		e.onNode[at.node] = append(e.onNode[at.node], uid)
		if at.pod.Status.Ready && !at.leaves() {
			e.ready[at.group.app]++
		}
	}
	for _, uids := range e.onNode {
		slices.Sort(uids)
	}
}

// offer says who would have to leave node i.
func (e *eviction) offer(i int, r *request) (o offer, ok bool) {
	o = offer{node: i, highest: -1}
	cpu, mem, pods := r.cpu-e.freeCPU[i], r.mem-e.freeMem[i], 1-int(e.freePods[i]) // still lacking
	var may []placement
	for _, uid := range e.onNode[i] {
		at := e.placed[uid]
		switch {
		case at.priority >= r.priority:
		case at.leaves() || e.victims[uid]: // it leaves already
			cpu, mem, pods = cpu-at.cpu, mem-at.mem, pods-1
		default:
			may = append(may, at)
		}
	}
	lacking := func() bool { return cpu > 0 || mem > 0 || pods > 0 }
	taken := map[string]int{} // ready pods, by app
	breaks := func(at placement) int {
		app := at.group.app
		if e.spare != nil && at.pod.Status.Ready && e.spare(app, e.ready[app]) <= taken[app] {
			return 1
		}
		return 0
	}
	cheaper := func(a, b placement) int {
		return cmp.Or(breaks(a)-breaks(b), a.priority-b.priority, cmp.Compare(b.cpu+b.mem>>20, a.cpu+a.mem>>20), strings.Compare(a.pod.Meta.UID, b.pod.Meta.UID))
	}
	for lacking() && len(may) > 0 {
		at := slices.MinFunc(may, cheaper)
		may = slices.DeleteFunc(may, func(x placement) bool { return x.pod == at.pod })
		cpu, mem, pods = cpu-at.cpu, mem-at.mem, pods-1
		o.victims = append(o.victims, at)
		if at.pod.Status.Ready {
			taken[at.group.app]++
		}
	}
	if lacking() {
		return o, false
	}
	for k := len(o.victims) - 1; k >= 0; k-- { // who need not go after all, the most precious first
		at := o.victims[k]
		if cpu+at.cpu <= 0 && mem+at.mem <= 0 && pods+1 <= 0 {
			cpu, mem, pods = cpu+at.cpu, mem+at.mem, pods+1
			o.victims = slices.Delete(o.victims, k, k+1)
		}
	}
	clear(taken)
	for _, at := range o.victims {
		o.highest = max(o.highest, at.priority)
		o.broken += breaks(at)
		if at.pod.Status.Ready {
			taken[at.group.app]++
		}
	}
	return o, true
}
