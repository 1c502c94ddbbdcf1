package api

import (
	"fmt"
	"slices"
	"strings"
)

// Roles say what tokens may do.
var Roles = &Kind[*Role]{
	Name: "Role", Plural: "roles", Aliases: []string{"role"}, Scope: Cluster,
	Doc: "What tokens that have it may do: rules of namespaces, kinds and verbs. What no rule gives is denied.",
	Columns: []Column[*Role]{
		{Name: "RULES", Of: func(r *Role) string { return fmt.Sprint(len(r.Spec.Rules)) }},
		{Name: "GIVES", Wide: true, Of: func(r *Role) string {
			var all []string
			for _, rule := range r.Spec.Rights() {
				all = append(all, rule.String())
			}
			return strings.Join(all, "; ")
		}},
		{Name: "AGE", Of: func(r *Role) string { return Age(r.Meta.CreatedAt) }},
	},
}

// Role is a set of rules with a name.
type Role = Object[RoleSpec, RoleStatus]

// RoleSpec is what its author declares.
type RoleSpec struct {
	Description string          `json:"description,omitempty" doc:"What the role is for."`
	Rules       map[string]Rule `json:"rules" doc:"What it gives, each under a name of its own: the sum of all. Nothing takes anything away."`
}

// RoleStatus is empty: a role only is.
type RoleStatus struct{}

// Every stands for all names, also those to come.
const Every = "*"

// Rule gives each of its verbs on each of its kinds in each of its namespaces.
type Rule struct {
	Namespaces []string `json:"namespaces,omitempty" doc:"Where: names of namespaces, or \"*\" for all, and for kinds that are in none. Left out: kinds that are in none only."`
	Kinds      []string `json:"kinds" doc:"Of what: plurals such as apps, or \"*\" for all."`
	Verbs      []string `json:"verbs" doc:"What: read, plan, write, delete, finalize, status, report, logs, exec, connect, move, bind, load, join, rotate, snapshot, or \"*\" for all."`
}

// String is the rule as ParseRule reads it: "read,logs pods in shop".
func (r Rule) String() string {
	text := strings.Join(r.Verbs, ",") + " " + strings.Join(r.Kinds, ",")
	if len(r.Namespaces) > 0 {
		text += " in " + strings.Join(r.Namespaces, ",")
	}
	return text
}

// ParseRule reads a rule: verbs, kinds, and after "in" namespaces.
func ParseRule(text string) (Rule, error) {
	words := strings.Fields(text)
	if len(words) != 2 && (len(words) != 4 || words[2] != "in") {
		return Rule{}, fmt.Errorf("%q: want verbs, kinds and namespaces, such as \"read,logs pods in shop\", or \"read nodes\"", text)
	}
	r := Rule{Verbs: strings.Split(words[0], ","), Kinds: strings.Split(words[1], ",")}
	if len(words) == 4 {
		r.Namespaces = strings.Split(words[3], ",")
	}
	return r, r.validate()
}

