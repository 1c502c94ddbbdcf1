package client

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestBusyServersAreAskedAgain: who is told that it is too much waits, a second
// at the least, and asks again; not for ever; and a write that was refused so is
// in no doubt.
func TestBusyServersAreAskedAgain(t *testing.T) {
	for refusals, want := range map[int]api.Code{0: 0, 3: 0, 100: api.TooMany} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			c := InProcess(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if asked++; asked > refusals {
					w.Write([]byte("{}"))
					return
				}
				w.WriteHeader(http.StatusTooManyRequests)
				_ = json.NewEncoder(w).Encode(api.Errorf(api.TooMany, "too many"))
			}))
			began := time.Now()
			err := c.Call(t.Context(), http.MethodPut, "/v1/nodes/w1", nil, struct{}{}, nil)
			if api.CodeOf(err) != want {
				t.Errorf("after %d refusals: %v", refusals, err)
			}
			if e, ok := errors.AsType[*api.Error](err); ok && e.Uncertain {
				t.Error("what was not done is said to be uncertain")
			}
			tries := min(refusals, attempts-1)
			if asked != min(refusals+1, attempts) || time.Since(began) < time.Duration(tries)*politely || time.Since(began) > time.Duration(tries)*2*politely {
				t.Errorf("asked %d times within %s", asked, time.Since(began))
			}
		})
	}
}

// A server that says why it is not ready is listened to, whichever others are
// silent.
func TestAnAnswerTellsMoreThanSilence(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(&api.Error{Code: api.Unready, Message: "no majority"})
	}))
	defer s.Close()
	gone := httptest.NewTLSServer(nil)
	gone.Close()
	c, err := New(Config{Addresses: []string{s.URL, gone.URL}, TLS: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // the last try is of either
		if err := c.Call(t.Context(), http.MethodGet, "/v1/nodes", nil, nil, nil); !api.Is(err, api.Unready) || !strings.Contains(err.Error(), "no majority") {
			t.Errorf("got %v", err)
		}
		c.servers.leave(c.Address())
	}
}
