// Package client speaks the clusterd API. It is how everything but the API
// server itself reads and changes the cluster: controllers, agents, CLI and
// provider share it.
//
// Invariants: every write carries a request id, so that a retry replays its
// result instead of acting twice; every error a caller sees is an *api.Error
// or a context's; a watch never skips a change silently.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// Config says where the cluster is and who asks.
type Config struct {
	Addresses []string    // https://host:port of any servers
	Socket    string      // instead: the local socket of a server, which takes root without a token
	Token     string      // bearer token; empty with a client certificate
	TLS       *tls.Config // must verify the cluster's CA
	UserAgent string      // recorded as meta.written_by's program
}

// Client is a connection to one cluster. It is safe for concurrent use.
type Client struct {
	http      *http.Client
	servers   *servers
	token     string
	userAgent string
	fence     func() int64
}

// New returns a Client. It does not connect.
func New(cfg Config) (*Client, error) {
	c := &Client{servers: &servers{}, token: cfg.Token, userAgent: cmp.Or(cfg.UserAgent, "clusterd")}
	dialer := net.Dialer{Timeout: 3 * time.Second, KeepAlive: 5 * time.Second}
	dial := dialer.DialContext
	if cfg.Socket != "" {
		c.servers.bases = []string{"http://" + onSocket}
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", cfg.Socket)
		}
	} else if err := c.Use(cfg.Addresses); err != nil {
		return nil, err
	}
	c.http = &http.Client{CheckRedirect: stay, Transport: &http.Transport{
		TLSClientConfig:     cfg.TLS,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		DialContext:         dial,
		TLSHandshakeTimeout: 5 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 3 * time.Second},
	}}
	return c, nil
}

// onSocket is the host of requests that go over a local socket.
const onSocket = "local-socket"

// stay keeps a token from following a redirect: servers send none.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// InProcess returns a Client of a handler in this process: same code, no socket.
func InProcess(h http.Handler) *Client {
	return &Client{http: &http.Client{Transport: transport{h}}, servers: &servers{bases: []string{"https://in-process"}}}
}

// Fenced returns a copy of c whose writes fail once rev is no longer the
// revision of the leader's fence key.
func (c *Client) Fenced(rev func() int64) *Client {
	d := *c
	d.fence = rev
	return &d
}

// At returns a Client of servers of the same cluster that moves on by itself,
// over the same connections.
func (c *Client) At(addresses []string) (*Client, error) {
	d := *c
	d.servers = &servers{}
	return &d, d.Use(addresses)
}

// servers are those of a cluster, and which one is asked: all copies of a
// client move on together.
type servers struct {
	mu      sync.Mutex
	bases   []string
	current int
}

// Use makes the client talk to the servers at those addresses, https://host:port,
// from its next call on. The one it talks to stays, if it is among them.
func (c *Client) Use(addresses []string) error {
	var bases []string
	for _, a := range addresses {
		u, err := url.Parse(strings.TrimRight(strings.TrimSpace(a), "/"))
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("address %q: want https://host:port", a)
		}
		bases = append(bases, u.String())
	}
	if len(bases) == 0 {
		return errors.New("no address of a server: set address, or CLUSTERD_ADDR")
	}
	s := c.servers
	s.mu.Lock()
	defer s.mu.Unlock()
	at := 0
	if len(s.bases) > 0 {
		at = max(slices.Index(bases, s.bases[s.current]), 0)
	}
	s.bases, s.current = bases, at
	return nil
}

// Address returns the server the client talks to now.
func (c *Client) Address() string {
	c.servers.mu.Lock()
	defer c.servers.mu.Unlock()
	return c.servers.bases[c.servers.current]
}

