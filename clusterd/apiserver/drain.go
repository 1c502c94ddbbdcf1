package apiserver

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// The drain barrier lets a stopping pod lose no connection: its agent asks here
// until every node sends new ones elsewhere, and only then signals it. Proxies
// report how far they have followed the endpoints; the store sees none of it.

// applied is how far the proxy of each node has followed the endpoints.
type applied struct {
	mu       sync.Mutex
	revision map[string]int64
	changed  chan struct{} // closed and replaced with every report
}

func (a *applied) init() { a.revision, a.changed = map[string]int64{}, make(chan struct{}) }

func (a *applied) report(node string, revision int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if revision == a.revision[node] {
		return
	}
	// A proxy that starts anew may be behind what its predecessor had reached.
	a.revision[node] = revision
	close(a.changed)
	a.changed = make(chan struct{})
}

// behind returns which of the nodes have not reached revision.
func (a *applied) behind(nodes []string, revision int64) (late []string, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range nodes {
		if a.revision[n] < revision {
			late = append(late, n)
		}
	}
	slices.Sort(late)
	return late, a.changed
}

// serveApplied answers POST /v1/nodes/{name}/applied.
func (s *Server) serveApplied(w http.ResponseWriter, r *request) error {
	node := r.PathValue("name")
	if err := s.onlyNode(r.by, node); err != nil {
		return err
	}
	rep, err := decodeBody[api.AppliedReport](w, r, 1<<10, r.by.check)
	if err != nil {
		return err
	}
	s.applied.report(node, rep.Revision)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Bounds of the timeout a caller asks for.
const (
	drainDefault = 2 * time.Second
	drainMost    = 30 * time.Second
)

// serveDrained answers GET …/pods/{name}/drained: as soon as no node sends new
// connections to the pod, or when the timeout has passed.
func (s *Server) serveDrained(w http.ResponseWriter, r *request) error {
	wait := drainDefault
	if q := r.URL.Query().Get("timeout"); q != "" {
		d, err := time.ParseDuration(q)
		if err != nil || d < 0 {
			return api.Errorf(api.BadRequest, "timeout: want a duration such as 2s")
		}
		wait = min(d, drainMost)
	}
	o, snap, err := s.pod(r, api.VerbRead)
	if err != nil {
		return err
	}
	r.stand()
	ans, err := s.awaitDrained(r, o, snap, wait)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, snap.revision, marshal(ans))
	return nil
}

func (s *Server) awaitDrained(r *request, pod *object, snap *snapshot, wait time.Duration) (ans api.DrainedAnswer, err error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	out := int64(0) // the endpoints' revision since which the pod is out
	for {
		advanced := s.cache.next()
		if now := s.cache.now.Load(); now != nil {
			snap = now
		}
		if out == 0 {
			if out, err = s.outSince(snap, pod); err != nil {
				return ans, err
			}
		}
		ans.Waiting = nil
		var changed <-chan struct{}
		if out != 0 {
			var nodes []string
			if s.cfg.Tunnels != nil {
				nodes = s.cfg.Tunnels.Connected()
			}
			if ans.Waiting, changed = s.applied.behind(nodes, out); ans.Waiting == nil {
				ans.Drained = true
				return ans, nil
			}
			advanced = nil
		}
		select {
		case <-advanced:
		case <-changed:
		case <-timer.C:
			return ans, nil
		case <-r.Context().Done():
			return ans, r.Context().Err()
		}
	}
}

// never is a revision every proxy has reached: nothing ever pointed at the pod.
const never = -1

// outSince returns the revision from which on the endpoints send nobody to the
// pod: that of the newest slice of its app's services. 0 means that one still does.
func (s *Server) outSince(snap *snapshot, pod *object) (revision int64, err error) {
	revision = never
	services, endpoints := s.kinds["services"], s.kinds["endpoints"]
	snap.eachWhere(services, "app", pod.indexed("app"), func(svc *object) bool {
		if svc.meta.Namespace != pod.meta.Namespace {
			return true
		}
		snap.eachWhere(endpoints, "service", svc.meta.Name, func(slice *object) bool {
			if slice.meta.Namespace != pod.meta.Namespace {
				return true
			}
			var spec api.EndpointsSpec
			if err = json.Unmarshal(slice.spec, &spec); err != nil {
				return false
			}
			for _, a := range spec.Addresses {
				if a.UID == pod.meta.UID && !a.Draining {
					revision = 0
				}
			}
			if revision != 0 {
				revision = max(revision, slice.meta.Revision)
			}
			return revision != 0
		})
		return err == nil && revision != 0
	})
	return revision, err
}
