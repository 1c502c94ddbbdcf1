package api

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// EventRings hold what happened, one ring per subject.
var EventRings = &Kind[*Events]{
	Name: "Event", Plural: "events", Aliases: []string{"event", "ev"}, Scope: Namespaced, Derived: true,
	Doc: "What happened to one object, newest last. Events of cluster-scoped objects live in namespace default.",
	Columns: []Column[*Events]{
		{Name: "SUBJECT", Of: func(e *Events) string { return e.Spec.Subject.String() }},
		{Name: "LAST", Of: func(e *Events) string { return Age(e.Spec.last().Last) }},
		{Name: "REASON", Of: func(e *Events) string { return e.Spec.last().Reason }},
		{Name: "MESSAGE", Of: func(e *Events) string { return e.Spec.last().Message }},
	},
}

// Events is the ring of one subject. Its name is <kind>-<name>.
type Events = Object[EventsSpec, EventsStatus]

// EventsOf names the ring of a subject. That of a cluster-scoped one lives in
// the default namespace.
func EventsOf(subject Ref) Ref {
	return EventRings.Ref(cmp.Or(subject.Namespace, DefaultNamespace), strings.ToLower(subject.Kind)+"-"+subject.Name)
}

// MaxEvents is how many entries a ring keeps.
const MaxEvents = 20

// EventsSpec is written by the API server, from what parts report.
type EventsSpec struct {
	Subject Ref     `json:"subject"`
	Entries []Event `json:"entries,omitempty"`
}

// Event is one thing that happened; the same again only counts.
type Event struct {
	Warning bool      `json:"warning,omitempty"`
	Reason  string    `json:"reason" doc:"One word: created, bound, killed, crash_loop, rolled_back, …"`
	Message string    `json:"message"`
	By      string    `json:"by,omitempty" doc:"The part that saw it."`
	Count   int       `json:"count,omitempty"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// EventReport is the body of POST /v1/events.
type EventReport struct {
	Subject Ref   `json:"subject"`
	Event   Event `json:"event"`
}

// Validate reports every violation.
func (s EventsSpec) Validate() error {
	if len(s.Entries) > MaxEvents {
		return Errors{{"entries", fmt.Sprintf("more than %d", MaxEvents)}}
	}
	return nil
}

// WithDefaults returns s.
func (s EventsSpec) WithDefaults() EventsSpec { return s }

func (s EventsSpec) last() Event {
	if len(s.Entries) == 0 {
		return Event{}
	}
	return s.Entries[len(s.Entries)-1]
}

// EventsStatus is empty: events are all spec.
type EventsStatus struct{}