// leave moves on from a server that does not answer, unless another call has.
func (s *servers) leave(base string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bases[s.current] == base {
		s.current = (s.current + 1) % len(s.bases)
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Request is one call. Body, when set, must be replayable: it is sent again on a retry.
type Request struct {
	Method string
	Path   string // /v1/…
	Query  url.Values
	Header http.Header
	Body   []byte
	Stream io.Reader // instead of Body: sent once, never retried
}

const (
	attempts     = 5
	firstBackoff = 50 * time.Millisecond
	mostBackoff  = 500 * time.Millisecond
	politely     = time.Second // the least before a busy server is asked again: what Retry-After says
	// election is how long the servers may take to agree on a leader, when the
	// old one is gone.
	election = 8 * time.Second
)

// Do sends r and returns the answer, whose body the caller closes. Calls that
// met no server, one that is not ready, or one that is busy, are tried again a few times; while
// there is a server that answers, until the others must have found a leader.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	write := r.Method != http.MethodGet && r.Method != http.MethodHead
	id := ""
	if write {
		id = rand.Text()
	}
	wait, began, answered, sent := firstBackoff, time.Now(), false, false
	var silent []string // servers that were not reached
	var told error      // why one that was reached is not ready
	for try := 1; ; try++ {
		at := c.Address()
		resp, err := c.once(ctx, r, at, id)
		if err == nil {
			return resp, nil
		}
		if e, ok := errors.AsType[*api.Error](err); ok && sent {
			e.Uncertain = true
		}
		busy := api.Is(err, api.TooMany) // nothing was done
		sent = sent || write && !busy
		answered = answered || leaderless(err)
		if !busy && !api.Is(err, api.Unready) || r.Stream != nil || ctx.Err() != nil || try >= attempts && !(answered && time.Since(began) < election) {
			return nil, best(err, told, silent)
		}
		switch {
		case busy:
		case !unreached(err):
			told = err
		case !slices.Contains(silent, at):
			silent = append(silent, at)
		}
		pause := wait
		if busy {
			pause = politely + mathrand.N(politely) // not all at once
		} else {
			c.servers.leave(at)
		}
		select {
		case <-ctx.Done():
			return nil, best(err, told, silent)
		case <-time.After(pause):
		}
		wait = min(2*wait, mostBackoff)
	}
}

// leaderless reports whether a server answered that the cluster itself is not
// ready. Trouble of one object names it.
func leaderless(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.Unready && e.Title != "" && e.Ref == nil
}

func (c *Client) once(ctx context.Context, r Request, base, id string) (*http.Response, error) {
	var body io.Reader
	switch {
	case r.Stream != nil:
		body = r.Stream
	case r.Body != nil:
		body = bytes.NewReader(r.Body)
	}
	target := base + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	for k, v := range r.Header {
		req.Header[k] = v
	}
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.userAgent != "" {
		req.Header.Set("User-Agent", c.userAgent)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if id != "" {
		req.Header.Set(api.HeaderRequestID, id)
		if c.fence != nil {
			req.Header.Set(api.HeaderFence, fmt.Sprint(c.fence()))
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, connectError(base, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, decodeError(resp)
	}
	return resp, nil
}

// connectError says what keeps the client from the server, and the way out. To
// people a certificate that does not verify is final: trying again cannot help.
// Machines, who verify by themselves, find another server perhaps.
func connectError(base string, err error) error {
	err = unwrapURL(err)
	if _, bad := errors.AsType[*tls.CertificateVerificationError](err); bad {
		return api.Errorf(api.Denied, "%s shows a certificate that this cluster's CA did not sign: check the address and CLUSTERD_CACERT (%s)", base, err)
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" && strings.Contains(alert.Err.Error(), "certificate") {
		return api.Errorf(api.Unready, "%s does not take this machine's certificate (%s): a node whose certificate has expired, or is of another cluster, has to join with a new token", base, alert.Err)
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, another := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	if unknown || another || invalid {
		return api.Errorf(api.Unready, "%s is no server of this cluster, by its certificate (%s): is the address right, and the clock?", base, err)
	}
	return api.Errorf(api.Unready, "%s%s: %s", cannotReach, base, err)
}

// cannotReach begins what is said of a server that does not answer at all.
const cannotReach = "cannot reach "

func unreached(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && strings.HasPrefix(e.Message, cannotReach)
}

// best is what to say of several tries: err was the last, and told is what a
// server answered that was reached; silent are those that were not.
func best(err, told error, silent []string) error {
	if !unreached(err) || told == nil && len(silent) < 2 {
		return err
	}
	e, _ := errors.AsType[*api.Error](err)
	if answer, ok := errors.AsType[*api.Error](told); ok {
		said := *answer
		said.Uncertain = said.Uncertain || e.Uncertain
		return &said
	}
	slices.Sort(silent)
	all := *e
	all.Message = cannotReach + "any of " + strings.Join(silent, ", ") + "; the last: " + strings.TrimPrefix(e.Message, cannotReach)
	return &all
}

func unwrapURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func decodeError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := &api.Error{}
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e.Message = cmp.Or(strings.TrimSpace(string(b[:min(len(b), 300)])), resp.Status)
	}
	e.Code = api.Code(resp.StatusCode)
	return e
}

// call sends in as JSON and decodes the answer into out, either may be nil.
func (c *Client) call(ctx context.Context, r Request, in, out any) error {
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode %s: %w", r.Path, err)
		}
		// Said here: a server that hangs up on too much is hard to tell from one
		// that is gone.
		most := api.MaxObject
		if r.Path == batchPath {
			most = api.MaxBatch
		}
		if len(b) > most {
			return api.Errorf(api.TooLarge, "%s %s: %d KiB are more than the %d that an object may have: keep large contents in images, volumes, or several configs", r.Method, r.Path, len(b)>>10, most>>10)
		}
		r.Body = b
	}
	resp, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = wire.Read(resp.Body, out)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return api.Errorf(api.Unready, "read answer of %s %s: %s", r.Method, r.Path, err)
	}
	return nil
}

// Call sends in as JSON and decodes the answer into out; either may be nil.
func (c *Client) Call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return c.call(ctx, Request{Method: method, Path: path, Query: query}, in, out)
}

// Record reports that something happened to an object. Reports are best
// effort: the caller may ignore the error.
func (c *Client) Record(ctx context.Context, subject api.Ref, e api.Event) error {
	return c.Call(ctx, http.MethodPost, "/v1/events", nil, api.EventReport{Subject: subject, Event: e}, nil)
}
