package logfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func read(t *testing.T, path string, q Query) []Line {
	t.Helper()
	var lines []Line
	for l, err := range Read(t.Context(), path, q) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

func texts(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text)
		if !l.Partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func TestFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "pods", "web.log")
		w, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Copy(Stderr, strings.NewReader("a b\n\nno newline")); err != nil {
			t.Fatal(err)
		}
		got, _ := os.ReadFile(path)
		want := "2000-01-01T00:00:00.000000000Z stderr F a b\n" +
			"2000-01-01T00:00:00.000000000Z stderr F \n" +
			"2000-01-01T00:00:00.000000000Z stderr F no newline\n"
		if string(got) != want {
			t.Errorf("got\n%s", got)
		}
	})
}

func TestLongLineIsSplitAndJoined(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, _ := Open(path)
	long := strings.Repeat("x", 3*MaxLine+5) + "\nshort\n"
	if err := w.Copy(Stdout, strings.NewReader(long)); err != nil {
		t.Fatal(err)
	}
	lines := read(t, path, Query{})
	if len(lines) != 5 || texts(lines) != long {
		t.Errorf("%d records, %d bytes", len(lines), len(texts(lines)))
	}
}

func TestUnreadableLineIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("not a record\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range Read(t.Context(), path, Query{}) {
		if err == nil {
			t.Error("no error")
		}
	}
}

// TestRotationLosesNothing reads with one reader while a small log rotates
// under it, and from scratch afterwards: what is kept is the newest part.
func TestRotationLosesNothing(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, strconv.Itoa(n))
		w, err := open(path, 400, Keep)
		if err != nil {
			rt.Fatal(err)
		}
		defer w.Close()
		r := &reader{path: path}
		defer r.close()
		written, seen := 0, 0
		for range rapid.IntRange(1, 30).Draw(rt, "rounds") {
			// Fewer than fills two files, which is all a reader can be behind.
			for range rapid.IntRange(0, 9).Draw(rt, "lines") {
				w.Print(Stdout, strconv.Itoa(written))
				written++
			}
			for {
				record, err := r.next()
				if errors.Is(err, io.EOF) {
					break
				}
				l, err2 := Parse(record)
				if err != nil || err2 != nil || l.Text != strconv.Itoa(seen) {
					rt.Fatalf("record %d: %q %v %v", seen, record, err, err2)
				}
				seen++
			}
		}
		if seen != written {
			rt.Fatalf("saw %d of %d", seen, written)
		}
		tail := rapid.IntRange(1, 20).Draw(rt, "tail")
		want := written
		for l, err := range Read(context.Background(), path, Query{Tail: tail}) {
			if want == written {
				first, _ := strconv.Atoi(l.Text)
				if want = first; written-first > tail || written > tail && written-first < min(tail, 12) {
					rt.Fatalf("tail %d of %d begins at %d", tail, written, first)
				}
			}
			if err != nil || l.Text != strconv.Itoa(want) {
				rt.Fatalf("tail: %v %v, want %d", l, err, want)
			}
			want++
		}
		if want != written {
			rt.Fatalf("tail ended at %d of %d", want, written)
		}
		for n := range 10 {
			if fi, err := os.Stat(rotated(path, n)); err == nil && (fi.Size() > 400 || n >= Keep) {
				rt.Fatalf("%s has %d bytes", fi.Name(), fi.Size())
			}
		}
	})
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		done := make(chan struct{})
		var got []string
		read := make(chan struct{})
		go func() {
			defer close(read)
			for l := range Read(t.Context(), path, Query{Follow: true, Done: done}) {
				got = append(got, l.Text)
			}
		}()
		time.Sleep(time.Second) // before there is a file
		w, _ := open(path, 200, Keep)
		for i := range 8 {
			w.Print(Stdout, fmt.Sprint(i))
			time.Sleep(pollInterval)
		}
		w.Print(Stdout, "last words")
		close(done)
		<-read
		if s := strings.Join(got, " "); s != "0 1 2 3 4 5 6 7 last words" {
			t.Errorf("followed %s", s)
		}
	})
}

func TestSinceAndNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		w, _ := Open(path)
		w.Print(Stdout, "old")
		time.Sleep(time.Minute)
		since := time.Now()
		w.Print(Stdout, "new")
		if got := texts(read(t, path, Query{Since: since})); got != "new\n" {
			t.Errorf("since: %q", got)
		}
		if got := texts(read(t, path, Query{Tail: -1})); got != "" {
			t.Errorf("none: %q", got)
		}
		if got := texts(read(t, path, Query{Tail: 1})); got != "new\n" {
			t.Errorf("last: %q", got)
		}
	})
}

// TestFullDisk: the program goes on, and the log says what it lacks.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, _ := Open(path)
	w.f.Close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	w.f = full
	w.Print(Stdout, "a")
	w.Print(Stdout, "b")
	w.f = nil
	w.Print(Stdout, "c")
	got := texts(read(t, path, Query{}))
	if !strings.HasPrefix(got, "clusterd: 2 lines before this one are lost: write /dev/full: no space left on device\nc\n") {
		t.Errorf("got %q", got)
	}
}
