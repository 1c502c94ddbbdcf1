package provider

import (
	"cmp"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/hashicorp/terraform-plugin-framework/path"
)

// field is one field of an API type: an attribute of the same name.
type field struct {
	name     string
	index    []int
	typ      reflect.Type
	doc      string
	required bool
	sparse   bool // left out of JSON when it is zero
}

// known keeps what fields found out about a type: a plan of many resources asks
// for the same few types all the time.
var known sync.Map // reflect.Type → []field

// fields lists the fields of an API struct in order, embedded ones in place. The
// list is shared.
func fields(t reflect.Type) []field {
	if all, ok := known.Load(t); ok {
		return all.([]field)
	}
	var out []field
	for f := range t.Fields() {
		if f.Anonymous {
			for _, in := range fields(f.Type) {
				in.index = append([]int{f.Index[0]}, in.index...)
				out = append(out, in)
			}
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		sparse := strings.Contains(options, "omit")
		out = append(out, field{
			name: name, index: f.Index, typ: f.Type, sparse: sparse, doc: describe(f.Tag),
			required: !sparse || f.Tag.Get("required") == "true",
		})
	}
	known.Store(t, out)
	return out
}

// describe renders a field's doc with its default, for the registry.
func describe(tag reflect.StructTag) string {
	doc := tag.Get("doc")
	if enum := tag.Get("enum"); enum != "" && !strings.Contains(doc, enum[:strings.IndexByte(enum+",", ',')]) {
		doc += " One of `" + strings.ReplaceAll(enum, ",", "`, `") + "`."
	}
	if def := tag.Get("default"); def != "" {
		doc += " Default: `" + def + "`."
	}
	return doc
}

// attributePath translates where the API found a fault (spec.health.port,
// spec.env["A B"], meta.name) into the attribute that says it. What has no
// attribute leads to the nearest one above it.
func attributePath(at string, spec reflect.Type) path.Path {
	p, rest := path.Empty(), at
	switch section, below := nextStep(at); section {
	case "meta":
		name, below := nextStep(below)
		if name != "labels" {
			return p.AtName(name)
		}
		p, rest, spec = p.AtName(name), below, reflect.TypeFor[map[string]string]()
	case "spec":
		rest = below
	}
	for rest != "" {
		for spec.Kind() == reflect.Pointer {
			spec = spec.Elem()
		}
		var step string
		step, rest = nextStep(rest)
		switch spec.Kind() {
		case reflect.Struct:
			f, ok := fieldNamed(spec, step)
			if !ok {
				return p
			}
			p, spec = p.AtName(step), f.typ
		case reflect.Map:
			p, spec = p.AtMapKey(step), spec.Elem()
		case reflect.Slice:
			i, err := strconv.Atoi(step)
			if err != nil {
				return p
			}
			p, spec = p.AtListIndex(i), spec.Elem()
		default:
			return p
		}
	}
	return p
}

func fieldNamed(t reflect.Type, name string) (field, bool) {
	for _, f := range fields(t) {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// nextStep cuts the first step off a field path: a.b, a["b c"] or a[0].
func nextStep(at string) (step, rest string) {
	at = strings.TrimPrefix(at, ".")
	if quoted, ok := strings.CutPrefix(at, "["); ok {
		if q, err := strconv.QuotedPrefix(quoted); err == nil {
			step, _ = strconv.Unquote(q)
			return step, strings.TrimPrefix(quoted[len(q):], "]")
		}
		step, rest, _ = strings.Cut(quoted, "]")
		return step, rest
	}
	end := strings.IndexAny(at, ".[")
	if end < 0 {
		return at, ""
	}
	return at[:end], at[end:]
}

// visible is the place Terraform can show for p: it finds a top attribute, and
// one key in its object. Of anything deeper it shows the head of the resource.
func visible(p path.Path) path.Path {
	steps := p.Steps()
	if len(steps) < 2 {
		return p
	}
	name, _ := steps[0].(path.PathStepAttributeName)
	top := path.Root(string(name))
	switch s := steps[1].(type) {
	case path.PathStepAttributeName:
		return top.AtMapKey(string(s))
	case path.PathStepElementKeyString:
		return top.AtMapKey(string(s))
	}
	return top
}

// dotted names what p leads to, for the headline of a diagnostic: sidecars.log.cpu.
func dotted(p path.Path) string {
	var b strings.Builder
	for _, s := range p.Steps() {
		switch s := s.(type) {
		case path.PathStepAttributeName:
			b.WriteString("." + string(s))
		case path.PathStepElementKeyString:
			if plain.MatchString(string(s)) {
				b.WriteString("." + string(s))
			} else {
				b.WriteString(s.String())
			}
		default:
			b.WriteString(s.String())
		}
	}
	return cmp.Or(strings.TrimPrefix(b.String(), "."), "configuration")
}

var plain = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// within reports whether p is at or below top.
func within(p, top path.Path) bool {
	steps, want := p.Steps(), top.Steps()
	return len(steps) >= len(want) && steps[:len(want)].Equal(want)
}

// shape is a path with every map key and list index as *: ports.*.port.
func shape(p path.Path) string {
	var out []string
	for _, s := range p.Steps() {
		if name, ok := s.(path.PathStepAttributeName); ok {
			out = append(out, string(name))
		} else {
			out = append(out, "*")
		}
	}
	return strings.Join(out, ".")
}

// capital starts a sentence.
func capital(s string) string {
	r := []rune(s)
	if len(r) > 0 {
		r[0] = unicode.ToUpper(r[0])
	}
	return string(r)
}

// sentence makes a message one: errors have neither a capital nor a full stop.
func sentence(s string) string {
	if first, _, _ := strings.Cut(s, " "); !strings.Contains(first, "://") {
		s = capital(s)
	}
	if strings.HasSuffix(s, "?") || strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}
