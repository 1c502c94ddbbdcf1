package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// rule is what a pod wants of the pods that are there: a bound on their number
// in a node's domain. Building all of a request's costs O(domains), asking one
// about a node a comparison.
type rule struct {
	of        []int32 // the domain of each node
	n         []int32 // pods in each domain; nil: none anywhere
	low, high int32
	outside   bool // whether nodes that belong to no domain fit

	field  string // of placement
	domain string
	app    string // whose pods are counted
	whose  string // who wants it, if not the pod
}

func (u *rule) fits(i int) bool {
	d := u.of[i]
	if d < 0 {
		return u.outside
	}
	var n int32
	if u.n != nil {
		n = u.n[d]
	}
	return n >= u.low && n <= u.high
}

// rulesOf resolves what a class wants of other pods, as they are now.
func (p *picture) rulesOf(c *class) []rule {
	r, rules := c.request, c.rules[:0]
	add := func(u rule, sort string) {
		u.of, u.n = p.domainOf(u.domain).of, p.perDomain(sort, u.domain)
		rules = append(rules, u)
	}
	for _, port := range r.ports {
		add(rule{field: "host_network", domain: api.DomainNode, app: string(port)}, portSort(port))
	}
	if r.onePer != "" {
		add(rule{field: "one_per", domain: r.onePer, app: r.group.app}, r.group.app)
	}
	if r.maxSkew > 0 {
		u := rule{field: "max_skew", domain: r.spread, app: r.group.app}
		u.high = r.maxSkew - 1 + c.emptiest(p.perDomain(r.group.revision, r.spread))
		add(u, r.group.revision)
	}
	for _, rel := range r.affinity {
		u := rule{field: "affinity", domain: rel.domain, app: rel.app, low: 1, high: math.MaxInt32}
		if rel.app == r.group.app && p.apps[rel.app] == nil {
			u.low = 0 // the first of them has nobody to be with
		}
		add(u, rel.app)
	}
	for _, rel := range r.anti {
		add(rule{field: "anti_affinity", domain: rel.domain, app: rel.app, outside: true}, rel.app)
	}
	if by := p.repelled[r.group.app]; len(by) > 0 {
		for _, name := range slices.Sorted(maps.Keys(by)) {
			if rel := by[name]; rel.app != r.group.app { // its own are said above
				add(rule{field: "anti_affinity", domain: rel.domain, app: rel.app, whose: rel.app, outside: true}, name)
			}
		}
	}
	c.rules = rules
	return rules
}

// emptiest returns how many pods are in the domain with the fewest, of those
// that have a node the class may be on.
func (c *class) emptiest(inDomain []int32) int32 {
	if inDomain == nil {
		return 0
	}
	least := int32(math.MaxInt32)
	for d, open := range c.domains {
		if open {
			least = min(least, inDomain[d])
		}
	}
	if least == math.MaxInt32 {
		return 0
	}
	return least
}

// say puts into words that n nodes break the rule; outside, for their lack of
// the label.
func (u *rule) say(n int, outside bool) string {
	if outside {
		return fmt.Sprintf("%d %s no label %s (%s)", n, plural(n, "has", "have"), u.domain, cmp.Or(map[string]string{"max_skew": "spread"}[u.field], u.field))
	}
	has := plural(n, "has", "have")
	with, without := " a pod", " no pod"
	if u.domain != api.DomainNode {
		has = plural(n, "is", "are") + " in a " + u.domain
		with, without = " with a pod", " without a pod"
	}
	who := nounOf(u.app)
	switch {
	case u.field == "host_network":
		return fmt.Sprintf("%d %s a pod that has port %s of the node (host_network)", n, has, u.app)
	case u.field == "one_per":
		return fmt.Sprintf("%d %s%s of %s already (one_per)", n, has, with, who)
	case u.field == "max_skew":
		return fmt.Sprintf("%d %s with more pods of %s than another (max_skew)", n, plural(n, "is", "are")+" in a "+u.domain, who)
	case u.field == "affinity":
		return fmt.Sprintf("%d %s%s of %s (affinity)", n, has, without, who)
	case u.whose != "":
		return fmt.Sprintf("%d %s%s of %s, which keeps others out (its anti_affinity)", n, has, with, who)
	}
	return fmt.Sprintf("%d %s%s of %s (anti_affinity)", n, has, with, who)
}

// nounOf says who owns pods: app web, job nightly.
func nounOf(group string) string {
	_, owner, _ := strings.Cut(group, "/")
	if kind, name, ok := strings.Cut(owner, "/"); ok {
		return kind + " " + name
	}
	return "app " + owner
}

// sayRules puts the refusals of these nodes into words, by the first rule that
// each breaks.
func sayRules(a *ask, refused []int) string {
	type sort struct {
		rule    int
		outside bool
	}
	count := map[sort]int{}
	for _, i := range refused {
		k := slices.IndexFunc(a.rules, func(u rule) bool { return !u.fits(i) })
		count[sort{k, a.rules[k].of[i] < 0}]++
	}
	var parts []string
	for k := range a.rules {
		for _, outside := range []bool{false, true} {
			if n := count[sort{k, outside}]; n > 0 {
				parts = append(parts, a.rules[k].say(n, outside))
			}
		}
	}
	return strings.Join(parts, ", ")
}
