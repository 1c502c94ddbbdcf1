package pod

import (
	"errors"
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

// Failures within the grace period make a pod not ready and go no further.
func TestProbeGrace(t *testing.T) {
	h, f := *testPod().Spec.Health, probeFact{}
	for i := range 30 {
		at := noon.Add(time.Duration(i) * time.Second)
		f.note(errors.New("refused"), at, noon, h)
		most := 3
		if i >= 10 {
			most = 3 + i - 9
		}
		if f.Failures > most {
			t.Fatalf("%d failures after %ds", f.Failures, i)
		}
	}
	if f.Failures < 9 {
		t.Errorf("only %d failures after the grace", f.Failures)
	}
	f.note(nil, noon, noon, h)
	if f.Failures != 0 || f.Err != "" || f.Count != 31 {
		t.Errorf("after a success: %+v", f)
	}
}

// Until the first success checks come often; then at the interval.
func TestProbeNext(t *testing.T) {
	f := probeFact{}
	if got := f.next(noon, 2*time.Second, false); got != noon {
		t.Errorf("the first is at %s", got)
	}
	f.Last = noon
	for count, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 5: 1600 * time.Millisecond, 6: 2 * time.Second, 50: 2 * time.Second} {
		f.Count = count
		if got := f.next(noon, 2*time.Second, false).Sub(noon); got != want {
			t.Errorf("after %d checks: %s, want %s", count, got, want)
		}
	}
	f.Count = 1
	if got := f.next(noon, 2*time.Second, true).Sub(noon); got != 2*time.Second {
		t.Errorf("once healthy: %s", got)
	}
}
