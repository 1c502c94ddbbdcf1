package api

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Code is the class of an Error. It is also its HTTP status.
type Code int

const (
	BadRequest      Code = 400
	Unauthenticated Code = 401
	Denied          Code = 403
	NotFound        Code = 404
	Conflict        Code = 409 // exists already, or the state does not allow it
	Gone            Code = 410 // the revision asked for is compacted: list again
	Precondition    Code = 412 // changed since it was read
	TooLarge        Code = 413
	Invalid         Code = 422 // field errors in Fields
	TooMany         Code = 429
	Internal        Code = 500
	Unready         Code = 503 // no leader, starting, overloaded: try again
)

// Error is the one error type that crosses the wire: RFC 9457 problem+json.
type Error struct {
	Code    Code         `json:"status"`
	Title   string       `json:"title,omitempty"`
	Message string       `json:"detail"`
	Ref     *Ref         `json:"ref,omitempty"`
	Fields  []FieldError `json:"errors,omitempty"`

	// Uncertain says that an earlier try of the same write got no answer: it may
	// have been carried out, and others may have written since. The client knows.
	Uncertain bool `json:"-"`
}

// FieldError locates one violation.
type FieldError struct {
	Path    string `json:"path"` // spec.health.port
	Message string `json:"message"`
}

func (e FieldError) Error() string { return e.Path + ": " + e.Message }

func (e *Error) Error() string {
	var b strings.Builder
	if e.Ref != nil {
		b.WriteString(e.Ref.String() + ": ")
	}
	b.WriteString(e.Message)
	for i, f := range e.Fields {
		b.WriteString([]string{": ", "; "}[min(i, 1)] + f.Error())
	}
	return b.String()
}

// At returns what the error says of one of its fields.
func (e *Error) At(f FieldError) string { return e.Message + ": " + f.Message }

// Errorf returns an Error of the class.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the class of err: 0 for nil, Internal when it has none.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// Is reports whether err is an Error of the class.
func Is(err error, code Code) bool { return CodeOf(err) == code }

// Errors collects field errors. The zero value is empty.
type Errors []FieldError

func (e Errors) Error() string {
	parts := make([]string, len(e))
	for i, f := range e {
		parts[i] = f.Error()
	}
	return strings.Join(parts, "; ")
}

// Add records err at path; an Errors is recorded field by field below path.
func (e *Errors) Add(path string, err error) {
	if err == nil {
		return
	}
	if nested, ok := errors.AsType[Errors](err); ok {
		for _, f := range nested {
			*e = append(*e, FieldError{join(path, f.Path), f.Message})
		}
		return
	}
	*e = append(*e, FieldError{path, err.Error()})
}

// Addf records a violation at path.
func (e *Errors) Addf(path, format string, args ...any) {
	*e = append(*e, FieldError{path, fmt.Sprintf(format, args...)})
}

// Err returns nil when nothing was recorded.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

func join(a, b string) string {
	switch {
	case a == "" || b == "":
		return cmp.Or(a, b)
	case strings.HasPrefix(b, "["):
		return a + b
	}
	return a + "." + b
}

// index names an element of a list.
func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
