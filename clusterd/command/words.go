package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// facts renders names and values as aligned lines; those without a value are left out.
func facts(namesAndValues ...string) (lines []string) {
	for i := 0; i < len(namesAndValues); i += 2 {
		if v := namesAndValues[i+1]; v != "" {
			lines = append(lines, fmt.Sprintf("%-12s %s", namesAndValues[i], v))
		}
	}
	return lines
}

// lines renders the table as lines.
func (t table) lines() []string {
	var b bytes.Buffer
	t.print(&b) // a buffer takes everything
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

// pairs renders a map as k=v, in the order of its keys.
func pairs(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// containerNames returns the main container, then the others by name.
func containerNames(m map[string]api.ContainerStatus) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case a == api.MainContainer:
			return -1
		case b == api.MainContainer:
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}

func resources(r api.Resources) string {
	var parts []string
	if r.CPU != "" {
		parts = append(parts, string(r.CPU)+" cpu")
	}
	if r.Memory != "" {
		parts = append(parts, string(r.Memory)+" memory")
	}
	if r.Pods > 0 {
		parts = append(parts, fmt.Sprintf("%d pods", r.Pods))
	}
	return strings.Join(parts, ", ")
}

// exitText says how a container ended, and when.
func exitText(e api.Exit) string {
	text := fmt.Sprintf("exited with code %d", e.Code)
	switch {
	case e.At.IsZero() && e.Code == 0: // the runtime has no record of it
		return "ended, and nobody saw how"
	case e.OOM:
		text = fmt.Sprintf("was killed for exceeding its memory (exit code %d)", e.Code)
	case e.Signal != 0:
		text = fmt.Sprintf("was ended by signal %d (exit code %d)", e.Signal, e.Code)
	}
	if !e.At.IsZero() {
		text += ", " + ago(e.At)
	}
	return text
}

// rolledImage is the main image of a rollout with the beginning of its digest.
func rolledImage(r api.Rollout) string {
	if digest := r.Images[r.Image]; digest != "" {
		return api.ShortImage(r.Image + "@" + digest)
	}
	return r.Image
}

// imageLines say which images a workload's references mean.
func imageLines(declared, effective api.PodTemplate) []string {
	images := api.DigestsOf(declared, effective)
	if len(images) == 0 {
		return nil
	}
	t := table{header: []string{"REFERENCE", "DIGEST"}}
	for _, ref := range slices.Sorted(maps.Keys(images)) {
		t.rows = append(t.rows, []string{ref, images[ref]})
	}
	return t.lines()
}

func rolloutLines(r api.Rollout) []string {
	if r.Generation == 0 {
		return nil
	}
	lines := facts(
		"phase", strings.ReplaceAll(string(r.Phase), "_", " "),
		"generation", fmt.Sprintf("%d, revision %s", r.Generation, r.Revision),
		"image", rolledImage(r),
		"reason", r.Reason,
		"started", ago(r.StartedAt),
		"ended", ago(r.EndedAt))
	if r.Cause != nil {
		lines = append(lines, r.Cause.Story()...)
	}
	return lines
}

// hcl renders the JSON object raw as a Terraform user would write it, keeping
// the order of its fields.
func hcl(raw json.RawMessage) []string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	return hclBody(d)
}

// hclBody reads the fields of an object up to its end.
func hclBody(d *json.Decoder) (lines []string) {
	type field struct {
		key   string
		value []string
	}
	var fields []field
	width := 0
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return lines
		}
		key, _ := t.(string)
		if !plainKey(key) {
			key = fmt.Sprintf("%q", key)
		}
		f := field{key, hclValue(d)}
		width = max(width, len(f.key))
		fields = append(fields, f)
	}
	d.Token() // the closing brace
	for _, f := range fields {
		lines = append(lines, fmt.Sprintf("%-*s = %s", width, f.key, f.value[0]))
		lines = append(lines, f.value[1:]...)
	}
	return lines
}

// hclValue reads one value; the lines after the first are indented.
func hclValue(d *json.Decoder) []string {
	t, err := d.Token()
	if err != nil {
		return []string{"?"}
	}
	switch v := t.(type) {
	case json.Delim:
		if v == '[' {
			return hclList(d)
		}
		body := hclBody(d)
		if len(body) == 0 {
			return []string{"{}"}
		}
		out := []string{"{"}
		for _, l := range body {
			out = append(out, "  "+l)
		}
		return append(out, "}")
	case string:
		return []string{quote(v)}
	case nil:
		return []string{"null"}
	default:
		return []string{fmt.Sprint(v)}
	}
}

// hclList reads the items of a list: on one line, or if any takes more than
// one, each on its own.
func hclList(d *json.Decoder) []string {
	var items [][]string
	long := false
	for d.More() {
		item := hclValue(d)
		items, long = append(items, item), long || len(item) > 1
	}
	d.Token() // the closing bracket
	if !long {
		var flat []string
		for _, item := range items {
			flat = append(flat, item[0])
		}
		return []string{"[" + strings.Join(flat, ", ") + "]"}
	}
	out := []string{"["}
	for _, item := range items {
		item[len(item)-1] += ","
		for _, l := range item {
			out = append(out, "  "+l)
		}
	}
	return append(out, "]")
}

// quote renders a string as HCL: what JSON escapes, and template marks.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s) // a string always encodes
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strings.TrimSpace(b.String()))
}

func plainKey(s string) bool {
	for i, r := range s {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r != '-' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != ""
}
