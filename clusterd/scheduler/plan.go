package scheduler

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// decision is where a pod goes, or why it goes nowhere.
type decision struct {
	pod  *api.Pod
	node string
	why  string
	// crowded is whether the pod would fit if other pods were not there.
	crowded bool
	// need is what could help a pod that goes nowhere.
	need needs
	// nominated is the node whose room is kept for the pod, while pods that were
	// asked to leave it still go; victims are those to ask now.
	nominated string
	victims   []*api.Pod
}

func (d decision) String() string {
	if d.node != "" {
		return fmt.Sprintf("~ %s on %s", d.pod.Meta.Name, d.node)
	}
	text := fmt.Sprintf("! %s: %s", d.pod.Meta.Name, d.why)
	if d.crowded {
		text += " (crowded)"
	}
	for _, v := range d.victims {
		text += "\n- " + v.Meta.Name
	}
	return text
}

// explain says what a pod waits for that was promised a node.
func (d *decision) explain() {
	if d.nominated == "" {
		return
	}
	d.why = "waits for room on node " + d.nominated + ", which pods of a lower priority leave"
	d.crowded = false // more room would not help
}

type decisions []decision

func (ds decisions) String() string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintln(&b, d)
	}
	return b.String()
}

// candidate is a pod that waits, with what it asks for worked out once.
type candidate struct {
	pod *api.Pod
	*request
	nominated string // node whose room is kept for it
	parked    needs  // what it waits for; 0: to be looked at
}

func newCandidate(pod *api.Pod) candidate {
	return candidate{pod: pod, request: requestOfPod(pod)}
}

// order is the higher priority first, then the older pod.
func order(a, b candidate) int {
	m, n := &a.pod.Meta, &b.pod.Meta
	return cmp.Or(b.priority-a.priority, m.CreatedAt.Compare(n.CreatedAt), strings.Compare(m.Namespace, n.Namespace), strings.Compare(m.Name, n.Name), strings.Compare(m.UID, n.UID))
}

// class is what pods with equal requests share within one plan.
type class struct {
	request    *request
	candidates []int32   // nodes that pass the filters that do not depend on load
	bonus      []float32 // of each; nil: none has any
	asked      int       // how often choose has looked for a node
	ranking    *ranking  // nil until it pays
	domains    []bool    // with spread: which have a candidate
	rules      []rule

	full    bool // a pod of the class has found no node
	reasons []Reason
	why     string
	crowded bool
	need    needs
	stuck   bool // and there is nobody who could make room
}

// planBinds decides for pods in their order, and counts each decision in the
// picture: the next pod sees it. A class that fits nowhere is asked once:
// within a plan room only shrinks, and only pods that it hopes for can help.
// After limit pods have found a node, the
// plan ends. A pod of a higher priority may ask others to leave; their room is
// kept for it from then on, against whoever comes after it in the order.
func planBinds(p *picture, waiting iter.Seq[candidate], limit int, spare budget) (out decisions) {
	classes := map[string]*class{}
	hoping := map[string][]*class{} // for pods of an app or a revision to come
	e := eviction{picture: p, spare: spare}
	defer e.release()
	for w := range waiting {
		if limit <= 0 {
			break
		}
		c := classes[w.key]
		if c == nil {
			c = p.newClass(w.request)
			classes[w.key] = c
			for _, sort := range w.hopes() {
				hoping[sort] = append(hoping[sort], c)
			}
		}
		i := p.choose(c)
		if i >= 0 {
			limit--
			p.take(w.pod.Meta.UID, w.request, i, w.pod)
			for _, sort := range []string{w.group.app, w.group.revision} {
				for _, c := range hoping[sort] {
					c.full, c.stuck = false, false
				}
			}
			out = append(out, decision{pod: w.pod, node: p.names[i]})
			continue
		}
		d := decision{pod: w.pod, why: c.why, crowded: c.crowded, need: c.need}
		if c.crowded && !c.stuck {
			d.nominated, d.victims = e.makeRoom(c, w)
			c.stuck = d.nominated == ""
			d.explain()
		}
		out = append(out, d)
	}
	return out
}

func (p *picture) newClass(r *request) *class {
	c := &class{request: r}
	a := &ask{picture: p, request: r}
	graded := len(r.prefer) > 0 || p.hurt[r.group.revision] != nil
	for i := range p.names {
		if r.elsewhere(p.names[i]) || !static(a, i) {
			continue
		}
		c.candidates = append(c.candidates, int32(i))
		if graded {
			c.bonus = append(c.bonus, p.bonusOf(r, i))
		}
	}
	if r.spread != "" {
		d := p.domainOf(r.spread)
		c.domains = make([]bool, len(d.number))
		for _, i := range c.candidates {
			if n := d.of[i]; n >= 0 {
				c.domains[n] = true
			}
		}
	}
	return c
}

// choose returns the node for the next pod of the class, or -1.
func (p *picture) choose(c *class) int {
	if c.full {
		return -1
	}
	if why := p.barred(c.request); why != "" {
		c.full, c.need = true, needNode|needPods
		c.reasons = []Reason{{len(c.candidates), why}}
		c.why = sentence(c.reasons)
		return -1
	}
	i := p.best(c)
	if i < 0 {
		c.full = true
		c.reasons, c.need = p.whyNot(c)
		c.why = sentence(c.reasons)
		c.crowded = slices.ContainsFunc(c.candidates, func(i int32) bool { return c.large(p, int(i)) })
	}
	return i
}

// Fit is what a plan would place.
type Fit struct {
	Placed  int      // how many of the pods fit
	Why     string   // why the others do not; "" when all fit
	Reasons []Reason // the same, one by one
}

// Fits answers whether n pods of an app's template would find nodes, with the
// same code that will place them: what a plan says is what an apply does. Pods
// of the app that would be replaced are left out of pods by the caller.
func Fits(nodes []*api.Node, pods []*api.Pod, namespace, owner string, t *api.PodTemplate, n int) Fit {
	p := newPicture()
	for _, node := range nodes {
		p.setNode(node)
	}
	for _, pod := range pods {
		p.setPod(pod)
	}
	c := p.newClass(requestOf(namespace, owner, "plan", t))
	for k := range n {
		i := p.choose(c)
		if i < 0 {
			return Fit{Placed: k, Why: c.why, Reasons: c.reasons}
		}
		p.take(fmt.Sprintf("plan-%d", k), c.request, i, nil)
	}
	return Fit{Placed: n}
}

// waiting reports whether the scheduler must find a node for pod.
func waiting(pod *api.Pod) bool {
	return pod.Spec.Node == "" && !pod.Meta.Deleting() && !pod.Status.Phase.Ended()
}
