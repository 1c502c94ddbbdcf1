package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Target is what to check of a pod.
type Target struct {
	Container string // id of the run
	IP        string
	Port      int
	HTTP      string // path; empty: a connection that opens is enough
	Timeout   time.Duration
}

func (t Target) String() string {
	if t.HTTP == "" {
		return "connect to " + net.JoinHostPort(t.IP, strconv.Itoa(t.Port))
	}
	return "GET http://" + net.JoinHostPort(t.IP, strconv.Itoa(t.Port)) + t.HTTP
}

// Prober performs health checks. Its errors say what was tried and what came.
type Prober interface {
	Probe(ctx context.Context, t Target) error
}

// Dialer is the Prober of real pods: it asks from the node.
type Dialer struct{}

// Probe checks the target once.
func (Dialer) Probe(ctx context.Context, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	var err error
	if t.HTTP == "" {
		err = dial(ctx, t)
	} else {
		err = get(ctx, t)
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no answer within %s", t.Timeout)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	return nil
}

func dial(ctx context.Context, t Target) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(t.IP, strconv.Itoa(t.Port)))
	if err != nil {
		return plain(err)
	}
	return conn.Close()
}

// get counts 200 to 399 as healthy. It follows no redirect, which may lead
// anywhere, and opens a connection per check, as a new client would.
func get(ctx context.Context, t Target) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(t.IP, strconv.Itoa(t.Port))+t.HTTP, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "clusterd-health")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 4<<10)
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// plain drops the addresses, which the target has already.
func plain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}

// probeFact is what the checks of the current run came to.
type probeFact struct {
	Attempt  int
	Busy     bool
	Count    int       // checks made
	Last     time.Time // when
	Failures int       // in a row
	Err      string    // of the last failure
}

// next is when to check again: at once after a start, soon while the answer is
// awaited, then every interval.
func (f probeFact) next(started time.Time, interval time.Duration, healthy bool) time.Time {
	const eager = 100 * time.Millisecond
	switch {
	case f.Count == 0:
		return started
	case healthy || f.Count > 10:
		return f.Last.Add(interval)
	}
	return f.Last.Add(min(eager<<(f.Count-1), interval))
}

// note adds the outcome of a check. Failures within the grace period make a
// pod not ready and go no further.
func (f *probeFact) note(err error, at, started time.Time, h api.Health) {
	f.Count++
	f.Last, f.Busy = at, false
	if err == nil {
		f.Failures, f.Err = 0, ""
		return
	}
	f.Failures++
	f.Err = err.Error()
	if at.Before(started.Add(h.GracePeriod.D())) {
		f.Failures = min(f.Failures, max(api.Deref(h.Threshold), 1))
	}
}
