package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/scheduler"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// world is a whole cluster in a bubble of virtual time: the real API over
// memory, the real loops and scheduler, and machines that execute pods.
type world struct {
	t       *testing.T
	ctx     context.Context
	client  *client.Client // as the user has it
	server  *apiserver.Server
	hearsay *hearsay
	machine map[string]*machine
	poison  sync.Map // versions of contents that make any pod bad, by hash
	ns      string
	skew    atomic.Int64 // by how much the leader's clock is ahead
	tags    *tags
}

// inWorld runs f in a world with the nodes; wrap, if any, comes between the
// loops and the API.
func inWorld(t *testing.T, nodes int, wrap func(*world, http.Handler) http.Handler, f func(w *world)) {
	inDisturbedWorld(t, nodes, &sieve{}, wrap, f)
}

// inDisturbedWorld is inWorld with leaders that end when the sieve says so.
func inDisturbedWorld(t *testing.T, nodes int, s *sieve, wrap func(*world, http.Handler) http.Handler, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		s.deaths = make(chan struct{}, 1) // of this bubble
		tags := new(tags)
		server, err := apiserver.Open(ctx, apiserver.Config{PodsCIDR: "10.128.0.0/9", Log: hclog.NewNullLogger(), Registry: tags})
		if err != nil {
			t.Fatal(err)
		}
		serverEnded := make(chan struct{})
		behind, stopServer := context.WithCancel(context.WithoutCancel(ctx))
		go func() { server.Run(behind); close(serverEnded) }()
		defer func() {
			cancel()
			wg.Wait()
			stopServer()
			<-serverEnded
			server.Close()
			synctest.Wait()
		}()
		handler := server.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: "loops"})
		user := client.InProcess(server.InProcess(apiserver.Identity{Role: apiserver.RoleUser, Name: "ada"}))
		w := &world{t: t, ctx: ctx, client: user, server: server, hearsay: newHearsay(), machine: map[string]*machine{}, ns: api.DefaultNamespace, tags: tags}
		for i := range nodes {
			w.join(fmt.Sprintf("w%d", i+1), "2", "2Gi")
		}
		if wrap != nil {
			handler = wrap(w, handler)
		}
		wg.Go(func() {
			for ctx.Err() == nil { // leaders follow each other
				term, end := context.WithCancel(ctx)
				stop := context.AfterFunc(ctx, end)
				go func() {
					select {
					case <-s.deaths:
						end()
					case <-term.Done():
					}
				}()
				w.terms(term, handler)
				stop()
				end()
			}
		})
		for _, m := range w.machine {
			wg.Go(func() { m.run(ctx) })
		}
		w.allReady()
		f(w)
	})
}

// terms leads whenever the server does, with the fence of the term.
func (w *world) terms(ctx context.Context, handler http.Handler) {
	end := func() {}
	for fence := range w.server.Leader(ctx) {
		end()
		end = func() {}
		if fence == 0 {
			continue
		}
		term, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.lead(term, client.InProcess(handler).Fenced(func() int64 { return fence }))
		}()
		end = func() { stop(); <-done }
	}
	end()
}

// lead runs what a leading server runs.
func (w *world) lead(ctx context.Context, c *client.Client) {
	log := hclog.NewNullLogger()
	if os.Getenv("CLUSTERD_TEST_LOG") != "" {
		log = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr, TimeFormat: "05.000"})
	}
	caches := reconcile.NewCaches(c, log)
	var wg sync.WaitGroup
	wg.Go(func() { caches.Run(ctx) })
	wg.Go(func() { scheduler.Run(ctx, scheduler.Config{Client: c, Caches: caches, Log: log}) })
	wg.Go(func() {
		Run(ctx, Config{Client: c, Caches: caches, Witness: w.hearsay, Leases: w.server.Leases(), Now: w.now, Log: log})
	})
	wg.Wait()
}

// now is what the leader's clock shows.
func (w *world) now() time.Time { return api.Now().Add(time.Duration(w.skew.Load())) }

// join makes a node and its machine, which is up.
func (w *world) join(name, cpu, memory string) {
	nodes := client.Of(w.client, api.Nodes)
	n := &api.Node{Meta: api.Meta{Name: name, Labels: map[string]string{"zone": "z" + name[1:]}}}
	n, err := nodes.Create(w.ctx, n)
	if err != nil {
		w.t.Fatal(err)
	}
	n.Status.Allocatable = api.Resources{CPU: api.CPU(cpu), Memory: api.Memory(memory), Pods: 20}
	if _, err := nodes.PutStatus(w.ctx, n); err != nil {
		w.t.Fatal(err)
	}
	system := client.InProcess(w.server.InProcess(apiserver.Identity{Role: apiserver.RoleNode, Name: name}))
	w.machine[name] = &machine{name: name, pods: client.Of(system, api.Pods), begun: map[string]bool{}, poison: &w.poison}
	w.hearsay.set(name, Alive, true)
}