// HCL is the rule as it is written in a role.
func (r Rule) HCL() string {
	list := func(name string, words []string) string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = fmt.Sprintf("%q", w)
		}
		return name + " = [" + strings.Join(quoted, ", ") + "]"
	}
	parts := []string{list("kinds", r.Kinds), list("verbs", r.Verbs)}
	if len(r.Namespaces) > 0 {
		parts = slices.Insert(parts, 0, list("namespaces", r.Namespaces))
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// Right is one thing to do: a verb on a kind, by its plural, in a namespace; ""
// is where the objects are that are in none.
type Right struct {
	Namespace, Kind string
	Verb            Verb
}

// Rule returns the rule that gives just that right.
func (r Right) Rule() Rule {
	rule := Rule{Kinds: []string{r.Kind}, Verbs: []string{string(r.Verb)}}
	if r.Namespace != "" {
		rule.Namespaces = []string{r.Namespace}
	}
	return rule
}

// RightTo returns the right to do verb to the object of a kind, or to all of
// them: name is empty then, and so is the namespace if all of them are meant. To
// read a namespace is a right in it; to change it, which sets its quota and
// powers, is not.
func RightTo(verb Verb, k Info, namespace, name string) Right {
	switch {
	case k.Scope == Namespaced && namespace == "":
		namespace = Every
	case k.Name == Namespaces.Name && verb == VerbRead && name != "":
		namespace = name
	}
	return Right{namespace, k.Plural, verb}
}

// Gives reports whether the rule gives the right.
func (r Rule) Gives(right Right) bool {
	// "*" is asked for where all are meant, and is given by "*" alone.
	has := func(words []string, want string) bool {
		return slices.Contains(words, want) || slices.Contains(words, Every)
	}
	verbs := has(r.Verbs, string(right.Verb)) || right.Verb == VerbPlan && has(r.Verbs, string(VerbWrite))
	return verbs && has(r.Kinds, right.Kind) && (right.Namespace == "" && len(r.Namespaces) == 0 || has(r.Namespaces, right.Namespace))
}

// Rights are rules, of one role or of several.
type Rights []Rule

// AllRights returns the rights of an admin: everything.
func AllRights() Rights {
	return Rights{{Namespaces: []string{Every}, Kinds: []string{Every}, Verbs: []string{Every}}}
}

// Give reports whether one of the rules gives the right.
func (r Rights) Give(right Right) bool {
	return slices.ContainsFunc(r, func(rule Rule) bool { return rule.Gives(right) })
}

// Lack returns the first right that others has and r has not: who has r may not
// give others to anybody.
func (r Rights) Lack(others Rights) (Right, bool) {
	for _, rule := range others {
		where := rule.Namespaces
		if len(where) == 0 {
			where = []string{""}
		}
		for _, ns := range where {
			for _, kind := range rule.Kinds {
				for _, verb := range rule.Verbs {
					if right := (Right{ns, kind, Verb(verb)}); !r.Give(right) {
						return right, true
					}
				}
			}
		}
	}
	return Right{}, false
}

// In returns the namespaces in which r gives a right of which the namespace is
// left open.
func (r Rights) In(right Right) (all []string) {
	for _, rule := range r {
		for _, ns := range rule.Namespaces {
			if right.Namespace = ns; ns != Every && rule.Gives(right) && !slices.Contains(all, ns) {
				all = append(all, ns)
			}
		}
	}
	slices.Sort(all)
	return all
}

// Validate reports every violation.
func (s RoleSpec) Validate() error {
	var errs Errors
	if len(s.Rules) == 0 {
		errs.Addf("rules", "required: a role without rules gives nothing")
	}
	for _, name := range sortedKeys(s.Rules) {
		at := join("rules", keyPath(name))
		errs.Add(at, CheckName(name))
		errs.Add(at, s.Rules[name].validate())
	}
	return errs.Err()
}

// Rights returns what the role gives.
func (s RoleSpec) Rights() (all Rights) {
	for _, name := range sortedKeys(s.Rules) {
		all = append(all, s.Rules[name])
	}
	return all
}

// WithDefaults returns s.
func (s RoleSpec) WithDefaults() RoleSpec { return s }

func (r Rule) validate() error {
	var errs Errors
	for i, ns := range r.Namespaces {
		if ns != Every {
			errs.Add(fmt.Sprintf("namespaces[%d]", i), CheckName(ns))
		}
	}
	if len(r.Kinds) == 0 {
		errs.Addf("kinds", "required: plurals such as apps, or \"*\"")
	}
	if len(r.Verbs) == 0 {
		errs.Addf("verbs", "required: words such as read and write, or \"*\"")
	}
	var kinds []Info
	for i, word := range r.Kinds {
		k := kindCalled(word)
		if k == nil {
			if word != Every {
				errs.Addf(fmt.Sprintf("kinds[%d]", i), "%q is no kind: want a plural, one of %s", word, strings.Join(plurals(), ", "))
			}
			continue
		}
		kinds = append(kinds, *k)
		errs.Add(fmt.Sprintf("kinds[%d]", i), r.reaches(*k))
	}
	for i, word := range r.Verbs {
		verb := Verb(word)
		switch {
		case word == Every:
		case !slices.Contains(verbs, verb):
			errs.Addf(fmt.Sprintf("verbs[%d]", i), "%q is no verb: want one of %s", word, joined(verbs))
		case len(kinds) == len(r.Kinds) && !slices.ContainsFunc(kinds, func(k Info) bool { return slices.Contains(VerbsOf(k), verb) }):
			errs.Addf(fmt.Sprintf("verbs[%d]", i), "nobody can %s %s", word, strings.Join(r.Kinds, " or "))
		}
	}
	return errs.Err()
}

// reaches says why the rule gives nothing on objects of k.
func (r Rule) reaches(k Info) error {
	all := slices.Contains(r.Namespaces, Every)
	switch {
	case k.Scope == Namespaced && len(r.Namespaces) == 0:
		return fmt.Errorf("%s are in namespaces: say which, or \"*\"", k.Plural)
	case k.Name == Namespaces.Name && !all && len(r.Namespaces) > 0 && !slices.Contains(r.Verbs, string(VerbRead)) && !slices.Contains(r.Verbs, Every):
		return fmt.Errorf("only read is given on a namespace from within it: leave namespaces out to give %s", strings.Join(r.Verbs, ", "))
	case k.Scope == Cluster && k.Name != Namespaces.Name && !all && len(r.Namespaces) > 0:
		return fmt.Errorf("%s are in no namespace: give them in a rule of their own, without namespaces", k.Plural)
	}
	return nil
}

func kindCalled(plural string) *Info {
	for _, k := range Kinds {
		if i := k.Info(); i.Plural == plural {
			return &i
		}
	}
	return nil
}

func plurals() (all []string) {
	for _, k := range Kinds {
		all = append(all, k.Info().Plural)
	}
	return all
}
