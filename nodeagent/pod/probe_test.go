package pod

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestDialer(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	none := closed.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		path string
		port int
		want string // part of the error; empty: healthy
	}{
		{"/ok", n, ""},
		{"/moved", n, ""},
		{"", n, ""},
		{"/broken", n, "/broken: answered 502 Bad Gateway"},
		{"/slow", n, "no answer within 200ms"},
		{"/ok", none, "connection refused"},
		{"", none, "connect to 127.0.0.1"},
	} {
		err := Dialer{}.Probe(t.Context(), Target{IP: host, Port: c.port, HTTP: c.path, Timeout: 200 * time.Millisecond})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q on %d: %v, want %q", c.path, c.port, err, c.want)
		}
	}
}

// A server that speaks the gRPC health protocol is asked by it.
func TestDialerGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	says := health.NewServer()
	says.SetServingStatus("shop.Orders", healthpb.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, says)
	go srv.Serve(l)
	defer srv.Stop()
	plain := grpc.NewServer()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go plain.Serve(mute)
	defer plain.Stop()
	at := l.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		port    int
		service string
		want    string // the error; empty: healthy
	}{
		{at, "", ""},
		{at, "shop.Orders", fmt.Sprintf("gRPC health of shop.Orders at 127.0.0.1:%d: answered NOT_SERVING", at)},
		{at, "shop.Nope", `the server knows no service "shop.Nope"`},
		{mute.Addr().(*net.TCPAddr).Port, "", "the server does not speak the gRPC health protocol"},
		{1, "", "connection refused"},
	} {
		err := Dialer{}.Probe(t.Context(), Target{IP: "127.0.0.1", Port: c.port, GRPC: &c.service, Timeout: 2 * time.Second})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q on %d: %v, want %q", c.service, c.port, err, c.want)
		}
	}
}
