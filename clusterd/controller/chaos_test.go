package controller

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
)

// TestChaos lives through partitions, power cuts, agents that die, leaders that
// do, and views that lag, with everything as it is but the machines: the real
// API, all loops, and real agents over a runtime that is data. `make chaos` has
// long campaigns of it; every day has a few seeds.
func TestChaos(t *testing.T) {
	campaign(t)
	first, n := seeds(t, 3)
	for seed := first; seed < first+n; seed++ {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 11))
			s := &sieve{rng: rand.New(rand.NewPCG(seed, 1)), lag: time.Duration(rng.IntN(1500)) * time.Millisecond, cut: 5 + rng.IntN(20), gone: true, lose: 9 + rng.IntN(20), die: 25 + rng.IntN(40)}
			wrap := func(w *world, h http.Handler) http.Handler { s.next = h; return s }
			inDisturbedWorld(t, 0, s, wrap, func(w *world) { chaos(w, rng) })
		})
		if !ok {
			t.Fatalf("replay: CLUSTERD_SEED=%d go test ./clusterd/controller -run TestChaos", seed)
		}
	}
}

// hollowNode is a machine with a real agent.
type hollowNode struct {
	*hollow.Node
	w    *world
	name string
	cut  atomic.Bool // it reaches no server, and none reaches it
	stop func()      // its agent; nil: it does not run
}

// boot makes a node and starts its agent.
func (w *world) boot(name string, n int) *hollowNode {
	if _, err := client.Of(w.client, api.Nodes).Create(w.ctx, &api.Node{Meta: api.Meta{Name: name}}); err != nil {
		w.t.Fatal(err)
	}
	h := &hollowNode{w: w, name: name}
	inner := w.server.InProcess(apiserver.Identity{Role: apiserver.RoleNode, Name: name})
	gate := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if h.cut.Load() {
			http.Error(rw, `{"status":503,"detail":"cannot reach the server"}`, http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		inner.ServeHTTP(&cuttable{rw, h, cancel}, r.WithContext(ctx))
	})
	h.Node = hollow.New(hollow.Config{Name: name, Client: client.InProcess(gate), Subnet: netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)),
		Has: api.Resources{CPU: "550m", Memory: "2Gi", Pods: 6}, Lease: filepath.Join(w.t.TempDir(), "lease")})
	h.start()
	return h
}

// cuttable ends an answer whose node was cut off meanwhile.
type cuttable struct {
	http.ResponseWriter
	h    *hollowNode
	stop func()
}

func (c *cuttable) Write(b []byte) (int, error) {
	if c.h.cut.Load() {
		c.stop()
		return 0, fmt.Errorf("cut off")
	}
	return c.ResponseWriter.Write(b)
}

func (c *cuttable) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (h *hollowNode) start() {
	ctx, cancel := context.WithCancel(h.w.ctx)
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	h.stop = func() { cancel(); <-done }
	h.seen()
}

func (h *hollowNode) kill() {
	if h.stop != nil {
		h.stop()
		h.stop = nil
	}
	h.seen()
}

// back mends all that is wrong with it.
func (h *hollowNode) back() {
	h.cut.Store(false)
	if h.stop == nil {
		h.start()
	}
	h.seen()
}

// seen is what the witnesses make of it, which takes them a moment.
func (h *hollowNode) seen() {
	if h.cut.Load() {
		h.w.hearsay.set(h.name, Dead, false)
	} else {
		h.w.hearsay.set(h.name, Alive, h.stop != nil)
	}
}

// chaos runs a workload of each kind under what comes, watching all the while.
// There is not room for everything at all times, nor quota for everything that
// is asked for, and some of it does not run.
func chaos(w *world, rng *rand.Rand) {
	var nodes []*hollowNode
	for i := range 3 {
		nodes = append(nodes, w.boot(fmt.Sprintf("w%d", i+1), i+1))
	}
	defer func() {
		for _, h := range nodes {
			h.kill()
		}
	}()
	w.grant(api.Quota{CPU: "1150m", Replicas: new(10 + rng.IntN(4)), Storage: "3Gi"})
	audited := w.audit(nodes)
	order := []string{"ordered", "parallel"}[rng.IntN(2)]
	canary := []string{``, `,"canary":1,"auto_promote":"20s"`}[rng.IntN(2)]
	surge := 1 + rng.IntN(2)
	overlap := []string{"forbid", "allow", "replace"}[rng.IntN(3)]
	image := func(name string) string { // one in five does not run
		if rng.IntN(5) == 0 {
			return "exit-1-after-2s"
		}
		return fmt.Sprintf("%s:%d", name, rng.IntN(3))
	}
	specs := map[string]func() string{
		"web": func() string {
			return fmt.Sprintf(`{"image":%q,"replicas":%d,"cpu":"100m","memory":"64Mi","update":{"deadline":"2m","surge":%d%s}}`, image("web"), 1+rng.IntN(4), surge, canary)
		},
		"db": func() string {
			return fmt.Sprintf(`{"image":%q,"replicas":%d,"stateful":{"order":%q},"cpu":"200m","memory":"64Mi","update":{"deadline":"2m"},"stop":{"grace_period":"5s"}}`, image("db"), 1+rng.IntN(3), order)
		},
		"log": func() string {
			return fmt.Sprintf(`{"image":%q,"per_node":true,"cpu":"20m","memory":"16Mi","update":{"deadline":"2m"}}`, image("log"))
		},
	}
	names := slices.Sorted(maps.Keys(specs))
	declare := func(name string) {
		if _, err := w.declare(name, specs[name]()); err != nil && !api.Is(err, api.Conflict) { // no quota is left
			w.t.Fatal(err)
		}
	}
	for _, name := range names {
		declare(name)
	}
	w.run("tick", fmt.Sprintf(`{"image":"report","schedule":"* * * * *","concurrency":%q,"completions":3,"parallelism":2,"cpu":"50m","memory":"16Mi"}`, overlap))
	var story []string
	began := time.Now()
	note := func(format string, args ...any) {
		story = append(story, fmt.Sprintf("%s ", time.Since(began))+fmt.Sprintf(format, args...))
	}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("what happened: %s", strings.Join(story, "; "))
		}
	}()
	for range 25 {
		time.Sleep(time.Duration(500+rng.IntN(12000)) * time.Millisecond)
		h := nodes[rng.IntN(len(nodes))]
		switch rng.IntN(8) {
		case 0, 1:
			h.cut.Store(true)
			h.seen()
			note("%s is cut off", h.name)
		case 2, 3:
			h.back()
			note("%s is back", h.name)
		case 4:
			h.kill()
			note("the agent of %s is killed", h.name)
		case 5:
			h.kill()
			h.Reboot()
			h.start()
			note("%s reboots", h.name)
		default:
			name := names[rng.IntN(len(names))]
			declare(name)
			note("%s changes", name)
		}
		if w.t.Failed() {
			w.dump()
			return
		}
	}
	for _, h := range nodes {
		h.back()
	}
	w.eventually("all as declared", 15*time.Minute, func() bool {
		all := true
		for _, name := range names {
			a := w.app(name)
			if a == nil || a.Status.Rollout.Phase.Terminal() && strings.HasPrefix(a.Effective.Image, "exit") { // there was no quota, or nothing to go back to
				declare(name)
				all = false
				continue
			}
			all = all && a.Status.Rollout.Phase.Terminal() && (a.Status.Ready == api.Desired(a) || strings.Contains(a.Status.Message, api.WaitsForQuota))
		}
		return all
	})
	audited()
}