// eventually waits in virtual time until ok says yes.
func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for time.Since(start) <= within {
		synctest.Wait()
		if ok() {
			return time.Since(start)
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.dump()
	w.t.Fatalf("not within %s: %s", within, what)
	return 0
}

func (w *world) dump() {
	apps, _, _ := client.Of(w.client, api.Apps).List(w.ctx, w.ns, nil)
	for _, a := range apps {
		w.t.Logf("app %s gen %d: %+v", a.Meta.Name, a.Meta.Generation, a.Status)
	}
	for _, p := range w.pods() {
		w.t.Logf("pod %s on %q deleting=%v %+v", p.Meta.Name, p.Spec.Node, p.Meta.Deleting(), p.Status)
	}
	nodes, _, _ := client.Of(w.client, api.Nodes).List(w.ctx, "", nil)
	for _, n := range nodes {
		w.t.Logf("node %s %+v", n.Meta.Name, n.Status.Health)
	}
}

func (w *world) pods() []*api.Pod {
	pods, _, err := client.Of(w.client, api.Pods).List(w.ctx, w.ns, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return pods
}

func (w *world) app(name string) *api.App {
	a, err := client.Of(w.client, api.Apps).Get(w.ctx, w.ns, name)
	if err != nil && !api.Is(err, api.NotFound) {
		w.t.Fatal(err)
	}
	return a
}

// apply declares an app and returns its generation.
func (w *world) apply(name, spec string) int64 {
	w.t.Helper()
	generation, err := w.declare(name, spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return generation
}

// declare is apply for what may be refused.
func (w *world) declare(name, spec string) (generation int64, err error) {
	a := new(api.App)
	body := json.RawMessage(fmt.Sprintf(`{"spec":%s}`, spec))
	err = w.client.Call(w.ctx, http.MethodPut, client.Path(api.Apps.Info(), w.ns, name), nil, body, a)
	return a.Meta.Generation, err
}

// grant gives the namespace a quota.
func (w *world) grant(q api.Quota) {
	w.t.Helper()
	ns := &api.Namespace{Meta: api.Meta{Name: w.ns}, Spec: api.NamespaceSpec{Quota: &q}}
	if _, err := client.Of(w.client, api.Namespaces).Put(w.ctx, ns); err != nil {
		w.t.Fatal(err)
	}
}

// ended waits until the rollout of a generation has ended, and returns it.
func (w *world) ended(name string, generation int64, within time.Duration) *api.Rollout {
	w.t.Helper()
	var ro *api.Rollout
	w.eventually(fmt.Sprintf("rollout of generation %d of %s ends", generation, name), within, func() bool {
		ro = w.app(name).Status.RolloutOf(generation)
		return ro != nil && ro.Phase.Terminal()
	})
	return ro
}

func (w *world) readyPods(revision string) (n int) {
	for _, p := range w.pods() {
		if p.Status.Ready && !p.Meta.Deleting() && (revision == "" || p.Spec.Revision == revision) {
			n++
		}
	}
	return n
}

// hearsay is a Witness that says what it is told.
type hearsay struct {
	mu      sync.Mutex
	gossip  map[string]Heard
	streams map[string]time.Time
	changed chan struct{}
}

func newHearsay() *hearsay {
	return &hearsay{gossip: map[string]Heard{}, streams: map[string]time.Time{}, changed: make(chan struct{}, 1)}
}

func (h *hearsay) set(node string, state Hearsay, connected bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gossip[node] = Heard{state, time.Now()}
	if _, was := h.streams[node]; connected && !was {
		h.streams[node] = time.Now()
	} else if !connected {
		delete(h.streams, node)
	}
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *hearsay) Gossip() map[string]Heard {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.gossip)
}

func (h *hearsay) Streams() map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.streams)
}

func (h *hearsay) Changes() <-chan struct{} { return h.changed }

// machine executes the pods of one node. What a pod does is said by its image:
// good is ready after a second; bad crashes for certain after three; never
// starts and is not ready; dies fails after two seconds. Of a pod that runs
// once: good succeeds after two seconds, slow after ninety, bad fails after one.
type machine struct {
	name string
	pods *client.Kind[*api.Pod]

	poison *sync.Map

	mu    sync.Mutex
	off   bool
	begun map[string]bool // by UID, with /stop for the stop
	ip    int
	broke string // an image that fails here from now on
}

