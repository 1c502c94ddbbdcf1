package client

import (
	"encoding/json"
	"errors"
	"net/http"
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
