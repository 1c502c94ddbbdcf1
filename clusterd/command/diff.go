package command

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// specDiff says field by field how one declared spec differs from the one
// before it, as Terraform would:
//
//	~ image nginx:1.0 -> nginx:2.0
//	+ env.LEVEL info
//	- health.http /
func specDiff(was, is json.RawMessage) []string {
	return mapDiff("", flat(was), flat(is))
}

// mapDiff is specDiff of what is flat already; under names where it belongs.
func mapDiff(under string, was, is map[string]string) (lines []string) {
	all := maps.Clone(was)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, is)
	for _, at := range slices.Sorted(maps.Keys(all)) {
		before, had := was[at]
		now, has := is[at]
		name := at
		if under != "" {
			name = under + "." + at
		}
		switch {
		case !had:
			lines = append(lines, fmt.Sprintf("+ %s %s", name, now))
		case !has:
			lines = append(lines, fmt.Sprintf("- %s %s", name, before))
		case before != now:
			lines = append(lines, fmt.Sprintf("~ %s %s -> %s", name, before, now))
		}
	}
	return lines
}

// flat returns the leaves of a JSON value by their paths.
func flat(raw json.RawMessage) map[string]string {
	out := map[string]string{}
	var v any
	if len(raw) == 0 || json.Unmarshal(raw, &v) != nil {
		return out
	}
	flatten(out, "", v)
	return out
}

func flatten(out map[string]string, at string, v any) {
	below := func(key string) string {
		if at == "" {
			return key
		}
		return at + "." + key
	}
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 && at != "" {
			out[at] = "{}"
		}
		for k, x := range v {
			flatten(out, below(k), x)
		}
	case []any:
		if len(v) == 0 {
			out[at] = "[]"
		}
		for i, x := range v {
			flatten(out, at+"["+strconv.Itoa(i)+"]", x)
		}
	case string:
		out[at] = v
	default:
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // it was JSON
		}
		out[at] = string(b)
	}
}
