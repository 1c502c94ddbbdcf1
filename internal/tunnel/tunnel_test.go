package tunnel

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// cluster is a hub behind real TLS, and the CA that says who may connect.
type cluster struct {
	*Hub
	ca   *pki.CA
	addr string
	// expel ends the context of every connection there is.
	expel func()
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.NewIdentity(pki.ID{Role: pki.Server, Name: "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	hub := NewHub(nil)
	ctx, expel := context.WithCancel(context.Background())
	t.Cleanup(expel)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/tunnel", func(w http.ResponseWriter, r *http.Request) {
		role, name, ok := pki.Peer(r.TLS)
		if !ok || role != pki.Node {
			http.Error(w, `{"detail":"only a node may connect"}`, http.StatusUnauthorized)
			return
		}
		hub.ServeUpgrade(w, r.WithContext(ctx), name)
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = own.ServerTLS()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(func() { hub.Close(); srv.CloseClientConnections(); srv.Close() })
	return &cluster{hub, ca, srv.Listener.Addr().String(), expel}
}

func (c *cluster) identity(t *testing.T, role pki.Role, name string) *pki.Identity {
	t.Helper()
	id, err := c.ca.NewIdentity(pki.ID{Role: role, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// connect runs a Dialer of node until stop is called.
func (c *cluster) connect(t *testing.T, node string, h http.Handler) (stop func()) {
	t.Helper()
	d := &Dialer{Addr: c.addr, TLS: c.identity(t, pki.Node, node).ClientTLS(), Handler: h}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func (c *cluster) await(t *testing.T, want ...string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		got := slices.Sorted(maps.Keys(c.Connected()))
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-c.Changes():
		case <-limit:
			t.Fatalf("connected: %v, want %v", got, want)
		}
	}
}

func get(t *testing.T, h *Hub, node string) string {
	t.Helper()
	client, err := h.Client(node)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get("http://node/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func says(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) })
}

func TestRequestsReachTheRightNode(t *testing.T) {
	c := newCluster(t)
	c.connect(t, "w1", says("I am w1"))
	stop := c.connect(t, "w2", says("I am w2"))
	c.await(t, "w1", "w2")
	for _, n := range []string{"w1", "w2"} {
		if got := get(t, c.Hub, n); got != "I am "+n {
			t.Errorf("%s answered %q", n, got)
		}
	}
	stop()
	c.await(t, "w1")
	if _, err := c.Client("w2"); err == nil || err.Error() != "node w2 is not connected to this server" {
		t.Errorf("got %v", err)
	}
}

func TestNewerConnectionReplacesOlder(t *testing.T) {
	c := newCluster(t)
	conf := c.identity(t, pki.Node, "w1").ClientTLS()
	dial := func() net.Conn {
		r, _ := http.NewRequest(http.MethodGet, "https://x/v1/tunnel", nil)
		conn, err := Dial(t.Context(), c.addr, conf, r, Protocol)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	older := dial()
	c.await(t, "w1")
	since := c.Connected()["w1"]
	newer := dial()
	if _, err := io.Copy(io.Discard, older); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Logf("older ended with %v", err)
	}
	if now := c.Connected()["w1"]; !now.After(since) {
		t.Errorf("still connected since %s", now)
	}
	newer.Close()
	c.await(t)
}

func TestConnectionEndsWithItsContext(t *testing.T) {
	c := newCluster(t)
	r, _ := http.NewRequest(http.MethodGet, "https://x/v1/tunnel", nil)
	conn, err := Dial(t.Context(), c.addr, c.identity(t, pki.Node, "w1").ClientTLS(), r, Protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.await(t, "w1")
	c.expel()
	c.await(t)
}

func TestOnlyNodesConnect(t *testing.T) {
	c := newCluster(t)
	r, _ := http.NewRequest(http.MethodGet, "https://x/v1/tunnel", nil)
	_, err := Dial(t.Context(), c.addr, c.identity(t, pki.Server, "s2").ClientTLS(), r, Protocol)
	if s, ok := errors.AsType[*StatusError](err); !ok || s.Status != 401 || err.Error() != "only a node may connect" {
		t.Errorf("got %v", err)
	}
}

// An exec session: client → server's reverse proxy → node, framed both ways.
func TestUpgradeThroughTheServer(t *testing.T) {
	c := newCluster(t)
	c.connect(t, "w1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := Accept(w, r, ExecProtocol)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer conn.Close()
		f := NewFrames(conn)
		for { // cat
			kind, b, err := f.Read()
			if err != nil {
				t.Errorf("node: %v", err)
				return
			}
			if kind == FrameCloseStdin {
				f.WriteJSON(FrameExit, Exit{Code: 7})
				return
			}
			f.Write(FrameStdout, b)
		}
	}))
	c.await(t, "w1")
	client, err := c.Client("w1")
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Transport: client.Transport, Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host = "http", "w1"
	}})
	defer front.Close()
	raw, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequest(http.MethodPost, front.URL+"/exec", nil)
	conn, err := Upgrade(t.Context(), raw, r, ExecProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := NewFrames(conn)
	long := strings.Repeat("x", 3*MaxFrame+5)
	go func() { f.Write(FrameStdin, []byte(long)); f.Write(FrameCloseStdin, nil) }()
	var out strings.Builder
	for {
		kind, b, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		if kind == FrameExit {
			if string(b) != `{"code":7}` {
				t.Errorf("exit is %s", b)
			}
			break
		}
		out.Write(b)
	}
	if out.String() != long {
		t.Errorf("%d of %d bytes came back", out.Len(), len(long))
	}
}

// There is no revocation list: who is not renewed is out when its time is up.
func TestConnectionEndsWithItsCertificate(t *testing.T) {
	c := newCluster(t)
	c.ca.Life = 2 * time.Second
	c.connect(t, "w1", says("here"))
	c.await(t, "w1")
	c.await(t)
}

func TestReconnects(t *testing.T) {
	c := newCluster(t)
	c.connect(t, "w1", says("here"))
	c.await(t, "w1")
	l, err := c.link("w1")
	if err != nil {
		t.Fatal(err)
	}
	l.mux.Close()
	<-c.Changes()
	c.await(t, "w1")
	if got := get(t, c.Hub, "w1"); got != "here" {
		t.Errorf("got %q", got)
	}
}

// TestWhoIsLateAsksAgain: a server that slept does not take its nodes for asleep.
func TestWhoIsLateAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []struct {
			after time.Duration
			err   error
		}{{0, nil}, {pingTimeout + 2*time.Second, yamux.ErrTimeout}, {time.Minute, yamux.ErrTimeout}, {time.Second, nil}, {pingTimeout, yamux.ErrTimeout}}
		asked := 0
		began := time.Now()
		hung := hangs(func() (time.Duration, error) {
			a := answers[asked]
			asked++
			time.Sleep(a.after)
			return a.after, a.err
		}, nil)
		if want := 3*pingEvery + 2*pingTimeout + time.Minute + 3*time.Second; !hung || asked != len(answers) || time.Since(began) != want {
			t.Errorf("hung: %v, after %d pings and %s, want %s", hung, asked, time.Since(began), want)
		}
		over := make(chan struct{})
		close(over)
		if hangs(func() (time.Duration, error) { return 0, yamux.ErrSessionShutdown }, over) {
			t.Error("an ended connection hangs")
		}
	})
}

