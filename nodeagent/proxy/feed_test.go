package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// fakeServer serves lists and watches of services and endpoints as the API
// does, keeps a log of all changes, and can go away.
type fakeServer struct {
	mu       sync.Mutex
	down     bool
	oldest   int64 // watches from before are told to list again
	log      []change
	streams  map[int]context.CancelFunc
	changed  chan struct{}
	requests []string
}

type change struct {
	plural, name string
	line         []byte // of the watch
	object       any    // nil: deleted
	revision     int64
}

func newServer() *fakeServer {
	return &fakeServer{streams: map[int]context.CancelFunc{}, changed: make(chan struct{})}
}

func (s *fakeServer) put(plural, name string, object any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	revision := int64(len(s.log) + 1)
	line, _ := json.Marshal(map[string]any{"type": "put", "revision": revision, "object": object})
	s.log = append(s.log, change{plural, name, line, object, revision})
	close(s.changed)
	s.changed = make(chan struct{})
}

// stop ends all streams and refuses requests until start.
func (s *fakeServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	for _, cancel := range s.streams {
		cancel()
	}
}

func (s *fakeServer) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.requests = false, nil
}

func (s *fakeServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	plural := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	from, _ := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
	watching := r.URL.Query().Get("watch") == "true"
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	verb := "list"
	if watching {
		verb = "watch"
	}
	s.requests = append(s.requests, verb+" "+plural)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	id := len(s.streams)
	s.streams[id] = cancel
	log, oldest := s.log, s.oldest
	s.mu.Unlock()
	if !watching {
		latest := map[string]any{}
		for _, c := range log {
			if c.plural == plural {
				latest[c.name] = c.object
			}
		}
		items := []any{}
		for _, o := range latest {
			items = append(items, o)
		}
		json.NewEncoder(w).Encode(map[string]any{"items": items, "revision": len(log)})
		return
	}
	if from < oldest {
		e, _ := json.Marshal(map[string]any{"type": "error", "error": api.Errorf(api.Gone, "compacted")})
		w.Write(append(e, '\n'))
		return
	}
	fmt.Fprintf(w, `{"type":"bookmark","revision":%d}`+"\n", from)
	for {
		s.mu.Lock()
		log, changed := s.log, s.changed
		s.mu.Unlock()
		for _, c := range log[from:] {
			if c.plural == plural {
				w.Write(append(c.line, '\n'))
			}
			from = c.revision
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// fakeSink notes what it is told, in words.
type fakeSink struct {
	mu   sync.Mutex
	told []string
}

func (s *fakeSink) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, fmt.Sprintf(format, a...))
}

func (s *fakeSink) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.told
	s.told = nil
	slices.Sort(told) // the two watches race
	return told
}

func (s *fakeSink) Reset(services []*api.Service, endpoints []*api.Endpoints, revision int64) {
	s.note("reset %d services, %d endpoints at %d", len(services), len(endpoints), revision)
}

func (s *fakeSink) Service(ev ServiceEvent) {
	if ev.Object != nil {
		s.note("%s service %s at %d", ev.Type, ev.Object.Meta.Name, ev.Revision)
	}
}

func (s *fakeSink) Endpoints(ev EndpointsEvent) {
	name := ""
	if ev.Object != nil {
		name = ev.Object.Meta.Name + " "
	}
	s.note("%s endpoints %sat %d", ev.Type, name, ev.Revision)
}

// TestFeed takes a feed through the life of a cluster's servers.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, sink := newServer(), &fakeSink{}
		path := filepath.Join(t.TempDir(), "services.json")
		run := func() (stop func()) {
			f := &Feed{Client: client.InProcess(server), Path: path, Sinks: []Sink{sink}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- f.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		}
		expect := func(when string, want ...string) {
			t.Helper()
			time.Sleep(time.Minute) // longer than any pause between tries
			synctest.Wait()
			if got := sink.take(); !slices.Equal(got, want) {
				t.Errorf("%s: told %q: want %q", when, got, want)
			}
		}
		web, webSlice := dnsService(), dnsEndpoints(pod1)
		server.put("services", "dns", web)
		server.put("endpoints", "dns-0", webSlice)
		server.put("pods", "other", nil)

		stop := run()
		expect("at start", "bookmark endpoints at 3", "reset 1 services, 1 endpoints at 3")
		server.put("endpoints", "dns-0", webSlice)
		expect("a change", "put endpoints dns-0 at 4")
		server.put("services", "dns", web)
		expect("another", "put service dns at 5")

		server.stop()
		expect("no server")
		server.put("endpoints", "dns-0", webSlice)
		server.start()
		expect("the server is back", "bookmark endpoints at 4", "put endpoints dns-0 at 6")
		if got := server.asked(); slices.Contains(got, "list endpoints") {
			t.Errorf("listed again without need: %v", got)
		}

		server.stop()
		server.put("services", "dns", web)
		server.mu.Lock()
		server.oldest = 7
		server.mu.Unlock()
		server.start()
		expect("history was dropped", "bookmark endpoints at 7", "reset 1 services, 1 endpoints at 7")
		stop()

		server.stop()
		stop = run()
		expect("a restart without a server", "reset 1 services, 1 endpoints at 0")
		server.start()
		expect("and then it is there", "bookmark endpoints at 7", "reset 1 services, 1 endpoints at 7")
		stop()
	})
}
