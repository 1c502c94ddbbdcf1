package api

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestRuleIsReadAsItPrints: what a table shows can be given again.
func TestRuleIsReadAsItPrints(t *testing.T) {
	for _, text := range []string{"read nodes", "read,logs pods in shop", "* * in *", "read,write apps,services in shop,other"} {
		r, err := ParseRule(text)
		if err != nil || r.String() != text {
			t.Errorf("%q is read as %q: %v", text, r, err)
		}
	}
	for text, want := range map[string]string{
		"":                    "want verbs, kinds and namespaces",
		"read":                "want verbs, kinds and namespaces",
		"read pods at shop":   "want verbs, kinds and namespaces",
		"view pods in shop":   `"view" is no verb`,
		"read pod in shop":    `"pod" is no kind`,
		"read pods":           "pods are in namespaces: say which",
		"read nodes in shop":  "nodes are in no namespace",
		"exec apps in shop":   "nobody can exec apps",
		"read pods in Shop_1": "namespaces[0]",
	} {
		if _, err := ParseRule(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestLackIsWhatCannotBeGiven: rights lack nothing of others exactly if no right
// is given by the others that is not given by them.
func TestLackIsWhatCannotBeGiven(t *testing.T) {
	rules := rapid.Custom(func(t *rapid.T) Rights {
		some := func(label string, least int, of ...string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), least, 3, rapid.ID).Draw(t, label)
		}
		var all Rights
		for range rapid.IntRange(1, 3).Draw(t, "n") {
			all = append(all, Rule{some("namespaces", 0, "a", "b", "*"), some("kinds", 1, "apps", "pods", "*"), some("verbs", 1, "read", "write", "*")})
		}
		return all
	})
	rapid.Check(t, func(t *rapid.T) {
		has, gives := rules.Draw(t, "has"), rules.Draw(t, "gives")
		// c, jobs and bind are named by no rule: only * gives them.
		more := false
		for _, ns := range []string{"", "a", "b", "c"} {
			for _, kind := range []string{"apps", "pods", "jobs"} {
				for _, verb := range []Verb{VerbRead, VerbWrite, VerbBind} {
					right := Right{ns, kind, verb}
					more = more || gives.Give(right) && !has.Give(right)
				}
			}
		}
		lack, lacks := has.Lack(gives)
		if lacks != more {
			t.Fatalf("lack %v, %v; a right more: %v", lack, lacks, more)
		}
		if _, lacks := has.Lack(has); lacks {
			t.Fatal("rights lack what they have")
		}
		if _, lacks := AllRights().Lack(gives); lacks {
			t.Fatal("an admin lacks something")
		}
	})
}

// TestEveryVerbIsOfSomeKind: or no role could give it; and the docs name it.
func TestEveryVerbIsOfSomeKind(t *testing.T) {
	field, _ := reflect.TypeFor[Rule]().FieldByName("Verbs")
	for _, v := range verbs {
		if !slices.ContainsFunc(Kinds, func(k AnyKind) bool { return slices.Contains(VerbsOf(k.Info()), v) }) {
			t.Errorf("nobody can %s anything", v)
		}
		if !strings.Contains(field.Tag.Get("doc"), string(v)+",") {
			t.Errorf("the docs of verbs do not name %s", v)
		}
	}
}
