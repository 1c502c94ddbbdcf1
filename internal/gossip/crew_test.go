package gossip

import (
	"slices"
	"testing"
)

func TestCrew(t *testing.T) {
	name, meta := Crew("h", 3)
	if got := (Member{Name: name, Meta: meta}).Crew(); !slices.Equal(got, []string{"h-1", "h-2", "h-3"}) {
		t.Errorf("the crew is %q", got)
	}
	for _, m := range []Member{
		{Name: "node:h", Meta: []byte("3")}, {Name: "crew:h"}, {Name: "crew:h", Meta: []byte("-1")},
		{Name: "crew:h", Meta: []byte("20001")}, {Name: "crew:h", Meta: []byte("many")},
	} {
		if got := m.Crew(); got != nil {
			t.Errorf("%+v speaks for %d nodes", m, len(got))
		}
	}
}
