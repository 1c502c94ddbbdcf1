package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/historytest"
)

var ann = Identity{RoleUser, "ann"}

// TestWritesHappenOnce: a write that comes again is answered as it was, and does
// nothing to what others made of its object since.
func TestWritesHappenOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		const path = "/v1/namespaces/default/configs/a"
		value := func(v string) string { return `{"spec":{"data":{"k":"` + v + `"}}}` }
		ask := func(who Identity, id, method, path, body string, want int, header ...string) (got api.Config) {
			t.Helper()
			code, answer := call(s, who, method, path, body, append(header, api.HeaderRequestID, id)...)
			if code != want {
				t.Fatalf("%s %s as %s: %d %s, want %d", method, path, id, code, answer, want)
			}
			_ = json.Unmarshal([]byte(answer), &got)
			return got
		}
		same := func(what string, a, b api.Config) {
			t.Helper()
			if a.Meta.UID != b.Meta.UID || a.Meta.Generation != b.Meta.Generation || a.Meta.Revision != b.Meta.Revision || a.Spec.Data["k"] != b.Spec.Data["k"] {
				t.Errorf("%s: first answered with %+v, then with %+v", what, a, b)
			}
		}
		now := func(want int) api.Config { t.Helper(); return ask(ann, "", "GET", path, "", want) }

		create := func() api.Config {
			t.Helper()
			return ask(ann, "create", "PUT", path, value("1"), 201, "If-None-Match", "*")
		}
		first := create()
		same("a create", first, create())
		ask(ann, "delete", "DELETE", path, "", 200)
		same("a create of what was deleted since", first, create())
		now(404)

		ask(ann, "anew", "PUT", path, value("2"), 201)
		same("a delete of what was created since", first, ask(ann, "delete", "DELETE", path, "", 200))
		second := now(200)

		replace := func() api.Config {
			t.Helper()
			return ask(ann, "replace", "PUT", path, value("3"), 200, "If-Match", "1")
		}
		third := replace()
		ask(ann, "other", "PUT", path, value("4"), 200)
		same("a replace of what was replaced since", third, replace())
		if last := now(200); last.Meta.UID != second.Meta.UID || last.Meta.Generation != 3 || last.Spec.Data["k"] != "4" {
			t.Errorf("after all that there is %+v", last)
		}

		ask(Identity{RoleUser, "bob"}, "create", "PUT", path, value("1"), 409, "If-None-Match", "*") // what bob calls so is another
		ask(ann, "create", "PUT", path+"b", value("1"), 201, "If-None-Match", "*")
	})
}

// TestBatchesHappenOnce: so do many writes at once, also when they come at once.
func TestBatchesHappenOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		body := `{"writes":[{"create":{"kind":"Config","meta":{"namespace":"default","name":"a"},"spec":{"data":{"k":"1"}}}},{"create":{"kind":"Config","meta":{"namespace":"default","name":"b"},"spec":{"data":{"k":"1"}}}}]}`
		answers := make([]string, 8)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				var code int
				if code, answers[i] = call(s, ann, "POST", "/v1/batch", body, api.HeaderRequestID, "x"); code != 200 {
					t.Errorf("%d %s", code, answers[i])
				}
			})
		}
		all.Wait()
		for _, a := range answers {
			if a != answers[0] {
				t.Errorf("one was answered with %s, another with %s", answers[0], a)
			}
		}
		if err := client.Of(c, api.Configs).Delete(t.Context(), "default", "a", ""); err != nil {
			t.Fatal(err)
		}
		if _, got := call(s, ann, "POST", "/v1/batch", body, api.HeaderRequestID, "x"); got != answers[0] {
			t.Errorf("first %s, then %s", answers[0], got)
		}
		_, err := client.Of(c, api.Configs).Get(t.Context(), "default", "a")
		wantCode(t, err, api.NotFound)
	})
}

