package controller

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

var nullLog = hclog.NewNullLogger()

// sieve stands between the loops and the API, and does to them what networks
// and power do: views that lag, watches that break and must list again,
// answers that get lost, and processes that end between any two writes.
type sieve struct {
	next http.Handler
	lag  time.Duration // of watch lines
	cut  int           // every so many watch lines, the stream ends
	gone bool          // ... and cannot be taken up
	lose int           // every so many writes, the answer is lost
	die  int           // every so many writes, the leader ends right after
	at   int           // right after this write, the leader ends

	mu     sync.Mutex
	rng    *rand.Rand
	writes int
	deaths chan struct{}
}

func (s *sieve) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		if r.URL.Query().Get("watch") == "" {
			s.next.ServeHTTP(w, r)
			return
		}
		s.mu.Lock()
		gone := s.gone && s.rng.IntN(3) == 0
		s.mu.Unlock()
		if gone {
			http.Error(w, `{"status":410,"detail":"no longer kept: list again"}`, http.StatusGone)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		s.next.ServeHTTP(&laggard{ResponseWriter: w, ctx: ctx, sieve: s, cancel: cancel}, r.WithContext(ctx))
		return
	}
	s.mu.Lock()
	s.writes++
	lost := s.lose > 0 && s.writes%s.lose == 0
	dies := s.die > 0 && s.writes%s.die == 0 || s.writes == s.at
	s.mu.Unlock()
	if !lost && !dies {
		s.next.ServeHTTP(w, r)
		return
	}
	s.next.ServeHTTP(&deaf{header: http.Header{}}, r) // it happened; nobody is told
	if dies {
		select {
		case s.deaths <- struct{}{}:
		default:
		}
		<-r.Context().Done()
		return
	}
	http.Error(w, "connection lost", http.StatusServiceUnavailable)
}

// laggard delays and cuts a watch.
type laggard struct {
	http.ResponseWriter
	ctx    context.Context
	sieve  *sieve
	cancel func()
	lines  int
}

func (l *laggard) Write(b []byte) (int, error) {
	s := l.sieve
	s.mu.Lock()
	lag := time.Duration(0)
	if s.lag > 0 {
		lag = time.Duration(s.rng.Int64N(int64(s.lag)))
	}
	s.mu.Unlock()
	sleep(l.ctx, lag)
	if s.cut > 0 && l.lines >= s.cut { // what comes first always comes, or nothing ever would
		l.cancel()
		return 0, fmt.Errorf("cut")
	}
	l.lines += strings.Count(string(b), "\n")
	return l.ResponseWriter.Write(b)
}

func (l *laggard) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// deaf takes an answer that nobody gets.
type deaf struct{ header http.Header }

func (d *deaf) Header() http.Header         { return d.header }
func (d *deaf) WriteHeader(int)             {}
func (d *deaf) Write(b []byte) (int, error) { return len(b), nil }

// disturbances are what loops must bear.
var disturbances = map[string]func(*sieve){
	"undisturbed":         func(*sieve) {},
	"stale views":         func(s *sieve) { s.lag = 2 * time.Second },
	"watches break":       func(s *sieve) { s.cut, s.lag = 7, 50*time.Millisecond },
	"watches list again":  func(s *sieve) { s.cut, s.gone = 5, true },
	"answers get lost":    func(s *sieve) { s.lose = 3 },
	"leaders die":         func(s *sieve) { s.die = 4 },
	"leaders die at once": func(s *sieve) { s.die, s.lag = 2, 300*time.Millisecond },
	"everything":          func(s *sieve) { s.lag, s.cut, s.gone, s.lose, s.die = 500*time.Millisecond, 9, true, 7, 11 },
}

// TestLoopsBearEverything takes what each loop works on through its life under
// each kind of disturbance: views that are old, events that are missed, answers
// that get lost and leaders that end. What a life promises holds all the while.
func TestLoopsBearEverything(t *testing.T) {
	campaign(t)
	for _, of := range slices.Sorted(maps.Keys(lives)) {
		for name, disturb := range disturbances {
			for seed := range uint64(seedsOf(of)) {
				t.Run(fmt.Sprintf("%s/%s/%d", of, name, seed), func(t *testing.T) {
					s := &sieve{rng: rand.New(rand.NewPCG(seed, 1))}
					disturb(s)
					lives[of].in(t, s)
				})
			}
		}
	}
}

// seedsOf is how often a life is lived under each disturbance: the loops whose
// plans are longest see more.
func seedsOf(of string) int {
	if of == "app" || of == "app, stateful" || of == "job" {
		return 3
	}
	return 1
}

