package scheduler

import (
	"cmp"
	"fmt"
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
}

func (d decision) String() string {
	if d.node == "" {
		text := fmt.Sprintf("! %s: %s", d.pod.Meta.Name, d.why)
		if d.crowded {
			text += " (crowded)"
		}
		return text
	}
	return fmt.Sprintf("~ %s on %s", d.pod.Meta.Name, d.node)
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
}

func newCandidate(pod *api.Pod) candidate {
	return candidate{pod, requestOf(pod.Meta.Namespace, pod.Spec.App, pod.Spec.Revision, &pod.Spec.PodTemplate)}
}

// class is what pods with equal requests share within one plan.
type class struct {
	request    *request
	candidates []int32 // nodes that pass the filters that do not depend on load
	why        string  // set once a pod of the class has found no node
	crowded    bool
}

// planBinds decides for pods in the order they came, and counts each decision
// in the picture: the next pod sees it. A class that fits nowhere is asked
// once: within a plan, room only shrinks. After limit pods have found a node,
// the plan ends.
func planBinds(p *picture, waiting []candidate, limit int) decisions {
	slices.SortStableFunc(waiting, func(a, b candidate) int {
		m, n := &a.pod.Meta, &b.pod.Meta
		return cmp.Or(m.CreatedAt.Compare(n.CreatedAt), strings.Compare(m.Namespace, n.Namespace), strings.Compare(m.Name, n.Name))
	})
	out := make(decisions, 0, len(waiting))
	classes := map[string]*class{}
	for _, w := range waiting {
		if limit == 0 {
			break
		}
		c := classes[w.key]
		if c == nil {
			c = p.newClass(w.request)
			classes[w.key] = c
		}
		i := p.choose(c)
		if i < 0 {
			out = append(out, decision{pod: w.pod, why: c.why, crowded: c.crowded})
			continue
		}
		limit--
		p.take(w.pod.Meta.UID, w.group, i, w.cpu, w.mem)
		out = append(out, decision{pod: w.pod, node: p.names[i]})
	}
	return out
}

func (p *picture) newClass(r *request) *class {
	c := &class{request: r}
	for i := range p.names {
		if p.static(i, r) {
			c.candidates = append(c.candidates, int32(i))
		}
	}
	return c
}

// choose returns the node for the next pod of the class, or -1.
func (p *picture) choose(c *class) int {
	if c.why != "" {
		return -1
	}
	i := p.best(c.request, c.candidates)
	if i < 0 {
		c.why = p.whyNot(c.request)
		c.crowded = slices.ContainsFunc(c.candidates, func(i int32) bool { return p.large(int(i), c.request) })
	}
	return i
}

// Fit is what a plan would place.
type Fit struct {
	Placed int    // how many of the pods fit
	Why    string // why the others do not; "" when all fit
}

// Fits answers whether n pods of an app's template would find nodes, with the
// same code that will place them: what a plan says is what an apply does. Pods
// of the app that would be replaced are left out of pods by the caller.
func Fits(nodes []*api.Node, pods []*api.Pod, namespace, app string, t *api.PodTemplate, n int) Fit {
	p := newPicture()
	for _, node := range nodes {
		p.setNode(node)
	}
	for _, pod := range pods {
		p.setPod(pod)
	}
	c := p.newClass(requestOf(namespace, app, "plan", t))
	for k := range n {
		i := p.choose(c)
		if i < 0 {
			return Fit{Placed: k, Why: c.why}
		}
		p.take(fmt.Sprintf("plan-%d", k), c.request.group, i, c.request.cpu, c.request.mem)
	}
	return Fit{Placed: n}
}

// setPod counts a pod where it is; ended ones and those without a node take nothing.
func (p *picture) setPod(pod *api.Pod) (freed bool) {
	if pod.Spec.Node == "" || pod.Status.Phase.Ended() {
		return p.unplace(pod.Meta.UID)
	}
	cpu, mem := pod.Spec.Requests()
	p.place(pod.Meta.UID, groupOf(pod.Meta.Namespace, pod.Spec.App, pod.Spec.Revision), pod.Spec.Node, cpu, mem)
	return false
}

// waiting reports whether the scheduler must find a node for pod.
func waiting(pod *api.Pod) bool {
	return pod.Spec.Node == "" && !pod.Meta.Deleting() && !pod.Status.Phase.Ended()
}
