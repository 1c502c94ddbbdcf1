package controller

import (
	"iter"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestDeposedLeaderChangesNothing: a leader that does not know yet that it was
// deposed goes on, with a view that lags. None of its writes happens.
func TestDeposedLeaderChangesNothing(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		token := func() int64 {
			next, stop := iter.Pull(w.server.Leader(w.ctx))
			defer stop()
			fence, _ := next()
			return fence
		}
		old := token()
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), time.Minute)

		var refused atomic.Int64
		s := &sieve{rng: rand.New(rand.NewPCG(1, 1)), lag: time.Second}
		s.next = w.server.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "deposed"})
		count := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			code := &statusWriter{ResponseWriter: rw}
			s.ServeHTTP(code, r)
			if code.code == http.StatusPreconditionFailed {
				refused.Add(1)
			}
		})
		if now := token(); now <= old {
			t.Fatalf("fence %d after %d", now, old)
		}
		go w.lead(w.ctx, client.InProcess(count).Fenced(func() int64 { return old }))

		stop := watchPromises(w, "web", 3, 1, 2)
		if ro := w.ended("web", w.apply("web", `{"image":"good:2","replicas":3}`), 10*time.Minute); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
		time.Sleep(time.Minute)
		stop()
		if refused.Load() == 0 {
			t.Error("it tried nothing: the test shows nothing")
		}
		// What it wanted and found done already was answered, but is no write.
		for _, p := range w.pods() {
			if strings.Contains(p.Meta.WrittenBy, "deposed") {
				t.Errorf("%s was written by %s", p.Meta.Name, p.Meta.WrittenBy)
			}
		}
	})
}

// statusWriter remembers how a request was answered.
type statusWriter struct {
	http.ResponseWriter
	code int
}

func (s *statusWriter) WriteHeader(code int)        { s.code = code; s.ResponseWriter.WriteHeader(code) }
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