// in lives a life behind a sieve.
func (l way) in(t *testing.T, s *sieve) {
	inDisturbedWorld(t, 3, s, func(w *world, h http.Handler) http.Handler {
		if l.wrap != nil {
			h = l.wrap(w, h)
		}
		s.next = h
		return s
	}, l.live)
}

// TestCrashBetweenAnyTwoWrites: in each life the leader ends once, right after
// the first write, the second, and so on; nobody hears what became of that write.
// A day has some of them, a campaign all.
func TestCrashBetweenAnyTwoWrites(t *testing.T) {
	campaign(t)
	for _, of := range slices.Sorted(maps.Keys(lives)) {
		t.Run(of, func(t *testing.T) {
			calm := &sieve{rng: rand.New(rand.NewPCG(0, 1))}
			lives[of].in(t, calm)
			first, stride := 1, calm.writes
			switch _, n := seeds(t, 5); {
			case os.Getenv("CLUSTERD_SEED") != "":
				at, _ := seeds(t, 0)
				first = int(at)
			case int(n) < calm.writes:
				stride = calm.writes / int(n)
			default:
				stride = 1
			}
			for at := first; at <= calm.writes; at += stride {
				ok := t.Run(fmt.Sprint(at), func(t *testing.T) { lives[of].in(t, &sieve{rng: rand.New(rand.NewPCG(0, 1)), at: at}) })
				if !ok {
					t.Fatalf("replay: CLUSTERD_SEED=%d go test ./clusterd/controller -run 'TestCrashBetweenAnyTwoWrites/%s$'", at, of)
				}
			}
		})
	}
}

func life(w *world) {
	stop := watchPromises(w, "web", 3, 1, 2)
	ro := w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 5*time.Minute)
	if ro.Phase != api.RolloutComplete {
		w.t.Fatalf("create: %+v", ro)
	}
	ro = w.ended("web", w.apply("web", `{"image":"good:2","replicas":3}`), 10*time.Minute)
	if ro.Phase != api.RolloutComplete {
		w.t.Fatalf("update: %+v", ro)
	}
	g := w.apply("web", `{"image":"bad:1","replicas":3}`)
	if ro := w.ended("web", g, 10*time.Minute); ro.Phase != api.RolloutRolledBack {
		w.t.Fatalf("bad update: %+v", ro)
	}
	if ro := w.ended("web", g+1, 10*time.Minute); ro.Phase != api.RolloutComplete {
		w.t.Fatalf("rollback: %+v", ro)
	}
	ro = w.ended("web", w.apply("web", `{"image":"good:3","replicas":3,"update":{"canary":1,"auto_promote":"20s"}}`), 10*time.Minute)
	if ro.Phase != api.RolloutComplete {
		w.t.Fatalf("canary: %+v", ro)
	}
	g = ro.Generation - 1
	w.eventually("three old pods", 5*time.Minute, func() bool { return len(w.pods()) == 3 && w.readyPods("") == 3 })
	stop()
	if n := w.app("web").Meta.Generation; n != g+1 {
		w.t.Fatalf("generation %d", n)
	}
	if err := client.Of(w.client, api.Apps).Delete(w.ctx, w.ns, "web", ""); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("gone", 5*time.Minute, func() bool { return w.app("web") == nil && len(w.pods()) == 0 })
}

// watchPromises checks, at every change, what must hold at all times.
func watchPromises(w *world, app string, replicas, surge, floor int) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	pods := map[string]*api.Pod{}
	once := false // as many ready as the floor: from then on it holds
	go func() {
		defer close(done)
		for ev, err := range client.Of(w.client, api.Pods).Watch(ctx, w.ns, client.By("app", app), 0) {
			if err != nil {
				return
			}
			switch ev.Type {
			case api.EventPut:
				pods[ev.Object.Meta.Name] = ev.Object
			case api.EventDelete:
				delete(pods, ev.Object.Meta.Name)
			}
			exist, ready := 0, 0
			for _, p := range pods {
				if !p.Status.Phase.Ended() {
					exist++
				}
				if p.Status.Ready && !p.Meta.Deleting() {
					ready++
				}
			}
			once = once || ready >= floor
			if exist > replicas+surge || once && ready < floor {
				w.t.Errorf("%d pods exist (at most %d), %d are ready (at least %d)", exist, replicas+surge, ready, floor)
			}
		}
	}()
	return func() { cancel(); <-done }
}
