package controller

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

const (
	// scaleEvery is how often an app that scales is measured.
	scaleEvery = 15 * time.Second
	// tolerance is how far usage may be from its target with nothing done.
	tolerance = 0.1
)

// load is what one ready pod of an app uses of what it reserves; nil usage is
// not known.
type load struct {
	cpu, memory int64 // reserved: thousandths of a core, bytes
	usage       *api.PodUsage
}

// opinion is how many pods were enough at a time.
type opinion struct {
	at time.Time
	n  int
}

// planScale decides how many pods an app should have, of what its ready pods
// use, and of what would have been enough lately. It is pure.
//
// Enough is as many pods as bring the average usage to the target, the larger
// number where cpu and memory differ. Pods whose usage is not known never make
// it fewer. More pods come only after they were needed all through up_window,
// fewer only after they were enough all through down_window.
func planScale(s api.Scale, desired int, loads []load, trend []opinion, now time.Time) (n int, next []opinion) {
	n = min(max(desired, api.Deref(s.Min)), s.Max)
	enough := enough(s, n, loads)
	longest := max(s.UpWindow.D(), s.DownWindow.D())
	next = slices.DeleteFunc(slices.Clone(trend), func(o opinion) bool { return now.Sub(o.at) > longest+scaleEvery })
	next = append(next, opinion{now, enough})
	least, most := within(next, s.UpWindow.D(), now), within(next, s.DownWindow.D(), now)
	if len(least) > 0 {
		if up := slices.Min(least); up > n {
			return min(up, s.Max), next
		}
	}
	if len(most) > 0 {
		if down := slices.Max(most); down < n {
			return max(down, api.Deref(s.Min)), next
		}
	}
	return n, next
}

// within returns the opinions of a window, none if they do not cover it.
func within(trend []opinion, window time.Duration, now time.Time) (in []int) {
	covered := false
	for _, o := range trend {
		covered = covered || now.Sub(o.at) >= window
		if now.Sub(o.at) <= window {
			in = append(in, o.n)
		}
	}
	if !covered {
		return nil
	}
	return in
}

// enough returns how many pods the load asks for, n when that is not known.
func enough(s api.Scale, n int, loads []load) int {
	var cpu, memory, ofCPU, ofMemory int64
	known := 0
	for _, l := range loads {
		if l.usage == nil {
			continue
		}
		known++
		cpu, memory = cpu+l.usage.CPU, memory+l.usage.Memory
		ofCPU, ofMemory = ofCPU+l.cpu, ofMemory+l.memory
	}
	if known == 0 {
		return n
	}
	want := 0
	for _, by := range []struct {
		target         *int
		used, reserved int64
	}{{s.CPU, cpu, ofCPU}, {s.Memory, memory, ofMemory}} {
		if by.target == nil || by.reserved == 0 {
			continue
		}
		ratio := float64(by.used) / float64(by.reserved) * 100 / float64(*by.target)
		asks := len(loads)
		if math.Abs(ratio-1) > tolerance {
			asks = int(math.Ceil(float64(known)*ratio - 1e-9))
			if ratio > 1 {
				asks += len(loads) - known // what is not known is taken to be at its target
			}
		}
		want = max(want, asks)
	}
	if want < n && (known < len(loads) || len(loads) < n) {
		return n // some are not known, or not ready yet
	}
	return min(max(want, api.Deref(s.Min)), s.Max)
}

// scaler measures apps that scale, and remembers what would have been enough.
// It never writes: the app loop reads what it wants, and says so in the status.
type scaler struct {
	client *client.Client

	mu   sync.Mutex
	apps map[string]*scaled // by UID
}

type scaled struct {
	mu    sync.Mutex
	at    time.Time
	trend []opinion
}

func newScaler(c *client.Client) *scaler { return &scaler{client: c, apps: map[string]*scaled{}} }

// wants returns how many pods an app should have, and when to ask again.
func (s *scaler) wants(ctx context.Context, app *api.App, pods []*api.Pod) (n int, again time.Duration) {
	s.mu.Lock()
	of := s.apps[app.Meta.UID]
	if of == nil {
		of = &scaled{}
		s.apps[app.Meta.UID] = of
	}
	s.mu.Unlock()
	of.mu.Lock()
	defer of.mu.Unlock()
	now := api.Now()
	if left := scaleEvery - now.Sub(of.at); left > 0 {
		return app.Status.Desired, left
	}
	of.at = now
	known := map[string]*api.PodUsage{}
	var said api.UsageAnswer
	if err := s.client.Call(ctx, http.MethodGet, "/v1/usage", url.Values{"namespace": {app.Meta.Namespace}}, nil, &said); err == nil {
		for i := range said.Items {
			known[said.Items[i].UID] = &said.Items[i]
		}
	} // else nothing is known
	var loads []load
	for _, pod := range ready(pods) {
		if pod.Meta.Deleting() || pod.Status.Phase.Ended() {
			continue
		}
		cpu, memory := pod.Spec.Requests()
		loads = append(loads, load{cpu, memory, known[pod.Meta.UID]})
	}
	n, of.trend = planScale(*app.Effective.Scale, app.Status.Desired, loads, of.trend, now)
	return n, scaleEvery
}

// forget drops what is remembered of apps that are gone.
func (s *scaler) forget(living []*api.App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	uids := map[string]bool{}
	for _, app := range living {
		uids[app.Meta.UID] = true
	}
	for uid := range s.apps {
		if !uids[uid] {
			delete(s.apps, uid)
		}
	}
}
