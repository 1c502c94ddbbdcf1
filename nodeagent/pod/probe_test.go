package pod

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
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
