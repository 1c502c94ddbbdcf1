package apiserver

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
)

// fits reports whether strict has nothing to say, which is most often so, and
// finds that out in one pass that allocates almost nothing. Where it is not
// certain it says no: the walker has the last word, and the words.
func fits(raw []byte, into reflect.Type) bool {
	if !json.Valid(raw) {
		return false
	}
	s := scan{raw, 0}
	return s.value(into)
}

// scan is a place in JSON that is valid.
type scan struct {
	raw []byte
	at  int
}

// next returns the first byte of what comes after white space.
func (s *scan) next() byte {
	for {
		switch c := s.raw[s.at]; c {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return c
		}
	}
}

// value goes past one value, which should fit t.
func (s *scan) value(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	c := s.next()
	if t == rawMessage || t.Kind() == reflect.Interface {
		s.skip()
		return true
	}
	if own := reflect.PointerTo(t); own.Implements(unmarshaler) || own.Implements(textUnmarshaler) {
		from := s.at
		s.skip()
		return json.Unmarshal(s.raw[from:s.at], reflect.New(t).Interface()) == nil
	}
	switch c {
	case '{':
		return s.object(t)
	case '[':
		return s.list(t)
	}
	from := s.at
	s.skip()
	switch c {
	case 'n':
		return true
	case '"':
		return t.Kind() == reflect.String || isBytes(t)
	case 't', 'f':
		return t.Kind() == reflect.Bool
	}
	return isNumber(string(s.raw[from:s.at]), t)
}

func isNumber(n string, t reflect.Type) bool {
	var err error
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		_, err = strconv.ParseInt(n, 10, t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, err = strconv.ParseUint(n, 10, t.Bits())
	case reflect.Float32, reflect.Float64:
		_, err = strconv.ParseFloat(n, t.Bits())
	default:
		return false
	}
	return err == nil
}

// object goes past an object. A key that is not plain, or that was there
// before, is for the walker.
func (s *scan) object(t reflect.Type) bool {
	var fields map[string]reflect.Type
	switch t.Kind() {
	case reflect.Struct:
		fields = fieldsOf(t)
	case reflect.Map:
	default:
		return false
	}
	var few [16][]byte
	seen := few[:0]
	s.at++
	for s.next() != '}' {
		if s.raw[s.at] == ',' {
			s.at++
			s.next()
		}
		from := s.at
		s.skip()
		key := s.raw[from+1 : s.at-1]
		for _, c := range key {
			if c == '\\' || c >= 0x80 {
				return false
			}
		}
		if len(seen) == cap(few[:]) {
			return false // told apart one by one, which is for few
		}
		for _, k := range seen {
			if bytes.Equal(k, key) {
				return false
			}
		}
		seen = append(seen, key)
		of, known := fields[string(key)]
		if fields == nil {
			of, known = t.Elem(), true
		}
		s.next()
		s.at++ // the colon
		if !known || !s.value(of) {
			return false
		}
	}
	s.at++
	return true
}

func (s *scan) list(t reflect.Type) bool {
	if t.Kind() != reflect.Slice && t.Kind() != reflect.Array || isBytes(t) {
		return false
	}
	s.at++
	for s.next() != ']' {
		if s.raw[s.at] == ',' {
			s.at++
		}
		if !s.value(t.Elem()) {
			return false
		}
	}
	s.at++
	return true
}

// skip goes past one value, at whose first byte the scan is.
func (s *scan) skip() {
	depth := 0
	for s.at < len(s.raw) {
		switch s.raw[s.at] {
		case '"':
			for s.at++; s.raw[s.at] != '"'; s.at++ {
				if s.raw[s.at] == '\\' {
					s.at++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return // of what the value is in
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return
			}
			s.at++
			continue
		default: // numbers, true, false, null
			for s.at < len(s.raw) && !isEnd(s.raw[s.at]) {
				s.at++
			}
			if depth == 0 {
				return
			}
			continue
		}
		s.at++
		if depth == 0 {
			return
		}
	}
}

func isEnd(c byte) bool {
	switch c {
	case ',', ':', '}', ']', '"', '{', '[', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}