// A peer that hangs says nothing: both ends notice by themselves. That a machine is
// gone, which kernels tell sooner, machine tests show.
//
// The test has a process of its own: yamux keeps its timers in a global pool,
// and one that was made in a bubble must not be used outside.
func TestHangingPeerIsNoticed(t *testing.T) {
	const alone = "TUNNEL_TEST_ALONE"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), alone+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hub := NewHub(nil)
		lis := newPipeListener()
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hub.ServeUpgrade(w, r, "w1") })}
		go srv.Serve(lis)
		cables := make(chan *cable, 10)
		ended := make(chan struct{}, 10)
		d := &Dialer{Addr: "s1:7443", Handler: says(""), dial: func(ctx context.Context) (net.Conn, error) {
			select {
			case ended <- struct{}{}:
			default:
			}
			a, b := net.Pipe()
			cut := new(atomic.Bool)
			near, far := &cable{Conn: a, cut: cut}, &cable{Conn: b, cut: cut}
			select {
			case lis.conns <- far:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			cables <- near
			return near, nil
		}}
		done := make(chan struct{})
		go func() { defer close(done); d.Run(ctx) }()

		cab := <-cables
		<-ended
		<-hub.Changes()
		time.Sleep(time.Minute)
		if len(hub.Connected()) != 1 {
			t.Fatal("a quiet connection did not stay")
		}
		cut := time.Now()
		cab.cut.Store(true)
		<-hub.Changes()
		if took := time.Since(cut); took > pingEvery+pingTimeout || len(hub.Connected()) != 0 {
			t.Errorf("server noticed after %s: %v", took, hub.Connected())
		}
		<-ended
		if took := time.Since(cut); took < silence-pingEvery || took > silence+time.Second {
			t.Errorf("node dialled again after %s", took)
		}
		<-hub.Changes() // connected again, by a new cable
		cancel()
		<-done
		hub.Close()
		srv.Close()
		lis.Close()
	})
}

// cable is a connection that can be cut without either end being told.
type cable struct {
	net.Conn
	cut    *atomic.Bool
	closed atomic.Bool
}

func (c *cable) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cable) Close() error {
	if !c.cut.Load() {
		return c.Conn.Close()
	}
	c.closed.Store(true)
	return c.SetDeadline(time.Unix(1, 0))
}

func (c *cable) SetReadDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.Conn.SetReadDeadline(t)
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{make(chan net.Conn), make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
