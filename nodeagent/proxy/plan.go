package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// plan returns what the dirty services want, nothing for those that are gone.
// Services that are gone come first: another may have got their address.
func (p *Proxy) plan() []servicePlan {
	have := p.rules
	if p.all {
		p.all = false
		clear(p.dirty)
		for ref := range p.services {
			p.dirty[ref] = true
		}
		for ref := range p.owned {
			p.dirty[ref] = true
		}
		if p.from != nil {
			have = p.from
		}
	}
	var plans []servicePlan
	for ref := range p.dirty {
		svc := p.services[ref]
		if svc == nil {
			plans = append(plans, servicePlan{ref: ref, gone: true})
			continue
		}
		eps := slices.Collect(maps.Values(p.endpoints[ref]))
		plans = append(plans, servicePlan{ref: ref, want: planService(svc, eps, have)})
	}
	clear(p.dirty)
	slices.SortFunc(plans, servicePlan.compare)
	return plans
}

type servicePlan struct {
	ref  api.Ref
	gone bool
	want Ruleset
}

func (a servicePlan) compare(b servicePlan) int {
	if a.gone != b.gone {
		if a.gone {
			return -1
		}
		return 1
	}
	return cmp.Or(strings.Compare(a.ref.Namespace, b.ref.Namespace), strings.Compare(a.ref.Name, b.ref.Name))
}

// take makes the plans part of the rules and returns what that changed. A
// frontend belongs to the service that had it first.
func (p *Proxy) take(plans []servicePlan) delta {
	changed := map[Frontend]*Balance{} // what it was
	set := func(f Frontend, to *Balance) {
		if _, seen := changed[f]; !seen {
			changed[f] = nil
			if was, ok := p.rules[f]; ok {
				changed[f] = &was
			}
		}
		if to == nil {
			delete(p.rules, f)
			return
		}
		p.rules[f] = *to
	}
	freed := false
	for _, plan := range plans {
		var keeps []Frontend
		for _, f := range p.owned[plan.ref] {
			if _, ok := plan.want[f]; !ok {
				delete(p.owner, f)
				set(f, nil)
				freed = true
			}
		}
		delete(p.contested, plan.ref)
		for f, b := range plan.want {
			if owner, taken := p.owner[f]; taken && owner != plan.ref {
				p.log.Warn("two services want the same address: the second waits", "address", f, "has", owner, "waits", plan.ref)
				p.contested[plan.ref] = true
				continue
			}
			p.owner[f] = plan.ref
			keeps = append(keeps, f)
			set(f, &b)
		}
		if p.owned[plan.ref] = keeps; keeps == nil {
			delete(p.owned, plan.ref)
		}
	}
	if freed && len(p.contested) > 0 {
		p.mu.Lock()
		maps.Copy(p.dirty, p.contested)
		p.mu.Unlock()
		nudge(p.wake)
	}
	var d delta
	for f, was := range changed {
		is, ok := p.rules[f]
		switch {
		case !ok && was == nil:
		case !ok:
			d = append(d, deltaLine{f, was, nil})
		case was == nil || !was.equal(is):
			d = append(d, deltaLine{f, was, &is})
		}
	}
	slices.SortFunc(d, func(a, b deltaLine) int { return a.f.compare(b.f) })
	return d
}

// delta is a plan: what changes.
type delta []deltaLine

type deltaLine struct {
	f        Frontend
	from, to *Balance
}

func (d delta) String() string {
	var out strings.Builder
	for _, l := range d {
		switch {
		case l.from == nil:
			fmt.Fprintf(&out, "+ %s %s\n", l.f, l.to)
		case l.to == nil:
			fmt.Fprintf(&out, "- %s\n", l.f)
		default:
			fmt.Fprintf(&out, "~ %s %s\n", l.f, l.to)
		}
	}
	return out.String()
}

// stale returns the frontends some of whose connections may be to a pod that
// has no slot any more. A frontend that is gone is closed.
func (d delta) stale() Ruleset {
	out := Ruleset{}
	for _, l := range d {
		to := Balance{}
		if l.to != nil {
			to = *l.to
		}
		lost := false
		if l.from != nil {
			lost = slices.ContainsFunc(l.from.Slots, func(pod netip.AddrPort) bool { return !slices.Contains(to.Slots, pod) }) ||
				slices.ContainsFunc(l.from.Draining, func(pod netip.AddrPort) bool { return !to.holds(pod) })
		}
		if lost {
			out[l.f] = to
		}
	}
	return out
}
