package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// table is text in columns.
type table struct {
	header []string
	rows   [][]string
}

// tableOf makes the table of objects of the query's kind.
func tableOf(q query, items []json.RawMessage) (table, error) {
	wide, namespaced := q.output == "wide", q.kind.Info().Scope == api.Namespaced && q.ns == ""
	var t table
	if namespaced {
		t.header = append(t.header, "NAMESPACE")
	}
	t.header = append(append(t.header, "NAME"), q.kind.Header(wide)...)
	for _, raw := range items {
		o := q.kind.New()
		if err := json.Unmarshal(raw, o); err != nil {
			return t, fmt.Errorf("decode %s: %w", q.kind.Info().Name, err)
		}
		var row []string
		if namespaced {
			row = append(row, o.GetMeta().Namespace)
		}
		t.rows = append(t.rows, append(append(row, o.GetMeta().Name), q.kind.Row(o, wide)...))
	}
	return t, nil
}

// gap is the space between columns.
const gap = 3

// widths are those of the columns, at least as given.
func (t table) widths(least []int) []int {
	w := append([]int{}, least...)
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			if i == len(w) {
				w = append(w, 0)
			}
			w[i] = max(w[i], utf8.RuneCountInString(oneLine(cell)))
		}
	}
	return w
}

func (t table) print(w io.Writer) error { return t.printWidths(w, t.widths(nil)) }

func (t table) printWidths(w io.Writer, widths []int) error {
	var b strings.Builder
	rows := t.rows
	if t.header != nil {
		rows = append([][]string{t.header}, rows...)
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			cell = oneLine(cell)
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]+gap-utf8.RuneCountInString(cell)))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " ") }
