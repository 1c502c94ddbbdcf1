package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

func (s *suite) exec() {
	id := s.run("forever")
	var out, err bytes.Buffer
	for want, script := range map[int][]string{
		0:   {"/toolbox", "print=one", "warn=two", "env=GREETING"},
		7:   {"/toolbox", "exit=7"},
		137: {"/toolbox", "exit=137"},
	} {
		code, e := s.Runtime.Exec(s.Context(), id, script, false, runtime.ExecIO{Stdout: &out, Stderr: &err})
		if e != nil || code != want {
			s.Errorf("%v: %d %v", script, code, e)
		}
	}
	if out.String() != "one\nhello there\n" || err.String() != "two\n" {
		s.Errorf("stdout %q, stderr %q", &out, &err)
	}
	if _, e := s.Runtime.Exec(s.Context(), id, []string{"/nope"}, false, runtime.ExecIO{}); !errors.Is(e, runtime.ErrCannotStart) ||
		!strings.HasSuffix(e.Error(), `: exec: "/nope": stat /nope: no such file or directory`) {
		s.Errorf("missing program: %v", e)
	}
	if e := s.Runtime.Signal(s.Context(), id, "SIGKILL"); e != nil {
		s.Error(e)
	}
	s.exit(id)
	if _, e := s.Runtime.Exec(s.Context(), id, []string{"/toolbox"}, false, runtime.ExecIO{}); !errors.Is(e, runtime.ErrNotRunning) {
		s.Errorf("after the end: %v", e)
	}
}

func (s *suite) execStdin() {
	id := s.run("forever")
	text := strings.Repeat("a line of text\n", 20_000) // more than pipes hold
	var out bytes.Buffer
	code, err := s.Runtime.Exec(s.Context(), id, []string{"/toolbox", "cat"}, false, runtime.ExecIO{Stdin: strings.NewReader(text), Stdout: &out})
	if err != nil || code != 0 || out.String() != text {
		s.Errorf("code %d, %v, %d bytes of %d came back", code, err, out.Len(), len(text))
	}
	// A command that ends while its caller could still type.
	in, typing := io.Pipe()
	defer typing.Close()
	code, err = s.Runtime.Exec(s.Context(), id, []string{"/toolbox", "exit=3"}, false, runtime.ExecIO{Stdin: in})
	if err != nil || code != 3 {
		s.Errorf("open stdin: %d %v", code, err)
	}
	// Output that takes longer to deliver than the command to write it.
	out.Reset()
	code, err = s.Runtime.Exec(s.Context(), id, []string{"/toolbox", "print=late"}, false, runtime.ExecIO{Stdout: slow{&out, s.Beat}})
	if err != nil || code != 0 || out.String() != "late\n" {
		s.Errorf("slow reader: %d %v %q", code, err, &out)
	}
}

type slow struct {
	io.Writer
	delay time.Duration
}

func (w slow) Write(b []byte) (int, error) {
	time.Sleep(w.delay)
	return w.Writer.Write(b)
}

func (s *suite) execTerminal() {
	id := s.run("forever")
	sizes := make(chan runtime.Size, 1)
	sizes <- runtime.Size{Cols: 101, Rows: 41}
	in, typing := io.Pipe()
	defer typing.Close()
	out := &watched{want: "101x41", seen: func() { sizes <- runtime.Size{Cols: 90, Rows: 30} }}
	code, err := s.Runtime.Exec(s.Context(), id, []string{"/toolbox", "size", "size=101x41", "warn=both in one", "exit=6"}, true,
		runtime.ExecIO{Stdin: in, Stdout: out, Resize: sizes})
	if got := strings.ReplaceAll(out.shown.String(), "\r", ""); err != nil || code != 6 || got != "101x41\n90x30\nboth in one\n" {
		s.Errorf("code %d, %v, printed %q", code, err, got)
	}
}

// watched is a terminal that does something when it has shown a text.
type watched struct {
	shown bytes.Buffer
	want  string
	seen  func()
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.shown.Write(b)
	if w.seen != nil && strings.Contains(w.shown.String(), w.want) {
		w.seen()
		w.seen = nil
	}
	return n, err
}

// execEnds: giving up on a command ends the call.
func (s *suite) execEnds() {
	id := s.run("forever")
	ctx, cancel := context.WithTimeout(s.Context(), 2*s.Beat)
	defer cancel()
	begin := time.Now()
	_, err := s.Runtime.Exec(ctx, id, []string{"/toolbox", "forever"}, false, runtime.ExecIO{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > patience/3 {
		s.Errorf("after %v: %v", time.Since(begin), err)
	}
	if st := s.status(id); st.State != runtime.Running {
		s.Errorf("its container: %+v", st)
	}
}
