package apiserver

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// strict reports every way in which JSON does not fit a Go type: unknown,
// repeated and mistyped fields, each with its path. What it accepts,
// wire.Unmarshal decodes. It never repeats a value: one may be a secret.
func strict(raw []byte, into reflect.Type, path string) api.Errors {
	if fits(raw, into) {
		return nil
	}
	return misfits(raw, into, path)
}

// misfits is strict without the short way.
func misfits(raw []byte, into reflect.Type, path string) api.Errors {
	w := walker{dec: json.NewDecoder(bytes.NewReader(raw))}
	w.dec.UseNumber()
	err := w.value(into, path)
	if err == nil {
		if _, err = w.dec.Token(); errors.Is(err, io.EOF) {
			return w.errs
		}
		err = errors.New("more after the end of the value")
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return api.Errors{{Path: path, Message: fmt.Sprintf("not valid JSON after byte %d", w.dec.InputOffset())}}
	}
	return api.Errors{{Path: path, Message: "not valid JSON: it ends too early"}}
}

const unknownField = "unknown field"

// isUnknown tells unknown fields from mistyped ones.
func isUnknown(e api.FieldError) bool { return strings.HasPrefix(e.Message, unknownField) }

type walker struct {
	dec  *json.Decoder
	errs api.Errors
}

var (
	rawMessage      = reflect.TypeFor[json.RawMessage]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
)

// value consumes one JSON value that should fit t. Its error is one of syntax.
func (w *walker) value(t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == rawMessage || t.Kind() == reflect.Interface {
		return w.skip()
	}
	if p := reflect.PointerTo(t); p.Implements(unmarshaler) || p.Implements(textUnmarshaler) {
		var raw json.RawMessage
		if err := w.dec.Decode(&raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			w.errs.Addf(path, "not a valid %s", strings.ToLower(t.Name()))
		}
		return nil
	}
	tok, err := w.dec.Token()
	if err != nil {
		return err
	}
	switch v := tok.(type) {
	case json.Delim:
		return w.composite(v, t, path)
	case nil: // null leaves a field unset
	case string:
		if t.Kind() != reflect.String && !isBytes(t) {
			w.mistyped(t, path, "a string")
		}
	case bool:
		if t.Kind() != reflect.Bool {
			w.mistyped(t, path, "true or false")
		}
	case json.Number:
		w.number(v, t, path)
	}
	return nil
}

func (w *walker) composite(d json.Delim, t reflect.Type, path string) error {
	switch {
	case d == '{' && t.Kind() == reflect.Struct:
		return w.object(t, path)
	case d == '{' && t.Kind() == reflect.Map:
		return w.keys(path, func(key, at string) error { return w.value(t.Elem(), at) })
	case d == '[' && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) && !isBytes(t):
		for i := 0; w.dec.More(); i++ {
			if err := w.value(t.Elem(), path+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
		_, err := w.dec.Token()
		return err
	case d == '{':
		w.mistyped(t, path, "an object")
		return w.keys(path, func(string, string) error { return w.skip() })
	default:
		w.mistyped(t, path, "a list")
		for w.dec.More() {
			if err := w.skip(); err != nil {
				return err
			}
		}
		_, err := w.dec.Token()
		return err
	}
}

func (w *walker) object(t reflect.Type, path string) error {
	fields := fieldsOf(t)
	return w.keys(path, func(key, at string) error {
		if ft, ok := fields[key]; ok {
			return w.value(ft, at)
		}
		names := make([]string, 0, len(fields))
		for name := range fields {
			names = append(names, name)
		}
		w.errs.Addf(at, unknownField+"%s", didYouMean(key, names))
		return w.skip()
	})
}

// keys walks the members of an object whose brace was read.
func (w *walker) keys(path string, member func(key, at string) error) error {
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return err
		}
		key := tok.(string) // the decoder lets nothing else through
		at := below(path, key)
		if seen[key] {
			w.errs.Addf(at, "given twice")
		}
		seen[key] = true
		if err := member(key, at); err != nil {
			return err
		}
	}
	_, err := w.dec.Token()
	return err
}

func (w *walker) skip() error { var raw json.RawMessage; return w.dec.Decode(&raw) }

func (w *walker) number(n json.Number, t reflect.Type, path string) {
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if _, err := strconv.ParseInt(n.String(), 10, t.Bits()); err != nil {
			w.errs.Addf(path, "want a whole number")
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if _, err := strconv.ParseUint(n.String(), 10, t.Bits()); err != nil {
			w.errs.Addf(path, "want a whole number that is not negative")
		}
	case reflect.Float32, reflect.Float64:
		if _, err := strconv.ParseFloat(n.String(), t.Bits()); err != nil {
			w.errs.Addf(path, "the number is out of range")
		}
	default:
		w.mistyped(t, path, "a number")
	}
}

func (w *walker) mistyped(t reflect.Type, path, have string) {
	var want string
	switch t.Kind() {
	case reflect.String:
		want = "a string"
	case reflect.Bool:
		want = "true or false"
	case reflect.Struct, reflect.Map:
		want = "an object"
	case reflect.Slice, reflect.Array:
		want = "a list"
		if isBytes(t) {
			want = "a string in base64"
		}
	case reflect.Float32, reflect.Float64:
		want = "a number"
	default:
		want = "a whole number"
	}
	w.errs.Addf(path, "want %s, not %s", want, have)
}

func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// fieldsByType remembers fieldsOf: a type never changes.
var fieldsByType sync.Map

// fieldsOf returns the JSON members of a struct, embedded ones included.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if known, ok := fieldsByType.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	fieldsByType.Store(t, fields)
	return fields
}

// below appends a member's name to a path, in the form package api uses.
func below(path, key string) string {
	plain := key != ""
	for i, r := range key {
		plain = plain && (r == '_' || unicode.IsLetter(r) && r < 128 || i > 0 && (r == '-' || '0' <= r && r <= '9'))
	}
	switch {
	case !plain:
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// didYouMean suggests the known word closest to a misspelt one.
func didYouMean(word string, known []string) string {
	slices.Sort(known)
	best, least := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j]+1, row[j+1]+1, cost)
		}
	}
	return row[len(b)]
}
