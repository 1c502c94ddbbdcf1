package api

import (
	"slices"
	"strings"
)

// DomainNode is the domain every node is one of by itself.
const DomainNode = "node"

// Placement restricts and steers where pods run. A domain is the nodes with
// the same value of a label; the domain "node" is each node by itself.
type Placement struct {
	Require      map[string]string `json:"require,omitempty" doc:"Node labels that a pod's node must have; a value of a|b takes either, and !a takes any other."`
	Prefer       map[string]string `json:"prefer,omitempty" doc:"Node labels that a pod's node should have if it can."`
	Spread       string            `json:"spread,omitempty" doc:"Node label whose values pods are spread over; pods always prefer nodes with fewer of the same app."`
	MaxSkew      *int              `json:"max_skew,omitempty" doc:"With spread: the most by which pods of one value may outnumber those of another where pods fit; without, spread is a preference."`
	OnePer       string            `json:"one_per,omitempty" doc:"At most one pod of the app per node, or per value of this node label."`
	Affinity     map[string]string `json:"affinity,omitempty" doc:"Run where pods of other apps run: the domain by the app's name, such as cache = \"node\"."`
	AntiAffinity map[string]string `json:"anti_affinity,omitempty" doc:"Run where no pods of other apps run: the domain by the app's name, such as batch = \"node\"."`
	Tolerate     []string          `json:"tolerate,omitempty" doc:"Taints of nodes to run on all the same, such as dedicated=shop or dedicated."`
	Priority     *int              `json:"priority,omitempty" doc:"From 0 to 100: pods of a higher one are placed first, and take the room of lower ones if there is no other." default:"50"`
}

// DefaultPriority is that of a pod that says nothing.
const DefaultPriority = 50

func (p Placement) validate() error {
	var errs Errors
	errs.Add("require", checkSelector(p.Require))
	errs.Add("prefer", checkSelector(p.Prefer))
	if p.Spread != "" && !labelRE.MatchString(p.Spread) {
		errs.Addf("spread", "%q is not a label key", p.Spread)
	}
	if p.MaxSkew != nil && *p.MaxSkew < 1 {
		errs.Addf("max_skew", "must be at least 1")
	}
	if p.MaxSkew != nil && p.Spread == "" {
		errs.Addf("max_skew", "belongs to spread: say which label to spread over")
	}
	if p.OnePer != "" && !labelRE.MatchString(p.OnePer) {
		errs.Addf("one_per", "%q is neither node nor a label key", p.OnePer)
	}
	for _, rel := range []struct {
		field string
		to    map[string]string
	}{{"affinity", p.Affinity}, {"anti_affinity", p.AntiAffinity}} {
		for _, app := range sortedKeys(rel.to) {
			at := join(rel.field, keyPath(app))
			errs.Add(at, CheckName(app))
			if !labelRE.MatchString(rel.to[app]) {
				errs.Addf(at, "%q is neither node nor a label key", rel.to[app])
			}
		}
	}
	for i, t := range p.Tolerate {
		key, value, _ := strings.Cut(t, "=")
		if !labelRE.MatchString(key) || value != "" && !labelRE.MatchString(value) {
			errs.Addf(index("tolerate", i), "%q is not a taint: want key=value, or a key for any value", t)
		}
	}
	if n := p.Priority; n != nil && (*n < 0 || *n > 100) {
		errs.Addf("priority", "%d is out of range: want 0 to 100", *n)
	}
	return errs.Err()
}

func (p *Placement) withDefaults() *Placement {
	in := Deref(p)
	in.Priority = or(in.Priority, DefaultPriority)
	return &in
}

// SelectsAll reports whether labels are what a selector wants of each.
func SelectsAll(want, labels map[string]string) bool {
	for k, v := range want {
		have, ok := labels[k]
		if !Selects(v, have, ok) {
			return false
		}
	}
	return true
}

// SelectorText is a selector in words: zone=a|b, disk=ssd.
func SelectorText(want map[string]string) string {
	var out []string
	for _, k := range sortedKeys(want) {
		out = append(out, k+"="+want[k])
	}
	return strings.Join(out, ", ")
}

// Refuses says why a node is not for pods of a placement, whatever runs there:
// as what it is, such as "tainted dedicated=shop". "" takes them. Health is not
// its word.
func (s NodeSpec) Refuses(labels map[string]string, p *Placement) string {
	want := Deref(p)
	if why := s.Closed(); why != "" {
		return why
	}
	if taint := Untolerated(s.Taints, want.Tolerate); taint != "" {
		return "tainted " + taint
	}
	if !SelectsAll(want.Require, labels) {
		return "not labelled " + SelectorText(want.Require)
	}
	return ""
}

// Untolerated returns the first taint that a pod's tolerations do not cover, as
// key=value, or "".
func Untolerated(taints map[string]string, tolerate []string) string {
	for _, key := range sortedKeys(taints) {
		value, _ := SplitTaint(taints[key])
		taint := key
		if value != "" {
			taint += "=" + value
		}
		if !slices.Contains(tolerate, taint) && !slices.Contains(tolerate, key) {
			return taint
		}
	}
	return ""
}

// checkSelector accepts labels whose values may be a|b or !a.
func checkSelector(m map[string]string) error {
	var errs Errors
	for _, k := range sortedKeys(m) {
		if !labelRE.MatchString(k) {
			errs.Addf(keyPath(k), "label key: want letters, digits, '.', '_', '/' and '-', at most 63")
		}
		for v := range strings.SplitSeq(strings.TrimPrefix(m[k], "!"), "|") {
			if v != "" && !labelRE.MatchString(v) {
				errs.Addf(keyPath(k), "label value: want letters, digits, '.', '_', '/' and '-', at most 63")
			}
		}
	}
	return errs.Err()
}

// Selects reports whether a label's value is what a selector wants: the same,
// one of a|b, or not a with !a. An absent label matches only !a.
func Selects(want, have string, present bool) bool {
	if not, ok := strings.CutPrefix(want, "!"); ok {
		return !present || !Selects(not, have, present)
	}
	if !present {
		return false
	}
	for v := range strings.SplitSeq(want, "|") {
		if v == have {
			return true
		}
	}
	return false
}
