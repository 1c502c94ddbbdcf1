package command

import (
	"io"
	"strings"
	"unicode"
)

// plain writes for a terminal what others have a say in: messages and the last
// words of a container. What would steer the terminal is shown as a mark.
type plain struct{ io.Writer }

func (p plain) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return '\u00b7'
		}
		return r
	}, string(b))
	if _, err := io.WriteString(p.Writer, text); err != nil {
		return 0, err
	}
	return len(b), nil
}
