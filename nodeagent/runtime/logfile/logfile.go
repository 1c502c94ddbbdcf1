// Package logfile is a container's log on disk: stamped lines, bounded in
// length, in files bounded in size. The shim writes it, the agent reads it,
// and neither needs the other to be alive.
//
// The format is the one kubelet and log shippers call CRI, a line per line:
//
//	2026-11-23T22:10:11.123456789Z stdout F the text
//
// F ends a line of the program, P is a piece of one longer than MaxLine. The
// stamp has a fixed width and is UTC, so lines sort as text.
//
// Invariants: path is the newest file, path.1 the one before, and so on; a
// file is only ever appended to or renamed; a writer that cannot write drops
// lines and says later how many, and never holds up the program.
package logfile

import (
	"bytes"
	"fmt"
	"time"
)

const (
	// MaxLine is the longest text of one record, in bytes.
	MaxLine = 16 << 10
	// MaxSize is the size in bytes at which a file is rotated.
	MaxSize = 10 << 20
	// Keep is how many files there are of a log at most.
	Keep = 3
)

// The streams of a program.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

const stamp = "2006-01-02T15:04:05.000000000Z"

// Line is one record of a log.
type Line struct {
	At      time.Time
	Stream  string
	Partial bool   // the program's line goes on in the next record of the stream
	Text    string // without the newline
}

// appendTo appends the record to b.
func appendTo(b []byte, at time.Time, stream string, partial bool, text []byte) []byte {
	b = at.UTC().AppendFormat(b, stamp)
	b = append(b, ' ')
	b = append(b, stream...)
	if partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, text...)
	return append(b, '\n')
}

// Parse reads a record, without its newline.
func Parse(record []byte) (Line, error) {
	at, rest, ok := bytes.Cut(record, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || !ok3 || len(tag) != 1 {
		return Line{}, fmt.Errorf("log line %.40q: want time, stream, F or P, text", record)
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	if err != nil {
		return Line{}, fmt.Errorf("log line %.40q: %w", record, err)
	}
	return Line{At: t, Stream: string(stream), Partial: tag[0] == 'P', Text: string(text)}, nil
}

func rotated(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}
