package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	f := NewFrames(&wire)
	io.WriteString(f.Writer(FrameStderr), "oops")
	f.Write(FrameCloseStdin, nil)
	f.Write(frameEnd, []byte("for a newer version"))
	f.WriteJSON(FrameResize, Size{Cols: 80, Rows: 24})
	for _, want := range []struct {
		kind FrameType
		data string
	}{{FrameStderr, "oops"}, {FrameCloseStdin, ""}, {FrameResize, `{"cols":80,"rows":24}`}} {
		kind, b, err := f.Read()
		if err != nil || kind != want.kind || string(b) != want.data {
			t.Errorf("got %d %q %v, want %d %q", kind, b, err, want.kind, want.data)
		}
	}
	if _, _, err := f.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// Whatever comes in: no panic, no frame beyond the limit, and what was read
// writes back to the same bytes, but for frames of types that nobody knows.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{byte(FrameStdin), 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{byte(FrameExit), 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{99, 0, 0, 0, 0})
	f.Add([]byte{byte(FrameStdout), 0, 0, 0, 9, 'x'})
	f.Add([]byte{byte(FrameStdout), 0, 0, 0, 1, 'x', 77, 0, 0, 0, 2, 'y', 'z', byte(FrameStderr), 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		var back bytes.Buffer
		src, dst := NewFrames(bytes.NewBuffer(in)), NewFrames(&back)
		in = known(in)
		for {
			kind, b, err := src.Read()
			if err != nil {
				if errors.Is(err, io.EOF) && !bytes.Equal(in, back.Bytes()) && len(in)-back.Len() >= 5 {
					t.Errorf("clean end after %d of %d bytes", back.Len(), len(in))
				}
				break
			}
			if len(b) > MaxFrame {
				t.Fatalf("a frame of %d bytes", len(b))
			}
			dst.Write(kind, b)
		}
		if !bytes.HasPrefix(in, back.Bytes()) {
			t.Errorf("read % x, wrote % x", in, back.Bytes())
		}
	})
}

// known is wire without its frames of unknown types, up to where it breaks.
func known(wire []byte) (out []byte) {
	for len(wire) >= 5 {
		n := binary.BigEndian.Uint32(wire[1:])
		if wire[0] == 0 || n > MaxFrame || int(n) > len(wire)-5 {
			break
		}
		if FrameType(wire[0]) < frameEnd {
			out = append(out, wire[:5+n]...)
		}
		wire = wire[5+n:]
	}
	return append(out, wire...)
}
