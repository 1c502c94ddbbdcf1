// Package wire reads JSON as encoding/json does, in half the time and with half
// the garbage. It is for what is read with every write, start or answer.
package wire

import (
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// As encoding/json has it: what is stored must stay readable, and mean the same
// to whoever reads it by that.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true), json.MatchCaseInsensitiveNames(true))

// Unmarshal decodes raw, one value, into what into points to.
func Unmarshal(raw []byte, into any) error { return json.Unmarshal(raw, into, lenient) }

// Read decodes all that comes of from, one value.
func Read(from io.Reader, into any) error { return json.UnmarshalRead(from, into, lenient) }

// Stream returns what decodes one value after the other; its error is io.EOF
// after the last.
func Stream(from io.Reader) func(into any) error {
	d := jsontext.NewDecoder(from, lenient)
	return func(into any) error { return json.UnmarshalDecode(d, into) }
}
