// Package api is the vocabulary of clusterd: every kind of object, how it is
// validated and what it means. HCL attributes, JSON fields, CLI columns and
// log keys all use the names declared here.
//
// Invariants: a spec holds only what its author declared, and is kept
// verbatim; Effective is the spec with every default filled in, fixed when the
// spec was written; Status is written by the system alone. The package imports
// nothing but the standard library and what reads schedules.
package api

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Ref names one object. It is comparable, and prints as kind/namespace/name.
type Ref struct {
	Kind      string `json:"kind,omitempty" doc:"Kind of the object, such as App."`
	Namespace string `json:"namespace,omitempty" doc:"Namespace; empty for cluster-scoped kinds."`
	Name      string `json:"name" doc:"Name of the object."`
}

func (r Ref) String() string {
	if r.Namespace == "" {
		return strings.ToLower(r.Kind) + "/" + r.Name
	}
	return strings.ToLower(r.Kind) + "/" + r.Namespace + "/" + r.Name
}

// Meta is the part every object has.
type Meta struct {
	Name       string            `json:"name" doc:"Unique within kind and namespace; a DNS label."`
	Namespace  string            `json:"namespace,omitempty" doc:"The team the object belongs to; empty for cluster-scoped kinds."`
	UID        string            `json:"uid,omitempty" readOnly:"true" doc:"Identity of this incarnation; never reused."`
	Labels     map[string]string `json:"labels,omitempty" doc:"Free key/value pairs to select objects by."`
	Owner      *Ref              `json:"owner,omitempty" doc:"The object this one was made for."`
	Revision   int64             `json:"revision,omitempty" readOnly:"true" doc:"Store revision of the last change of any part."`
	Generation int64             `json:"generation,omitempty" readOnly:"true" doc:"Counts changes of the spec, from 1."`
	CreatedAt  time.Time         `json:"created_at,omitzero" readOnly:"true" doc:"When the object was created."`
	DeletedAt  *time.Time        `json:"deleted_at,omitempty" readOnly:"true" doc:"When deletion was asked for; the owning loop finishes it."`
	WrittenBy  string            `json:"written_by,omitempty" readOnly:"true" doc:"Who last wrote the spec."`
	WrittenAt  time.Time         `json:"written_at,omitzero" readOnly:"true" doc:"When the spec was last written."`
	WriteID    string            `json:"write_id,omitempty" readOnly:"true" doc:"Request id of the last write; makes a retried write replay its result."`
}

// Now is the time as objects carry it: what is written and read back compares equal.
func Now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// Deleting reports whether deletion was asked for.
func (m *Meta) Deleting() bool { return m.DeletedAt != nil }

// Spec is what an object's author declares.
type Spec[S any] interface {
	// Validate reports every violation as an Errors with field paths below "spec".
	Validate() error
	// WithDefaults returns the effective spec: every unset field filled in.
	WithDefaults() S
}

// Object is one resource: what is wanted, what that means, and what is so.
type Object[S Spec[S], T any] struct {
	Kind string `json:"kind,omitempty"`
	Meta Meta   `json:"meta"`
	Spec S      `json:"spec"`
	// Effective is Spec with its defaults, for declared kinds; zero for derived ones.
	Effective S `json:"effective,omitzero" readOnly:"true"`
	Status    T `json:"status,omitzero" readOnly:"true"`
}

// Ref names the object.
func (o *Object[S, T]) Ref() Ref { return Ref{o.Kind, o.Meta.Namespace, o.Meta.Name} }

// GetMeta returns the object's meta.
func (o *Object[S, T]) GetMeta() *Meta { return &o.Meta }

// GetSpec returns the object's spec, a *S.
func (o *Object[S, T]) GetSpec() any { return &o.Spec }

// GetEffective returns the object's spec with its defaults, a *S.
func (o *Object[S, T]) GetEffective() any { return &o.Effective }

// GetStatus returns the object's status, a *T.
func (o *Object[S, T]) GetStatus() any { return &o.Status }

// WithKind returns a shallow copy that says its kind.
func (o *Object[S, T]) WithKind(name string) Any {
	c := *o
	c.Kind = name
	return &c
}

// Absent reports whether there is no object: o is nil.
func (o *Object[S, T]) Absent() bool { return o == nil }

func (o *Object[S, T]) setKind(name string) { o.Kind = name }
func (o *Object[S, T]) checkSpec() error    { return o.Spec.Validate() }
func (o *Object[S, T]) setEffective()       { o.Effective = Clone(o.Spec).WithDefaults() }

// Any is an object of any kind: a *Object[S, T]. What handles all kinds alike
// takes it as its type parameter and stays as typed as its caller. The compiler
// makes such code once, for a pointer to whatever: it need not know S and T.
type Any interface {
	Ref() Ref
	GetMeta() *Meta
	GetSpec() any
	GetEffective() any
	GetStatus() any
	WithKind(name string) Any
	Absent() bool

	setKind(name string)
	checkSpec() error
	setEffective()
}

// Scope says whether objects of a kind live in a namespace.
type Scope int

const (
	Namespaced Scope = iota + 1
	Cluster
)

