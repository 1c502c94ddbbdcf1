package tunnel

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	f := NewFrames(&wire)
	io.WriteString(f.Writer(FrameStderr), "oops")
	f.Write(FrameCloseStdin, nil)
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
// writes back to the same bytes.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{byte(FrameStdin), 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{byte(FrameExit), 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{99, 0, 0, 0, 0})
	f.Add([]byte{byte(FrameStdout), 0, 0, 0, 9, 'x'})
	f.Fuzz(func(t *testing.T, in []byte) {
		var back bytes.Buffer
		src, dst := NewFrames(bytes.NewBuffer(in)), NewFrames(&back)
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
