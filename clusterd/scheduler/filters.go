package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// gone is a node that was deleted: it counts for nothing.
const gone = "gone"

// shutWhy says why a node takes no pods at all, as what it is: "" takes some.
func shutWhy(n *api.Node) string {
	switch v := n.Status.Health.Verdict; {
	case n.Status.Health.Schedulable() && n.Spec.Cordoned:
		return "cordoned"
	case n.Status.Health.Schedulable():
		return ""
	case v == "":
		return "joining"
	case v == api.VerdictAgentDown:
		return "without its agent"
	case v == api.VerdictLeft:
		return "shut down"
	default:
		return string(v)
	}
}

// request is what one pod asks for. Pods with equal keys ask for the same.
type request struct {
	key      string
	group    group
	cpu, mem int64
	require  map[string]string
	spread   string
}

func requestOf(namespace, app, revision string, t *api.PodTemplate) *request {
	r := &request{group: groupOf(namespace, app, revision)}
	r.cpu, r.mem = t.Requests()
	if t.Placement != nil {
		r.require, r.spread = t.Placement.Require, t.Placement.Spread
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %d %s", r.group.revision, r.cpu, r.mem, r.spread)
	for _, k := range slices.Sorted(maps.Keys(r.require)) {
		fmt.Fprintf(&b, " %q=%q", k, r.require[k])
	}
	r.key = b.String()
	return r
}

// A filter refuses nodes for one reason. Filters are asked in order; the first
// that refuses a node is the one that is told.
type filter struct {
	// load is whether the answer changes as pods come and go.
	load bool
	fits func(p *picture, i int, r *request) bool
	// say puts the refusal of these nodes into words.
	say func(p *picture, r *request, refused []int) string
}

// filters is the one list of what makes a node fit. best repeats those that
// depend on load as plain comparisons: it runs once per node and pod.
var filters = []filter{
	{
		fits: func(p *picture, i int, _ *request) bool { return p.shut[i] == "" },
		say: func(p *picture, _ *request, refused []int) string {
			count := map[string]int{}
			for _, i := range refused {
				count[p.shut[i]]++
			}
			var parts []string
			for _, why := range slices.Sorted(maps.Keys(count)) {
				parts = append(parts, fmt.Sprintf("%d %s %s", count[why], plural(count[why], "is", "are"), why))
			}
			return strings.Join(parts, ", ")
		},
	},
	{
		fits: func(p *picture, i int, r *request) bool {
			for k, v := range r.require {
				if have, ok := p.labels[i][k]; !ok || have != v {
					return false
				}
			}
			return true
		},
		say: func(_ *picture, r *request, refused []int) string {
			var want []string
			for _, k := range slices.Sorted(maps.Keys(r.require)) {
				want = append(want, k+"="+r.require[k])
			}
			return fmt.Sprintf("%d %s not labelled %s", len(refused), plural(len(refused), "is", "are"), strings.Join(want, ", "))
		},
	},
	{
		load: true,
		fits: func(p *picture, i int, r *request) bool { return p.freeCPU[i] >= r.cpu },
		say: func(p *picture, r *request, refused []int) string {
			return lacks(refused, p.freeCPU, p.capCPU, r.cpu, milli, "cpu")
		},
	},
	{
		load: true,
		fits: func(p *picture, i int, r *request) bool { return p.freeMem[i] >= r.mem },
		say: func(p *picture, r *request, refused []int) string {
			return lacks(refused, p.freeMem, p.capMem, r.mem, mebi, "memory")
		},
	},
	{
		load: true,
		fits: func(p *picture, i int, _ *request) bool { return p.freePods[i] > 0 },
		say: func(_ *picture, _ *request, refused []int) string {
			return fmt.Sprintf("%d %s no room for another pod", len(refused), plural(len(refused), "has", "have"))
		},
	},
}

// static reports whether node i passes the filters that do not depend on load.
func (p *picture) static(i int, r *request) bool {
	for _, f := range filters {
		if !f.load && !f.fits(p, i, r) {
			return false
		}
	}
	return true
}

// large reports whether node i would have room if it were empty.
func (p *picture) large(i int, r *request) bool {
	return p.capCPU[i] >= r.cpu && p.capMem[i] >= r.mem && p.capPods[i] > 0
}

// whyNot says why r fits no node, as counts of nodes per reason.
func (p *picture) whyNot(r *request) string {
	refused := make([][]int, len(filters))
	nodes := 0
	for i, shut := range p.shut {
		if shut == gone {
			continue
		}
		nodes++
		for n, f := range filters {
			if !f.fits(p, i, r) {
				refused[n] = append(refused[n], i)
				break
			}
		}
	}
	if nodes == 0 {
		return "no node fits: the cluster has no nodes; join one"
	}
	var parts []string
	for _, n := range []int{2, 3, 4, 1, 0} { // what can be changed first
		if len(refused[n]) > 0 {
			parts = append(parts, filters[n].say(p, r, refused[n]))
		}
	}
	return "no node fits: " + strings.Join(parts, ", ")
}

// lacks says that nodes have too little of what: free now, or at all.
func lacks(refused []int, free, all []int64, want int64, text func(int64) string, what string) string {
	n := len(refused)
	has := text(most(free, refused)) + " free"
	if total := most(all, refused); total < want {
		has = text(total)
	}
	if n > 1 {
		has += " at most"
	}
	return fmt.Sprintf("%d %s %s %s and %s %s", n, plural(n, "needs", "need"), text(want), what, plural(n, "has", "have"), has)
}

func most(free []int64, of []int) (m int64) {
	for _, i := range of {
		m = max(m, free[i])
	}
	return m
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func milli(n int64) string {
	if n%1000 == 0 && n > 0 {
		return fmt.Sprint(n / 1000)
	}
	return fmt.Sprintf("%dm", n)
}

func mebi(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGi", n>>30)
	case n%(1<<20) == 0 || n > 100<<20:
		return fmt.Sprintf("%dMi", n>>20)
	}
	return fmt.Sprintf("%dKi", n>>10)
}
