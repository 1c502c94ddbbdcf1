package logfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
	"time"
)

// pollInterval is how long new lines may stay unseen by a follower. Polling one
// file costs a read; watching it would cost an inotify instance per follower,
// of which there are few.
const pollInterval = 100 * time.Millisecond

// Query is what to read of a log.
type Query struct {
	Tail   int             // only the last records; 0 is all, -1 none of the old ones
	Since  time.Time       // only records since then
	Follow bool            // then wait for more, until ctx ends
	Done   <-chan struct{} // closed: follow only to the end of what is there now
}

// Read yields the records of the log at path, across rotations, oldest first.
// A log that does not exist (yet) has no records.
func Read(ctx context.Context, path string, q Query) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		r := &reader{path: path}
		defer r.close()
		if err := r.seek(q.Tail); err != nil {
			yield(Line{}, err)
			return
		}
		for {
			// Asked before reading: what was written before Done closed is read.
			last := !q.Follow || isClosed(q.Done)
			for {
				record, err := r.next()
				if errors.Is(err, io.EOF) {
					break
				}
				var l Line
				if err == nil {
					l, err = Parse(record)
				}
				if err == nil && l.At.Before(q.Since) {
					continue
				}
				if !yield(l, err) || err != nil {
					return
				}
			}
			if last {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-q.Done:
			case <-time.After(pollInterval):
			}
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// reader walks the files of a log from old to new.
type reader struct {
	path string
	f    *os.File
	buf  []byte // read and not yet given out
	at   int    // of the next record in buf
}

// next returns the next record, or io.EOF when there is none yet. The record
// is valid until the next call.
func (r *reader) next() ([]byte, error) {
	for {
		if n := bytes.IndexByte(r.buf[r.at:], '\n'); n >= 0 {
			record := r.buf[r.at : r.at+n]
			r.at += n + 1
			return record, nil
		}
		more, err := r.fill()
		if err != nil {
			return nil, err
		}
		if more {
			continue
		}
		moved, err := r.advance()
		if err != nil {
			return nil, err
		}
		if !moved {
			return nil, io.EOF
		}
	}
}

func (r *reader) fill() (bool, error) {
	if r.f == nil {
		return false, nil
	}
	r.buf = r.buf[:copy(r.buf, r.buf[r.at:])]
	r.at = 0
	have := len(r.buf)
	r.buf = append(r.buf, make([]byte, 4*MaxLine)...)
	n, err := r.f.Read(r.buf[have:])
	r.buf = r.buf[:have+n]
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return n > 0, nil
}

// advance opens the file after the current one, the oldest at first and when
// the current one has been rotated away altogether. No file after it is false.
func (r *reader) advance() (bool, error) {
	files, err := r.files()
	if err != nil {
		return false, err
	}
	defer func() { closeAll(files) }()
	next := 0
	if r.f != nil {
		mine, err := r.f.Stat()
		if err != nil {
			return false, err
		}
		for i, f := range files {
			if fi, err := f.Stat(); err == nil && os.SameFile(mine, fi) {
				next = i + 1
			}
		}
		// Lines may have come between our last read and the rotation.
		if more, err := r.fill(); err != nil || more {
			return more, err
		}
	}
	if next >= len(files) {
		return false, nil
	}
	r.use(files[next])
	files[next] = nil
	return true, nil
}

func (r *reader) use(f *os.File) {
	r.close()
	r.f, r.buf, r.at = f, r.buf[:0], 0
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// files opens the files of the log and returns them oldest first. They are
// opened newest first: rotation moves a file the way we walk, so that it can
// be met twice and never be missed.
func (r *reader) files() ([]*os.File, error) {
	var files []*os.File
	var last os.FileInfo
	for n := range Keep {
		f, err := os.Open(rotated(r.path, n))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var fi os.FileInfo
		if err == nil {
			fi, err = f.Stat()
		}
		if err != nil {
			closeAll(append(files, f))
			return nil, err
		}
		if last != nil && os.SameFile(last, fi) {
			f.Close()
			continue
		}
		files, last = append(files, f), fi
	}
	slices.Reverse(files)
	return files, nil
}

// closeAll closes files; a nil one has found another owner.
func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// seek goes to the last n records.
func (r *reader) seek(n int) error {
	if n == 0 {
		return nil
	}
	files, err := r.files()
	if err != nil {
		return err
	}
	defer func() { closeAll(files) }()
	left := max(n, 0)
	for i := len(files) - 1; i >= 0; i-- {
		at, found, err := tail(files[i], left)
		if err != nil {
			return err
		}
		if left -= found; left == 0 || i == 0 {
			if _, err := files[i].Seek(at, io.SeekStart); err != nil {
				return err
			}
			r.use(files[i])
			files[i] = nil
			return nil
		}
	}
	return nil
}

// tail finds where the last n records of f begin, and how many there are up to n.
func tail(f *os.File, n int) (at int64, found int, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return size, 0, err
	}
	block := make([]byte, 64<<10)
	newlines := 0
	for end := size; end > 0; {
		start := max(0, end-int64(len(block)))
		b := block[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' {
				continue
			}
			// The newline before the n-th record from the end ends the search.
			if newlines == n {
				return start + int64(i) + 1, n, nil
			}
			newlines++
		}
		end = start
	}
	return 0, newlines, nil
}
