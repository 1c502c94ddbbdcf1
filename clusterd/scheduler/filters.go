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
	case n.Status.Health.Schedulable():
		return n.Spec.Closed()
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

// ask is a request put to the picture: what the pods that are there mean for it
// is worked out.
type ask struct {
	*picture
	*request
	rules []rule
}

// A filter refuses nodes for one reason. Filters are asked in order; the first
// that refuses a node is the one that is told.
type filter struct {
	// load is whether the answer changes as pods come and go.
	load bool
	// need is what a pod that is refused waits for.
	need needs
	fits func(a *ask, i int) bool
	// say puts the refusal of these nodes into words, as counts.
	say func(a *ask, refused []int) string
}

// filters is the one list of what makes a node fit: for the scheduler, and for
// what a plan says of it. best repeats those that depend on load as plain
// comparisons: it runs once per node and pod.
var filters = []filter{
	{
		need: needNode,
		fits: func(a *ask, i int) bool { return a.shut[i] == "" },
		say: func(a *ask, refused []int) string {
			return tally(refused, func(i int) string { return a.shut[i] }, func(n int, why string) string {
				return fmt.Sprintf("%d %s %s", n, plural(n, "is", "are"), why)
			})
		},
	},
	{
		need: needNode,
		fits: func(a *ask, i int) bool { return api.SelectsAll(a.require, a.labels[i]) },
		say: func(a *ask, refused []int) string {
			return fmt.Sprintf("%d %s not labelled %s", len(refused), plural(len(refused), "is", "are"), api.SelectorText(a.require))
		},
	},
	{
		need: needNode,
		fits: func(a *ask, i int) bool { return api.Untolerated(a.taints[i], a.tolerate) == "" },
		say: func(a *ask, refused []int) string {
			return tally(refused, func(i int) string { return api.Untolerated(a.taints[i], a.tolerate) }, func(n int, taint string) string {
				return fmt.Sprintf("%d %s tainted %s", n, plural(n, "is", "are"), taint)
			})
		},
	},
	atVolumes,
	{
		load: true, need: needPods,
		fits: func(a *ask, i int) bool {
			return !slices.ContainsFunc(a.rules, func(u rule) bool { return !u.fits(i) })
		},
		say: sayRules,
	},
	{
		load: true, need: needRoom,
		fits: func(a *ask, i int) bool { return a.freeCPU[i] >= a.cpu },
		say: func(a *ask, refused []int) string {
			return lacks(refused, a.freeCPU, a.capCPU, a.cpu, milli, "cpu")
		},
	},
	{
		load: true, need: needRoom,
		fits: func(a *ask, i int) bool { return a.freeMem[i] >= a.mem },
		say: func(a *ask, refused []int) string {
			return lacks(refused, a.freeMem, a.capMem, a.mem, mebi, "memory")
		},
	},
	{
		load: true, need: needRoom,
		fits: func(a *ask, i int) bool { return a.freePods[i] > 0 },
		say: func(_ *ask, refused []int) string {
			return fmt.Sprintf("%d %s no room for another pod", len(refused), plural(len(refused), "has", "have"))
		},
	},
}

// tally counts nodes by why, in the order of the words.
func tally(refused []int, why func(int) string, say func(int, string) string) string {
	count := map[string]int{}
	for _, i := range refused {
		count[why(i)]++
	}
	var parts []string
	for _, w := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, say(count[w], w))
	}
	return strings.Join(parts, ", ")
}

// static reports whether node i passes the filters that do not depend on load.
func static(a *ask, i int) bool {
	for _, f := range filters {
		if !f.load && !f.fits(a, i) {
			return false
		}
	}
	return true
}

// large reports whether node i would fit if there were no pods but those that
// the request wants to be with.
func (c *class) large(p *picture, i int) bool {
	r := c.request
	return p.capCPU[i] >= r.cpu && p.capMem[i] >= r.mem && p.capPods[i] > 0 &&
		!slices.ContainsFunc(c.rules, func(u rule) bool { return u.low > 0 && !u.fits(i) || u.of[i] < 0 && !u.outside })
}

// Reason is one reason for which nodes do not fit.
type Reason struct {
	Nodes  int
	Reason string // with their number, such as "2 are cordoned"
}

// whyNot says why a class fits no node, as counts of nodes per reason, what
// can be changed first, and what could help.
func (p *picture) whyNot(c *class) (reasons []Reason, need needs) {
	a := &ask{p, c.request, p.rulesOf(c)}
	refused := make([][]int, len(filters))
	for i, shut := range p.shut {
		if shut == gone || c.request.elsewhere(p.names[i]) {
			continue
		}
		for n, f := range filters {
			if !f.fits(a, i) {
				refused[n] = append(refused[n], i)
				break
			}
		}
	}
	tell := func(n int) {
		if of := refused[n]; len(of) > 0 {
			reasons = append(reasons, Reason{len(of), filters[n].say(a, of)})
			need |= filters[n].need
		}
	}
	for n, f := range filters {
		if f.load {
			tell(n)
		}
	}
	for n := len(filters) - 1; n >= 0; n-- {
		if !filters[n].load {
			tell(n)
		}
	}
	return reasons, need | needNode // a new node always may
}

// sentence is the reasons in one line.
func sentence(reasons []Reason) string {
	if len(reasons) == 0 {
		return "no node fits: the cluster has no nodes; join one"
	}
	var parts []string
	for _, r := range reasons {
		parts = append(parts, r.Reason)
	}
	return "no node fits: " + strings.Join(parts, ", ")
}
