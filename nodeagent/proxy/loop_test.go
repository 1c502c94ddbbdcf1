package proxy

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// fakeKernel keeps what it is told, as the real one does, and fails on demand.
type fakeKernel struct {
	left    Ruleset // by an earlier run
	there   bool
	sets    map[string]map[string]string
	failing error
	touched chan struct{} // by others, until the next look

	replaced, updated int
	swept             []bool // whether a UDP flow to gone was found stale, per sweep
	watch             chan struct{}
}

var gone = netip.MustParseAddrPort("10.244.2.9:8080")

func (k *fakeKernel) read() (Ruleset, bool, error) { return k.left, k.there, nil }

func (k *fakeKernel) replace(rules Ruleset) error {
	if k.failing != nil {
		return k.failing
	}
	k.replaced++
	k.there = true
	k.sets = elementsOf(contents(rules, testNode.ranges))
	return nil
}

func (k *fakeKernel) update(c *changes) error {
	if k.failing != nil {
		return k.failing
	}
	k.updated++
	applyElements(nil, k.sets, c)
	return nil
}

func (k *fakeKernel) intact(rules Ruleset) (bool, error) {
	select {
	case <-k.touched:
		return false, nil
	default:
	}
	return equalElements(k.sets, elementsOf(contents(rules, testNode.ranges))), nil
}

func (k *fakeKernel) sweep(stale func(flow) bool) (int, error) {
	k.swept = append(k.swept, stale(flow{UDP, netip.MustParseAddrPort("10.96.0.10:53"), gone, false}))
	return 0, nil
}

