package agent

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// A rate takes two measurements. The one before is kept; where there is none,
// or it is too old to tell of now, a second one is taken a moment later.
const (
	sampleOld    = time.Minute
	sampleYoung  = time.Second
	sampleMoment = time.Second
)

// sample is what one container had used at a time.
type sample struct {
	pod string
	at  time.Time
	runtime.Usage
}

// meter remembers the last measurement of each container.
type meter struct {
	mu   sync.Mutex // one measures at a time
	last map[string]sample
}

// serveUsage answers GET /v1/usage: what each pod of the node uses.
func (a *Agent) serveUsage(w http.ResponseWriter, r *http.Request) error {
	a.meter.mu.Lock()
	defer a.meter.mu.Unlock()
	before := a.meter.last
	now, err := a.measure(r)
	if err != nil {
		return err
	}
	if again := stale(before, now); again {
		before = now
		t := time.NewTimer(sampleMoment)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return r.Context().Err()
		}
		if now, err = a.measure(r); err != nil {
			return err
		}
	}
	a.meter.last = now
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(api.UsageAnswer{Items: rates(before, now)})
}

// measure asks the runtime for every container that runs.
func (a *Agent) measure(r *http.Request) (map[string]sample, error) {
	all, err := a.cfg.Runtime.List(r.Context())
	if err != nil {
		return nil, err
	}
	out := map[string]sample{}
	for _, st := range all {
		if st.State != runtime.Running {
			continue
		}
		u, err := a.cfg.Runtime.Usage(r.Context(), st.ID)
		if errors.Is(err, runtime.ErrNotRunning) || errors.Is(err, runtime.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[st.ID] = sample{st.Pod, time.Now(), u}
	}
	return out, nil
}

// stale reports whether some container has no measurement to compare with.
func stale(before, now map[string]sample) bool {
	for id, s := range now {
		was, ok := before[id]
		if age := s.at.Sub(was.at); !ok || age < sampleYoung || age > sampleOld {
			return true
		}
	}
	return false
}

// rates sums up by pod what its containers used between two measurements. A
// container that has only one is left out, and its pod with it: half a number
// is none.
func rates(before, now map[string]sample) []api.PodUsage {
	pods, partial := map[string]*api.PodUsage{}, map[string]bool{}
	for id, s := range now {
		was, ok := before[id]
		if !ok || !s.at.After(was.at) {
			partial[s.pod] = true
			continue
		}
		u := pods[s.pod]
		if u == nil {
			u = &api.PodUsage{UID: s.pod, At: s.at.UTC()}
			pods[s.pod] = u
		}
		u.CPU += int64(max(0, s.CPU-was.CPU)) * 1000 / int64(s.at.Sub(was.at))
		u.Memory += s.Memory
	}
	out := []api.PodUsage{}
	for uid, u := range pods {
		if !partial[uid] {
			out = append(out, *u)
		}
	}
	return out
}