// TestRequestsAreForgotten: what a request did is not kept for ever, and one
// whose answer went before says so.
func TestRequestsAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		const path = "/v1/namespaces/default/configs/a"
		configBody := `{"spec":` + samples["Config"] + `}`
		put := func() (int, string) {
			return call(s, ann, "PUT", path, configBody, api.HeaderRequestID, "x", "If-None-Match", "*")
		}
		records := func() (n int) {
			must(s.cache.latest(t.Context()))(t).each(donePrefix, "", func(*object) bool { n++; return true })
			return n
		}
		if code, got := put(); code != 201 {
			t.Fatal(code, got)
		}
		if err := client.Of(c, api.Configs).Delete(t.Context(), "default", "a", ""); err != nil {
			t.Fatal(err)
		}
		must(client.Of(c, api.Configs).Create(t.Context(), &api.Config{Meta: api.Meta{Namespace: "default", Name: "b"}, Spec: api.ConfigSpec{Data: map[string]string{"k": "1"}}}))(t)
		if err := s.store.Compact(t.Context(), must(s.store.Revision(t.Context()))(t)); err != nil {
			t.Fatal(err)
		}
		if code, got := put(); code != 409 || !strings.Contains(got, "was carried out at revision") {
			t.Errorf("a request whose answer is forgotten: %d %s", code, got)
		}
		for i := range 2*forgottenOnce + 1 {
			if code, got := call(s, ann, "PUT", fmt.Sprintf("/v1/namespaces/default/configs/c%d", i), configBody, api.HeaderRequestID, "x"); code != 201 {
				t.Fatal(code, got)
			}
		}
		if n := records(); n != 2*forgottenOnce+2 {
			t.Errorf("%d records", n)
		}
		time.Sleep(doneKept + 2*forgetEvery)
		if n := records(); n != 0 {
			t.Errorf("%d records are left", n)
		}
		if code, got := put(); code != 201 {
			t.Errorf("the same much later: %d %s", code, got)
		}
	})
}

// TestRetriesAreLinearizable (P1): clients of a server whose answers get lost,
// and some of whose requests arrive late, hear the history of one store.
func TestRetriesAreLinearizable(t *testing.T) {
	for seed := range uint64(10) {
		var history historytest.History
		bubble(t, func(t *testing.T, s *Server, c *client.Client) {
			bad := &badNetwork{to: s.InProcess(ann), dice: rand.New(rand.NewPCG(3, seed))}
			ctx, stop := context.WithCancel(t.Context())
			var all sync.WaitGroup
			for who := range 4 {
				cl := client.InProcess(bad)
				all.Go(func() { history.Client(ctx, cl, who) })
			}
			all.Go(func() { historytest.Watch(ctx, t, c) })
			for range 8 {
				time.Sleep(500 * time.Millisecond)
				history.Turn()
			}
			stop()
			all.Wait()
			bad.late.Wait()
			history.NothingLost(t, c)
			t.Logf("%d answers lost, %d of them of requests that came late", bad.lost, bad.slow)
		})
		history.Check(t)
	}
}

// badNetwork loses answers; some of their requests arrive only when the client
// has asked again.
type badNetwork struct {
	to   http.Handler
	late sync.WaitGroup

	mu         sync.Mutex
	dice       *rand.Rand
	lost, slow int
}

func (b *badNetwork) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || !b.loses(r) {
		b.to.ServeHTTP(w, r)
		return
	}
	http.Error(w, "the answer got lost", http.StatusServiceUnavailable)
}

// loses reports whether the answer of r gets lost, and sees to r then.
func (b *badNetwork) loses(r *http.Request) bool {
	b.mu.Lock()
	lost, slow, after := b.dice.IntN(3) == 0, b.dice.IntN(2) == 0, time.Duration(b.dice.IntN(300))*time.Millisecond
	if lost {
		b.lost++
		if slow {
			b.slow++
		}
	}
	b.mu.Unlock()
	if !lost {
		return false
	}
	body, _ := io.ReadAll(r.Body)
	again := r.Clone(context.WithoutCancel(r.Context()))
	again.Body = io.NopCloser(bytes.NewReader(body))
	if !slow {
		b.to.ServeHTTP(httptest.NewRecorder(), again)
		return true
	}
	b.late.Go(func() {
		time.Sleep(after)
		b.to.ServeHTTP(httptest.NewRecorder(), again)
	})
	return true
}