// fails makes pods of an image that start from now on crash.
func (m *machine) fails(image string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broke = image
}

func (m *machine) power(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = !on
}

func (m *machine) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		for ev, err := range m.pods.Watch(ctx, "", client.By("node", m.name), 0) {
			if err != nil {
				break
			}
			if ev.Type != api.EventPut {
				continue
			}
			pod := ev.Object
			if m.once(pod.Meta.UID) {
				wg.Go(func() { m.start(ctx, pod) })
			}
			if pod.Meta.Deleting() && m.once(pod.Meta.UID+"/stop") {
				wg.Go(func() { m.stop(ctx, pod) })
			}
		}
		sleep(ctx, time.Second)
	}
}

func (m *machine) once(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off || m.begun[what] {
		return false
	}
	m.begun[what] = true
	return true
}

func (m *machine) start(ctx context.Context, pod *api.Pod) {
	m.mu.Lock()
	m.ip++
	node, _ := strconv.Atoi(m.name[1:])
	ip := fmt.Sprintf("10.%d.%d.%d", 244+node>>8, node&255, m.ip)
	m.mu.Unlock()
	m.report(ctx, pod, func(st *api.PodStatus) { st.Phase, st.IP, st.Reason, st.Message = api.PhaseRunning, ip, "", "" })
	image, tag, _ := strings.Cut(pod.Spec.Image, ":")
	if strings.HasSuffix(tag, "@"+badDigest) {
		image = "bad"
	}
	for _, hash := range pod.Spec.Contents {
		if _, bad := m.poison.Load(hash); bad {
			image = "bad"
		}
	}
	m.mu.Lock()
	if image == m.broke {
		image = "bad"
	}
	m.mu.Unlock()
	if pod.Spec.Once {
		m.finish(ctx, pod, image)
		return
	}
	switch image {
	case "good":
		sleep(ctx, time.Second)
		m.report(ctx, pod, func(st *api.PodStatus) { st.Ready, st.ReadyAt = true, time.Now().UTC() })
	case "bad":
		sleep(ctx, 3*time.Second)
		code := 7
		m.report(ctx, pod, func(st *api.PodStatus) {
			st.Reason = "crash_loop"
			st.Fatal = &api.Cause{Reason: "crash_loop", Message: "main exited with code 7 three times", Container: "main", ExitCode: &code, Log: []string{"no such file"}}
		})
	case "dies":
		sleep(ctx, 2*time.Second)
		m.report(ctx, pod, func(st *api.PodStatus) { st.Phase, st.EndedAt = api.PhaseFailed, time.Now().UTC() })
	}
}

// finish is what a pod does that runs once.
func (m *machine) finish(ctx context.Context, pod *api.Pod, image string) {
	switch image {
	case "good":
		sleep(ctx, 2*time.Second)
	case "slow":
		sleep(ctx, 90*time.Second)
	case "bad":
		sleep(ctx, time.Second)
		code := 7
		m.report(ctx, pod, func(st *api.PodStatus) {
			st.Phase, st.EndedAt = api.PhaseFailed, time.Now().UTC()
			st.Fatal = &api.Cause{Reason: "exited", Message: "main exited with code 7", Container: "main", ExitCode: &code, Log: []string{"no such table"}}
		})
		return
	default:
		return
	}
	m.report(ctx, pod, func(st *api.PodStatus) { st.Phase, st.EndedAt = api.PhaseSucceeded, time.Now().UTC() })
}

func (m *machine) stop(ctx context.Context, pod *api.Pod) {
	m.report(ctx, pod, func(st *api.PodStatus) { st.Phase, st.Ready = api.PhaseStopping, false })
	sleep(ctx, time.Second)
	m.report(ctx, pod, func(st *api.PodStatus) { st.Phase, st.EndedAt = api.PhaseSucceeded, time.Now().UTC() })
}

// report writes a status as an agent does: from its own memory of the pod.
func (m *machine) report(ctx context.Context, pod *api.Pod, change func(*api.PodStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off || pod.Status.Phase.Ended() || pod.Status.Phase == api.PhaseStopping && pod.Status.Ready {
		return
	}
	next := *pod
	now, err := m.pods.Get(ctx, pod.Meta.Namespace, pod.Meta.Name)
	if err != nil || now.Meta.UID != pod.Meta.UID {
		return
	}
	next.Status = now.Status
	stopping := next.Status.Phase == api.PhaseStopping
	change(&next.Status)
	if stopping {
		next.Status.Ready = false
		if !next.Status.Phase.Ended() {
			next.Status.Phase = api.PhaseStopping
		}
	}
	m.pods.PutStatus(ctx, &next)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
