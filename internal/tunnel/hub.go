package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/yamux"
)

// NotConnectedError says that a node has no connection to this server.
type NotConnectedError struct{ Node string }

func (e *NotConnectedError) Error() string {
	return fmt.Sprintf("node %s is not connected to this server", e.Node)
}

// Hub is a server's side: the connections of all nodes.
type Hub struct {
	log     hclog.Logger
	changed chan struct{}

	mu     sync.Mutex
	nodes  map[string]*link
	closed bool
}

type link struct {
	mux    *yamux.Session
	client *http.Client
	since  time.Time
}

// NewHub returns a Hub that nobody is connected to.
func NewHub(log hclog.Logger) *Hub {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &Hub{log: log, changed: make(chan struct{}, 1), nodes: map[string]*link{}}
}

// ServeUpgrade turns the request of a node, which the caller has
// authenticated, into its connection, and returns when that has ended.
func (h *Hub) ServeUpgrade(w http.ResponseWriter, r *http.Request, node string) {
	conn, err := Accept(w, r, Protocol)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUpgradeRequired)
		return
	}
	watchOver(conn)
	mux, err := yamux.Client(conn, muxConfig(h.log))
	if err != nil { // only for a bad config
		conn.Close()
		h.log.Error("tunnel", "node", node, "error", err)
		return
	}
	defer mux.Close()
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		end := time.AfterFunc(time.Until(r.TLS.PeerCertificates[0].NotAfter), func() { mux.Close() })
		defer end.Stop()
	}
	// net/http does not end the context of a connection that was taken over:
	// whoever made it says that the node is to go.
	defer context.AfterFunc(r.Context(), func() { mux.Close() })()
	go func() {
		if hangs(mux.Ping, mux.CloseChan()) {
			h.log.Debug("no answer to a ping", "node", node)
			mux.Close()
		}
	}()
	l := &link{mux: mux, since: time.Now(), client: &http.Client{Transport: &http.Transport{
		DialContext:           func(context.Context, string, string) (net.Conn, error) { return mux.Open() },
		DisableKeepAlives:     true, // a stream costs nothing: one per request
		DisableCompression:    true,
		ResponseHeaderTimeout: 0, // an answer may take as long as its caller waits
	}}}
	if !h.add(node, l) {
		return
	}
	h.log.Info("node connected", "node", node, "address", r.RemoteAddr)
	// The node opens no streams; Accept is how the end is noticed.
	for {
		s, err := mux.Accept()
		if err != nil {
			break
		}
		s.Close()
	}
	if h.remove(node, l) {
		h.log.Info("node disconnected", "node", node)
	}
}

// hangs asks now and then until over, or until the peer leaves a ping without an
// answer: true. A server that noticed so late itself, as it does with far too much
// to do, or when its machine stood still, asks again: the answer may lie there
// unread. If it did not, it would lose all its nodes at once.
func hangs(ping func() (time.Duration, error), over <-chan struct{}) bool {
	const late = time.Second
	for wait := pingEvery; ; {
		select {
		case <-over:
			return false
		case <-time.After(wait):
		}
		began := time.Now()
		_, err := ping()
		switch {
		case err == nil:
			wait = pingEvery
		case errors.Is(err, yamux.ErrSessionShutdown):
			return false
		case time.Since(began) < pingTimeout+late:
			return true
		default:
			wait = 0
		}
	}
}

func (h *Hub) add(node string, l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	if old := h.nodes[node]; old != nil {
		go old.mux.Close() // may wait for its peer
	}
	h.nodes[node] = l
	h.signal()
	return true
}

// remove forgets l unless a newer connection has taken its place.
func (h *Hub) remove(node string, l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodes[node] != l {
		return false
	}
	delete(h.nodes, node)
	h.signal()
	return true
}

func (h *Hub) signal() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *Hub) link(node string) (*link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.nodes[node]; l != nil {
		return l, nil
	}
	return nil, &NotConnectedError{node}
}

// Client returns a client whose requests all go to node, whatever the host of
// their URL. Its Transport can carry an upgrade through a reverse proxy.
func (h *Hub) Client(node string) (*http.Client, error) {
	l, err := h.link(node)
	if err != nil {
		return nil, err
	}
	return l.client, nil
}

// Open returns a stream to node's HTTP handler, for a caller that does its own
// Upgrade over it.
func (h *Hub) Open(_ context.Context, node string) (net.Conn, error) {
	l, err := h.link(node)
	if err != nil {
		return nil, err
	}
	return l.mux.Open() // does not wait: the peer's answer is awaited by the first read
}

// Connected returns the nodes that are connected, and since when.
func (h *Hub) Connected() map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]time.Time, len(h.nodes))
	for n, l := range h.nodes {
		out[n] = l.since
	}
	return out
}

// Changes carries a signal after a node connected or disconnected: look at
// Connected again. It has one reader.
func (h *Hub) Changes() <-chan struct{} { return h.changed }

// Close ends every connection and refuses new ones.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, l := range h.nodes {
		go l.mux.Close()
	}
}
