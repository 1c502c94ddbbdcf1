package client

import (
	"io"
	"net/http"
)

// transport answers requests by calling a handler, streaming both ways.
type transport struct{ h http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, w: pw, ready: make(chan int, 1)}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	go func() {
		t.h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		pw.Close()
	}()
	select {
	case code := <-w.ready:
		stop := make(chan struct{})
		go func() { // a cancelled caller unblocks the handler's writes
			select {
			case <-r.Context().Done():
				pr.CloseWithError(r.Context().Err())
			case <-stop:
			}
		}()
		return &http.Response{StatusCode: code, Status: http.StatusText(code), Header: w.header, Body: &body{pr, stop}, Request: r}, nil
	case <-r.Context().Done():
		pr.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
}

type body struct {
	*io.PipeReader
	stop chan struct{}
}

func (b *body) Close() error {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	return b.PipeReader.Close()
}

type pipeWriter struct {
	header http.Header
	w      *io.PipeWriter
	ready  chan int
	wrote  bool
}

func (p *pipeWriter) Header() http.Header { return p.header }
func (p *pipeWriter) Flush()              { p.WriteHeader(http.StatusOK) }
func (p *pipeWriter) WriteHeader(code int) {
	if !p.wrote {
		p.wrote = true
		p.ready <- code
	}
}
func (p *pipeWriter) Write(b []byte) (int, error) { p.WriteHeader(http.StatusOK); return p.w.Write(b) }
