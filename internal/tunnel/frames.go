package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// FrameType says what a frame of an exec session carries.
type FrameType byte

// Frames of an exec session. A frame on the wire is its type (1 byte), the
// length of its data (4 bytes, big-endian) and the data.
const (
	FrameStdin      FrameType = iota + 1 // to the process
	FrameCloseStdin                      // to the process: no more input
	FrameResize                          // to the process: Size as JSON
	FrameStdout                          // from the process
	FrameStderr                          // from the process
	FrameExit                            // from the process, the last frame: Exit as JSON
	frameEnd
)

// MaxFrame is the most data one frame carries, in bytes.
const MaxFrame = 64 << 10

// Size of a terminal, in characters.
type Size struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// Exit is how a process ended.
type Exit struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"` // why it could not run or be waited for
}

// Frames speaks frames over a stream. Writing is safe for concurrent use;
// reading is for one reader.
type Frames struct {
	r   io.Reader
	buf []byte

	mu sync.Mutex
	w  io.Writer
}

// NewFrames returns Frames over rw.
func NewFrames(rw io.ReadWriter) *Frames { return &Frames{r: rw, w: rw} }

// Read returns the next frame. Its data is valid until the next Read. Frames of
// types that only a newer version knows are passed over. The stream's end
// between two frames is io.EOF.
func (f *Frames) Read() (FrameType, []byte, error) {
	for {
		t, b, err := f.read()
		if err != nil || t < frameEnd {
			return t, b, err
		}
	}
}

func (f *Frames) read() (FrameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return 0, nil, err
	}
	t, n := FrameType(head[0]), binary.BigEndian.Uint32(head[1:])
	switch {
	case t == 0:
		return 0, nil, errors.New("a frame without a type")
	case n > MaxFrame:
		return 0, nil, fmt.Errorf("frame of %d bytes: at most %d", n, MaxFrame)
	}
	if uint32(cap(f.buf)) < n {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	if _, err := io.ReadFull(f.r, b); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return t, b, nil
}

// Write sends data, in as many frames as it needs.
func (f *Frames) Write(t FrameType, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), MaxFrame)
		b := make([]byte, 5+n)
		b[0] = byte(t)
		binary.BigEndian.PutUint32(b[1:], uint32(n))
		copy(b[5:], data[:n])
		if _, err := f.w.Write(b); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// WriteJSON sends v as the data of one frame.
func (f *Frames) WriteJSON(t FrameType, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.Write(t, b)
}

// Writer returns a writer whose writes become frames of type t.
func (f *Frames) Writer(t FrameType) io.Writer { return frameWriter{f, t} }

type frameWriter struct {
	f *Frames
	t FrameType
}

func (w frameWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := w.f.Write(w.t, b); err != nil {
		return 0, err
	}
	return len(b), nil
}
