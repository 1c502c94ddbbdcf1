package logfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Writer appends to a log. It is safe for use by one goroutine per stream.
type Writer struct {
	path    string
	maxSize int64
	keep    int

	mu   sync.Mutex
	f    *os.File
	size int64
	lost int   // records dropped since the last that was written
	why  error // of the last drop
}

// Open opens the log at path for appending, and makes its directory.
func Open(path string) (*Writer, error) { return open(path, MaxSize, Keep) }

func open(path string, maxSize int64, keep int) (*Writer, error) {
	w := &Writer{path: path, maxSize: maxSize, keep: keep}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return w, w.reopen()
}

func (w *Writer) reopen() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.f, w.size = f, fi.Size()
	return nil
}

// Print writes one line of a program.
func (w *Writer) Print(stream, text string) {
	w.write(appendTo(nil, time.Now(), stream, false, []byte(text)), 1)
}

// Copy writes what r yields, line by line, until it ends.
func (w *Writer) Copy(stream string, r io.Reader) error {
	in := bufio.NewReaderSize(r, MaxLine)
	var batch []byte
	records := 0
	for {
		text, err := in.ReadSlice('\n')
		if n := len(text); n > 0 {
			partial := errors.Is(err, bufio.ErrBufferFull)
			if text[n-1] == '\n' {
				text = text[:n-1]
			}
			batch = appendTo(batch, time.Now(), stream, partial, text)
			records++
		}
		ended := err != nil && !errors.Is(err, bufio.ErrBufferFull)
		// One write for all that is here already, and none held back.
		if len(batch) > 0 && (ended || in.Buffered() == 0 || len(batch) > 4*MaxLine) {
			w.write(batch, records)
			batch, records = batch[:0], 0
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if ended {
			return err
		}
	}
}

func (w *Writer) write(b []byte, records int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.try(b); err != nil {
		w.lost += records
		w.why = err
	}
}

func (w *Writer) try(b []byte) error {
	if w.f == nil {
		if err := w.reopen(); err != nil {
			return err
		}
	}
	if w.size > 0 && w.size+int64(len(b)) > w.maxSize {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	if w.lost > 0 {
		note := fmt.Sprintf("clusterd: %d lines before this one are lost: %v", w.lost, w.why)
		if err := w.put(appendTo(nil, time.Now(), Stderr, false, []byte(note))); err != nil {
			return err
		}
		w.lost, w.why = 0, nil
	}
	return w.put(b)
}

// put writes whole records or nothing: half a record on a full disk is taken back.
func (w *Writer) put(b []byte) error {
	n, err := w.f.Write(b)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, w.f.Truncate(w.size))
		}
		return err
	}
	w.size += int64(n)
	return nil
}

func (w *Writer) rotate() error {
	err := w.f.Close()
	w.f = nil
	for n := w.keep - 1; n > 0 && err == nil; n-- {
		if err = os.Rename(rotated(w.path, n-1), rotated(w.path, n)); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return w.reopen()
}

// Close closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}