// Kind describes one kind of object, such as Kind[*App].
type Kind[O Any] struct {
	Name    string // "App"
	Plural  string // "apps"
	Aliases []string
	Doc     string
	Scope   Scope
	// Derived kinds are written by loops, not by users; they have no effective spec.
	Derived bool
	// TwoStep kinds are only marked by DELETE; the owning loop removes them.
	TwoStep bool
	// Parts are keys of the status with a writer and a sub-path of their own.
	Parts []string
	// Indexes are the filters, besides labels, of list and watch.
	Indexes map[string]func(O) string
	// Columns are the CLI's table, after NAMESPACE and NAME.
	Columns []Column[O]
}

// Column is one column of the CLI's table of a kind.
type Column[O Any] struct {
	Name string
	Wide bool // only with -o wide
	Of   func(O) string
}

// Ref names an object of the kind.
func (k *Kind[O]) Ref(namespace, name string) Ref { return Ref{k.Name, namespace, name} }

// Info is the untyped view of a Kind.
type Info struct {
	Name, Plural, Doc string
	Aliases           []string
	Scope             Scope
	Derived, TwoStep  bool
	Parts             []string
	Indexes           []string
	Object            reflect.Type // Object[S, T]
	Spec, Status      reflect.Type
}

// AnyKind is a Kind whose types are erased: what one table of all kinds holds.
type AnyKind interface {
	Info() Info
	// New returns an empty object: a *Object[S, T].
	New() Any
	// Check validates names and spec of an object of this kind.
	Check(Any) error
	// Default fills Effective from Spec, for declared kinds.
	Default(Any)
	// Index returns the value of an index filter, such as "node" of a pod.
	Index(name string, o Any) string
	// Row returns the CLI columns of an object, and Header their names.
	Header(wide bool) []string
	Row(o Any, wide bool) []string
}

// Info returns the untyped view of k.
func (k *Kind[O]) Info() Info {
	object := reflect.TypeFor[O]().Elem()
	spec, _ := object.FieldByName("Spec")
	status, _ := object.FieldByName("Status")
	return Info{k.Name, k.Plural, k.Doc, k.Aliases, k.Scope, k.Derived, k.TwoStep, k.Parts, sortedKeys(k.Indexes), object, spec.Type, status.Type}
}

// New returns an empty object of the kind.
func (k *Kind[O]) New() Any { return k.Make() }

// Make is New, typed.
func (k *Kind[O]) Make() O {
	o := reflect.New(reflect.TypeFor[O]().Elem()).Interface().(O)
	o.setKind(k.Name)
	return o
}

// Check validates names and spec.
func (k *Kind[O]) Check(o Any) error {
	var errs Errors
	m := o.GetMeta()
	errs.Add("meta.name", CheckName(m.Name))
	if k.Scope == Namespaced {
		errs.Add("meta.namespace", CheckName(m.Namespace))
	} else if m.Namespace != "" {
		errs.Addf("meta.namespace", "%s is cluster-scoped: leave the namespace out", k.Name)
	}
	errs.Add("meta.labels", checkLabels(m.Labels))
	errs.Add("spec", o.checkSpec())
	return errs.Err()
}

// Default fills Effective.
func (k *Kind[O]) Default(o Any) {
	if !k.Derived {
		o.setEffective()
	}
}

// Index returns the value of an index filter.
func (k *Kind[O]) Index(name string, o Any) string {
	if f := k.Indexes[name]; f != nil {
		return f(o.(O))
	}
	return ""
}

// Header names the CLI columns.
func (k *Kind[O]) Header(wide bool) []string {
	var out []string
	for _, c := range k.Columns {
		if wide || !c.Wide {
			out = append(out, c.Name)
		}
	}
	return out
}

// Row fills the CLI columns.
func (k *Kind[O]) Row(o Any, wide bool) []string {
	var out []string
	for _, c := range k.Columns {
		if wide || !c.Wide {
			out = append(out, c.Of(o.(O)))
		}
	}
	return out
}

// List is what a list answers.
type List[O Any] struct {
	Items    []O    `json:"items"`
	Revision int64  `json:"revision" doc:"Store revision the list was read at; watch from here."`
	Continue string `json:"continue,omitempty" doc:"Pass as ?continue= to get the next page."`
}

// EventType says what a watch line means.
type EventType string

const (
	EventPut      EventType = "put"
	EventDelete   EventType = "delete"   // the object as it last was
	EventBookmark EventType = "bookmark" // nothing up to Revision was missed
	EventError    EventType = "error"    // the stream ends; Error says why
)

// WatchEvent is one line of a watch.
type WatchEvent[O Any] struct {
	Type     EventType `json:"type"`
	Revision int64     `json:"revision"`
	Object   O         `json:"object,omitempty"`
	Error    *Error    `json:"error,omitempty"`
}

// Lookup finds a kind by name, plural or alias, whatever the case.
func Lookup(word string) (AnyKind, error) {
	w := strings.ToLower(word)
	var known []string
	for _, k := range Kinds {
		i := k.Info()
		if w == strings.ToLower(i.Name) || w == i.Plural {
			return k, nil
		}
		for _, a := range i.Aliases {
			if w == a {
				return k, nil
			}
		}
		known = append(known, i.Plural)
	}
	return nil, fmt.Errorf("unknown kind %q: want one of %s", word, strings.Join(known, ", "))
}
