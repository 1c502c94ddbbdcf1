package controller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/hollow"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// TestChaos lives through partitions, power cuts, agents that die, leaders that
// do, and views that lag, with everything as it is but the machines: the real
// API, all loops, and real agents over a runtime that is data. `make chaos` has
// long campaigns of it; every day has a few seeds.
func TestChaos(t *testing.T) {
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
		Has: api.Resources{CPU: "1", Memory: "2Gi", Pods: 20}, Lease: filepath.Join(w.t.TempDir(), "lease")})
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

// seen is what the witnesses make of it, which takes them a moment.
func (h *hollowNode) seen() {
	if h.cut.Load() {
		h.w.hearsay.set(h.name, Dead, false)
	} else {
		h.w.hearsay.set(h.name, Alive, h.stop != nil)
	}
}

// chaos runs an app of each kind under what comes, watching all the while.
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
	end := w.watchNodes(nodes)
	defer end()
	order := []string{"ordered", "parallel"}[rng.IntN(2)]
	web := func() string {
		return fmt.Sprintf(`{"image":"web:%d","replicas":3,"cpu":"100m","memory":"64Mi","update":{"deadline":"2m"}}`, rng.IntN(3))
	}
	db := func() string {
		return fmt.Sprintf(`{"image":"db:%d","replicas":%d,"stateful":{"order":%q},"cpu":"200m","memory":"64Mi","update":{"deadline":"2m"},"stop":{"grace_period":"5s"}}`, rng.IntN(3), 1+rng.IntN(3), order)
	}
	w.apply("web", web())
	w.apply("db", db())
	var story []string
	began := time.Now()
	note := func(format string, args ...any) {
		story = append(story, fmt.Sprintf("%s ", time.Since(began))+fmt.Sprintf(format, args...))
	}
	for range 25 {
		time.Sleep(time.Duration(500+rng.IntN(12000)) * time.Millisecond)
		h := nodes[rng.IntN(len(nodes))]
		switch rng.IntN(8) {
		case 0, 1:
			h.cut.Store(true)
			h.seen()
			note("%s is cut off", h.name)
		case 2, 3:
			h.cut.Store(false)
			if h.stop == nil {
				h.start()
			}
			h.seen()
			note("%s is back", h.name)
		case 4:
			h.kill()
			note("the agent of %s is killed", h.name)
		case 5:
			h.kill()
			h.Reboot()
			h.start()
			note("%s reboots", h.name)
		case 6:
			w.apply("db", db())
			note("db changes")
		case 7:
			w.apply("web", web())
			note("web changes")
		}
		if w.t.Failed() {
			w.dump()
			w.t.Logf("what happened: %s", strings.Join(story, "; "))
			return
		}
	}
	for _, h := range nodes {
		h.cut.Store(false)
		if h.stop == nil {
			h.start()
		}
		h.seen()
	}
	w.eventually("all as declared", 15*time.Minute, func() bool {
		for _, name := range []string{"web", "db"} {
			if a := w.app(name); a.Status.Ready != *a.Effective.Replicas || !a.Status.Rollout.Phase.Terminal() {
				return false
			}
		}
		return true
	})
	if w.t.Failed() {
		w.t.Logf("what happened: %s", strings.Join(story, "; "))
	}
}

// watchNodes looks at every machine all the time: at most one pod of an ordinal
// runs, no node holds more than it has, and phases only move forward.
func (w *world) watchNodes(nodes []*hollowNode) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	told := map[string]bool{}
	fail := func(format string, args ...any) { // once each
		if m := fmt.Sprintf(format, args...); !told[m] {
			told[m] = true
			w.t.Error(m)
		}
	}
	pods, uids := client.Of(w.client, api.Pods), map[string]*api.Pod{}
	look := func() {
		all, _, err := pods.List(ctx, w.ns, nil)
		if err != nil {
			return
		}
		cpu, bound := map[string]int64{}, map[string]int{}
		for _, p := range all {
			if was := uids[p.Meta.UID]; was != nil && !was.Status.Phase.MayBecome(p.Status.Phase) {
				fail("%s went from %s to %s", p.Meta.Name, was.Status.Phase, p.Status.Phase)
			}
			uids[p.Meta.UID] = &p
			if !p.Status.Phase.Ended() && p.Spec.Node != "" {
				milli, _ := p.Spec.Requests()
				cpu[p.Spec.Node] += milli
				bound[p.Spec.App]++
			}
		}
		for node, milli := range cpu {
			if milli > 1000 {
				fail("%dm are reserved on %s, which has 1000m", milli, node)
			}
		}
		holder := map[int]string{}
		for _, h := range nodes {
			runs, err := h.Runtime.List(ctx)
			if err != nil {
				continue
			}
			for _, r := range runs {
				p := uids[r.Labels[pod.LabelUID]]
				if r.State != runtime.Running || p == nil || p.Spec.Ordinal == nil {
					continue
				}
				me := fmt.Sprintf("%s on %s", p.Meta.Name, h.name)
				if other := holder[*p.Spec.Ordinal]; other != "" && other != me {
					fail("two pods of ordinal %d run: %s and %s", *p.Spec.Ordinal, other, me)
				}
				holder[*p.Spec.Ordinal] = me
			}
		}
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			look()
			sleep(ctx, 250*time.Millisecond)
		}
	})
	return func() { cancel(); wg.Wait(); synctest.Wait() }
}