// loop runs a proxy on a fake kernel in a bubble of virtual time.
func loop(t *testing.T, k *fakeKernel, do func(p *Proxy, applied *[]int64)) {
	synctest.Test(t, func(t *testing.T) {
		var applied []int64
		p := newProxy(Config{Pods: testNode.pods, Subnet: testNode.subnet, Services: testNode.services,
			Applied: func(_ context.Context, revision int64) error { applied = append(applied, revision); return nil }}, k)
		k.watch, k.touched = make(chan struct{}), make(chan struct{}, 1)
		p.touched = func(ctx context.Context, do func()) error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-k.watch:
					do()
				}
			}
		}
		if err := p.takeOver(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		do(p, &applied)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// pass lets time pass. The lock tells the race detector that what the loop does
// then comes after what the test did before.
func pass(p *Proxy, d time.Duration) {
	p.mu.Lock()
	p.mu.Unlock() //nolint:staticcheck // see above
	time.Sleep(d)
	synctest.Wait()
}

func dnsService() *api.Service {
	s := &api.Service{}
	s.Meta.Namespace, s.Meta.Name = "shop", "dns"
	s.Effective = api.ServiceSpec{App: "dns", IP: "10.96.0.10", Ports: map[string]api.ServicePort{"dns": {Port: 53, Protocol: "udp"}}}
	return s
}

func dnsEndpoints(pods ...netip.AddrPort) *api.Endpoints {
	e := &api.Endpoints{}
	e.Meta.Namespace, e.Meta.Name, e.Spec.Service = "shop", "dns-0", "dns"
	for _, pod := range pods {
		e.Spec.Addresses = append(e.Spec.Addresses, api.Endpoint{IP: pod.Addr().String(), Ports: map[string]int{"dns": int(pod.Port())}})
	}
	return e
}

var (
	pod1 = netip.MustParseAddrPort("10.244.1.2:8080")
	pod2 = netip.MustParseAddrPort("10.244.1.3:8080")
)

func put(e *api.Endpoints, revision int64) EndpointsEvent {
	return EndpointsEvent{Type: api.EventPut, Revision: revision, Object: e}
}

func TestFirstRunRejectsUntilServicesAreKnown(t *testing.T) {
	k := &fakeKernel{}
	loop(t, k, func(p *Proxy, applied *[]int64) {
		if k.replaced != 1 || len(k.sets) != 0 {
			t.Fatalf("replaced %d times: %v", k.replaced, k.sets)
		}
		p.Endpoints(put(dnsEndpoints(pod1), 5)) // no Reset: this may be half of the truth
		synctest.Wait()
		if k.replaced != 1 || k.updated != 0 || len(*applied) > 0 {
			t.Fatalf("programmed before the services were known: %d, %d, %v", k.replaced, k.updated, *applied)
		}
	})
}

func TestAppliedFollowsTheKernel(t *testing.T) {
	k := &fakeKernel{}
	loop(t, k, func(p *Proxy, applied *[]int64) {
		p.Reset([]*api.Service{dnsService()}, []*api.Endpoints{dnsEndpoints(pod1)}, 7)
		synctest.Wait()
		if !slices.Equal(*applied, []int64{7}) || len(k.sets["random12"]) != 12 {
			t.Fatalf("applied %v: %v", *applied, k.sets)
		}
		k.failing = errors.New("no memory")
		p.Endpoints(put(dnsEndpoints(pod2), 8))
		synctest.Wait()
		if len(*applied) != 1 {
			t.Fatalf("applied %v although the kernel refused", *applied)
		}
		k.failing = nil
		pass(p, retryAfter)
		if !slices.Equal(*applied, []int64{7, 8}) || k.replaced != 3 {
			t.Fatalf("applied %v after the kernel recovered, replaced %d times", *applied, k.replaced)
		}
		// Nothing of ours changed, and yet everything up to 9 is applied.
		p.Endpoints(EndpointsEvent{Type: api.EventBookmark, Revision: 9})
		synctest.Wait()
		if !slices.Equal(*applied, []int64{7, 8, 9}) || k.updated != 0 {
			t.Fatalf("applied %v, updated %d times", *applied, k.updated)
		}
	})
}

func TestAppliedIsToldAgainAndNewestOnly(t *testing.T) {
	k := &fakeKernel{}
	loop(t, k, func(p *Proxy, applied *[]int64) {
		var down atomic.Bool
		down.Store(true)
		p.cfg.Applied = func(_ context.Context, revision int64) error {
			if down.Load() {
				return errors.New("no server")
			}
			*applied = append(*applied, revision)
			return nil
		}
		p.Reset([]*api.Service{dnsService()}, nil, 7)
		for revision := range int64(5) {
			synctest.Wait()
			p.Endpoints(put(dnsEndpoints(pod1, pod2), 10+revision))
		}
		synctest.Wait()
		down.Store(false)
		pass(p, 2*retryAfter)
		if !slices.Equal(*applied, []int64{14}) {
			t.Fatalf("applied %v", *applied)
		}
	})
}

func TestTouchedTableIsReplaced(t *testing.T) {
	k := &fakeKernel{}
	loop(t, k, func(p *Proxy, _ *[]int64) {
		p.Reset([]*api.Service{dnsService()}, []*api.Endpoints{dnsEndpoints(pod1)}, 7)
		synctest.Wait()
		was := k.replaced
		k.watch <- struct{}{}
		synctest.Wait()
		if k.replaced != was {
			t.Fatal("replaced a table that is as it should be")
		}
		k.touched <- struct{}{}
		k.watch <- struct{}{}
		synctest.Wait()
		if k.replaced != was+1 {
			t.Fatal("a touched table was not replaced")
		}
		k.touched <- struct{}{} // and nobody says so
		pass(p, recheck)
		if k.replaced != was+2 {
			t.Fatal("a touched table was not found")
		}
	})
}

func TestLostPodIsSwept(t *testing.T) {
	k := &fakeKernel{}
	loop(t, k, func(p *Proxy, _ *[]int64) {
		p.Reset([]*api.Service{dnsService()}, []*api.Endpoints{dnsEndpoints(gone, pod1)}, 7)
		pass(p, time.Second)
		p.Endpoints(put(dnsEndpoints(gone, pod1, pod2), 8)) // one more: nothing can be stale
		pass(p, time.Second)
		p.Endpoints(put(dnsEndpoints(pod1, pod2), 9))
		pass(p, time.Second)
		if !slices.Equal(k.swept, []bool{false, true}) {
			t.Fatalf("swept %v", k.swept)
		}
		s := dnsService()
		p.Service(ServiceEvent{Type: api.EventDelete, Object: s})
		pass(p, time.Second)
		if !slices.Equal(k.swept, []bool{false, true, true}) {
			t.Fatalf("swept %v after the service is gone", k.swept)
		}
	})
}

// TestRestartKeepsSlots: what an earlier run left stays until the services are
// known, and then only slots that must move do.
func TestRestartKeepsSlots(t *testing.T) {
	f := Frontend{netip.MustParseAddr("10.96.0.10"), UDP, 53}
	slots := make([]netip.AddrPort, 12)
	for i := range slots {
		slots[i] = []netip.AddrPort{pod1, gone}[i/6] // as history had it
	}
	k := &fakeKernel{there: true, left: Ruleset{f: {Slots: slots}}}
	loop(t, k, func(p *Proxy, _ *[]int64) {
		if k.replaced != 0 {
			t.Fatal("replaced the table of the earlier run without knowing better")
		}
		p.Reset([]*api.Service{dnsService()}, []*api.Endpoints{dnsEndpoints(pod1, pod2)}, 8)
		synctest.Wait()
		for i, pod := range p.rules[f].Slots {
			if want := []netip.AddrPort{pod1, pod2}[i/6]; pod != want {
				t.Errorf("slot %d moved to %s", i, pod)
			}
		}
		was := maps.Clone(k.sets["random12"])
		p.Reset([]*api.Service{dnsService()}, []*api.Endpoints{dnsEndpoints(pod2, pod1)}, 9) // as another server lists them
		synctest.Wait()
		if k.replaced != 1 || k.updated != 0 || !maps.Equal(was, k.sets["random12"]) {
			t.Errorf("replaced %d, updated %d times though nothing changed", k.replaced, k.updated)
		}
	})
}

// TestWhatIsRememberedIsOlder: an agent that ended between a change and its note
// of it left the kernel with more than it remembers. That stays until a server
// says how things are, or somebody takes it away.
func TestWhatIsRememberedIsOlder(t *testing.T) {
	newer := planService(dnsService(), []*api.Endpoints{dnsEndpoints(pod1, pod2)}, nil)
	left := func() *fakeKernel {
		return &fakeKernel{there: true, left: newer, sets: elementsOf(contents(newer, testNode.ranges))}
	}
	for name, tc := range map[string]struct {
		then func(k *fakeKernel, p *Proxy)
		want int // replaced
	}{
		"nothing else is known":   {func(*fakeKernel, *Proxy) {}, 0},
		"somebody looks":          {func(k *fakeKernel, p *Proxy) { k.watch <- struct{}{} }, 0},
		"somebody takes it away":  {func(k *fakeKernel, p *Proxy) { clear(k.sets); k.watch <- struct{}{} }, 1},
		"a server says otherwise": {func(k *fakeKernel, p *Proxy) { p.Reset([]*api.Service{dnsService()}, nil, 9) }, 1},
	} {
		k := left()
		loop(t, k, func(p *Proxy, applied *[]int64) {
			p.Reset([]*api.Service{dnsService()}, []*api.Endpoints{dnsEndpoints()}, 0)
			synctest.Wait()
			if k.replaced != 0 || len(*applied) > 0 {
				t.Errorf("%s: replaced %d times, applied %v, by what is remembered", name, k.replaced, *applied)
			}
			tc.then(k, p)
			pass(p, time.Minute)
			if k.replaced != tc.want {
				t.Errorf("%s: replaced %d times, want %d", name, k.replaced, tc.want)
			}
		})
	}
}
