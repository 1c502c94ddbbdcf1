package client

import (
	"context"
	"io"
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// AsTheyAre is what a watch accepts that would rather have objects than lines of
// JSON. Only a server in the same process can do it the favour.
const AsTheyAre = "application/x-clusterd-objects"

// Taker is a ResponseWriter in the same process. It takes what a watch shows as
// it is; the objects are shared from then on.
type Taker interface {
	Take([]Shown) error
}

// Shown is one event of a watch, of any kind.
type Shown struct {
	Type     api.EventType
	Revision int64
	Object   api.Any    // nil of a bookmark
	Error    *api.Error // of an error
}

// transport answers requests by calling a handler, streaming both ways.
type transport struct{ h http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	b := &body{PipeReader: pr, ctx: r.Context(), shown: make(chan []Shown), stop: make(chan struct{}), over: make(chan struct{})}
	w := &pipeWriter{header: http.Header{}, w: pw, ready: make(chan int, 1), to: b}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	go func() {
		t.h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		close(b.over)
		pw.Close()
	}()
	select {
	case code := <-w.ready:
		go func() { // a cancelled caller unblocks the handler's writes
			select {
			case <-r.Context().Done():
				pr.CloseWithError(r.Context().Err())
			case <-b.stop:
			}
		}()
		return &http.Response{StatusCode: code, Status: http.StatusText(code), Header: w.header, Body: b, Request: r}, nil
	case <-r.Context().Done():
		pr.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
}

type body struct {
	*io.PipeReader
	ctx   context.Context
	shown chan []Shown
	stop  chan struct{} // closed by the reader
	over  chan struct{} // closed by the handler's end
}

// next returns what the handler shows next, or io.EOF after its end.
func (b *body) next() ([]Shown, error) {
	select {
	case shown := <-b.shown:
		return shown, nil
	case <-b.over:
		return nil, io.EOF
	case <-b.ctx.Done():
		return nil, b.ctx.Err()
	}
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
	taken  bool
	to     *body
}

func (p *pipeWriter) Header() http.Header { return p.header }
func (p *pipeWriter) Flush()              { p.WriteHeader(http.StatusOK) }
func (p *pipeWriter) WriteHeader(code int) {
	if !p.wrote {
		p.wrote = true
		p.ready <- code
	}
}

func (p *pipeWriter) Write(b []byte) (int, error) {
	if p.taken { // nobody reads lines any more
		return len(b), nil
	}
	p.WriteHeader(http.StatusOK)
	return p.w.Write(b)
}

// Take implements Taker.
func (p *pipeWriter) Take(shown []Shown) error {
	if !p.wrote {
		p.header.Set("Content-Type", AsTheyAre)
	}
	p.taken = true
	p.WriteHeader(http.StatusOK)
	select {
	case p.to.shown <- shown:
		return nil
	case <-p.to.stop:
		return io.ErrClosedPipe
	case <-p.to.ctx.Done():
		return p.to.ctx.Err()
	}
}
