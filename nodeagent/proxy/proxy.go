// Package proxy sends connections to a service's virtual IP, or to a node
// port, to one of the service's pods. It is the kernel that does so: the proxy
// keeps one nftables table, called clusterd, as the services and their
// endpoints say (table.go shows it).
//
// Invariants: every change is one transaction, so a connection meets the rules
// before it or after it; what changes costs what changed, not what there is;
// only slots whose pod is gone, or has too many, move; a draining pod gets no
// new connection while another can take it; until the services are known they are
// refused, or what an earlier agent programmed stays until a server says how they
// are now, for what is remembered may be older: so a restart drops no connection;
// a table that somebody else touched is put back. Everything happens in the
// network namespace of the thread that called Open.
package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Config says which node this is.
type Config struct {
	Pods     netip.Prefix // addresses of all pods of the cluster
	Subnet   netip.Prefix // addresses of this node's pods
	Services netip.Prefix // virtual IPs

	// Applied is called once everything up to a revision of the endpoints is
	// programmed, with the newest one only. It is called again after an error.
	Applied func(ctx context.Context, revision int64) error
	// Programmed hears how long the kernel took for each change; nil: not wanted.
	Programmed func(took time.Duration)
	Log        hclog.Logger
}

// Proxy programs the services of the cluster on one node. It is a Sink.
type Proxy struct {
	cfg     Config
	log     hclog.Logger
	kernel  kernel
	touched func(ctx context.Context, do func()) error // calls do when others change rules
	close   func()

	mu        sync.Mutex
	services  map[api.Ref]*api.Service
	endpoints map[api.Ref]map[string]*api.Endpoints // by service, by name of the slice
	dirty     map[api.Ref]bool
	known     bool    // there was a Reset
	all       bool    // everything is dirty
	revision  int64   // of the endpoints
	told      bool    // the revision was told, perhaps again
	stale     Ruleset // frontends with pods less than before: their connections need a look

	wake    chan struct{}
	applied chan int64
	sweeps  chan struct{}

	// of Run alone, once there is one
	rules     Ruleset
	owner     map[Frontend]api.Ref
	owned     map[api.Ref][]Frontend
	contested map[api.Ref]bool // wanted a frontend that another service has
	ready     bool             // the table is programmed by this Proxy
	from      Ruleset          // what an earlier run left: slots stay where they are
	holds     bool             // … and it is in the kernel still, and newer than what is remembered
}

// Open takes over the network namespace of the calling thread. Where no proxy
// was before, pods reach the world from now on, and services reject.
func Open(cfg Config) (*Proxy, error) {
	for name, p := range map[string]netip.Prefix{"pods": cfg.Pods, "subnet": cfg.Subnet, "services": cfg.Services} {
		if !p.IsValid() || !p.Addr().Is4() {
			return nil, fmt.Errorf("%s: %s is not an IPv4 network", name, p)
		}
	}
	k, err := openNFT(ranges{cfg.Pods, cfg.Subnet, cfg.Services})
	if err != nil {
		return nil, err
	}
	p := newProxy(cfg, k)
	p.touched, p.close = k.watch, k.close
	if err := p.takeOver(); err != nil {
		k.close()
		return nil, err
	}
	return p, nil
}

func newProxy(cfg Config, k kernel) *Proxy {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	return &Proxy{
		cfg: cfg, log: cfg.Log.Named("proxy"), kernel: k, close: func() {},
		services: map[api.Ref]*api.Service{}, endpoints: map[api.Ref]map[string]*api.Endpoints{}, dirty: map[api.Ref]bool{},
		wake: make(chan struct{}, 1), applied: make(chan int64, 1), sweeps: make(chan struct{}, 1),
		rules: Ruleset{}, owner: map[Frontend]api.Ref{}, owned: map[api.Ref][]Frontend{}, contested: map[api.Ref]bool{},
	}
}

// Close lets go of the kernel; the rules stay and go on working.
func (p *Proxy) Close() { p.close() }

// Reset replaces all that is known.
func (p *Proxy) Reset(services []*api.Service, endpoints []*api.Endpoints, revision int64) {
	p.mu.Lock()
	clear(p.services)
	clear(p.endpoints)
	for _, s := range services {
		p.services[refOf(s)] = s
	}
	for _, e := range endpoints {
		if e.Spec.Service != "" {
			p.putSlice(e)
		}
	}
	p.known, p.all, p.revision, p.told = true, true, revision, revision > 0
	p.mu.Unlock()
	nudge(p.wake)
}

// Service tells of one change of a service.
func (p *Proxy) Service(ev ServiceEvent) {
	if ev.Object == nil {
		return
	}
	p.mu.Lock()
	ref := refOf(ev.Object)
	p.services[ref] = ev.Object
	if ev.Type == api.EventDelete {
		delete(p.services, ref)
	}
	p.dirty[ref] = true
	p.mu.Unlock()
	nudge(p.wake)
}

// Endpoints tells of one change of a slice of a service's endpoints.
func (p *Proxy) Endpoints(ev EndpointsEvent) {
	p.mu.Lock()
	if e := ev.Object; e != nil && e.Spec.Service != "" { // an app's own need no rules
		ref := serviceOf(e)
		if ev.Type == api.EventDelete {
			delete(p.endpoints[ref], e.Meta.Name)
			if len(p.endpoints[ref]) == 0 {
				delete(p.endpoints, ref)
			}
		} else {
			p.putSlice(e)
		}
		p.dirty[ref] = true
	}
	p.revision, p.told = max(p.revision, ev.Revision), true
	p.mu.Unlock()
	nudge(p.wake)
}

func serviceOf(e *api.Endpoints) api.Ref {
	return api.Ref{Namespace: e.Meta.Namespace, Name: e.Spec.Service}
}

func (p *Proxy) putSlice(e *api.Endpoints) {
	ref := serviceOf(e)
	if p.endpoints[ref] == nil {
		p.endpoints[ref] = map[string]*api.Endpoints{}
	}
	p.endpoints[ref][e.Meta.Name] = e
}

func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

const (
	retryAfter = time.Second
	sweepPause = 100 * time.Millisecond // before: answers that are on their way arrive; and after
	recheck    = 5 * time.Minute        // looks at the table even when nobody seems to have touched it
)

// takeOver begins where the last run ended. The first one must not wait for Run:
// a connection that a pod opens before there are rules is never masqueraded, as
// the kernel translates what it tracks by its first packet.
func (p *Proxy) takeOver() error {
	from, there, err := p.kernel.read()
	switch {
	case err != nil && !there:
		return err
	case err != nil:
		p.log.Warn("cannot read the rules of the last run: connections of sticky clients may move", "error", err)
	}
	p.from, p.holds = from, there && err == nil
	if !there { // masquerade, and reject what is not known yet
		if err := p.kernel.replace(Ruleset{}); err != nil {
			return fmt.Errorf("nftables table %s: %w", tableName, err)
		}
	}
	return nil
}

// Run programs what it is told until ctx is done.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	touched := make(chan struct{}, 1)
	wg.Go(func() { p.report(ctx) })
	wg.Go(func() { p.sweep(ctx) })
	if p.touched != nil {
		wg.Go(func() { p.watchTable(ctx, touched) })
	}
	again, look := stopped(), time.NewTimer(recheck)
	defer again.Stop()
	defer look.Stop()
	var rest time.Time // no look at the table before
	for {
		check := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-again.C:
		case <-touched:
			look.Reset(time.Until(rest))
		case <-look.C:
			check = true
		}
		begun := time.Now()
		if err := p.step(check); err != nil {
			p.log.Warn("cannot program the services, trying again", "error", err)
			p.ready = false // whatever is there now is replaced
			again.Reset(retryAfter)
		}
		if check { // others may change their own rules all the time: a long table is not read each time
			rest = time.Now().Add(20 * time.Since(begun))
			look.Reset(recheck)
		}
	}
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// newest puts v in a channel of size one, in place of what nobody took. Only
// one goroutine may send.
func newest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

func (p *Proxy) programmed(took time.Duration) {
	if p.cfg.Programmed != nil {
		p.cfg.Programmed(took)
	}
}

// step brings the kernel to what is known now, after a look at what is there
// if check is set.
func (p *Proxy) step(check bool) error {
	p.mu.Lock()
	known, remembered := p.known, p.revision == 0
	p.mu.Unlock()
	if !known || remembered && p.keeps(check) {
		return nil // what an earlier run left is all there is
	}
	p.holds = false
	p.mu.Lock()
	plans, revision, told := p.plan(), p.revision, p.told
	p.told = false
	p.mu.Unlock()
	if p.ready && check {
		if ok, err := p.kernel.intact(p.rules); err != nil || !ok {
			p.log.Warn("somebody changed the services' rules: putting them back", "error", err)
			p.ready = false
		}
	}
	d := p.take(plans)
	begun := time.Now()
	switch {
	case !p.ready:
		if err := p.kernel.replace(p.rules); err != nil {
			return p.untold(told, err)
		}
		p.ready, p.from = true, nil
		p.expect(maps.Clone(p.rules))
		p.programmed(time.Since(begun))
		p.log.Info("services programmed", "frontends", len(p.rules), "took", time.Since(begun))
	case len(d) > 0:
		c := newChanges()
		for _, l := range d {
			c.change(l.f, l.from, l.to)
		}
		if err := p.kernel.update(c); err != nil {
			return p.untold(told, err)
		}
		p.programmed(time.Since(begun))
		p.expect(d.stale())
		if p.log.IsDebug() {
			p.log.Debug("services changed", "plan", d.String())
		}
	}
	if told && revision > 0 {
		newest(p.applied, revision)
	}
	return nil
}

// keeps reports whether what an earlier run left is in the kernel still: that
// is newer than what is remembered.
func (p *Proxy) keeps(check bool) bool {
	if !p.holds || !check {
		return p.holds
	}
	ok, err := p.kernel.intact(p.from)
	if err != nil || !ok {
		p.log.Warn("somebody changed the services' rules of the last run, and no server says what they are: putting back what is remembered", "error", err)
	}
	return err == nil && ok
}

// expect asks for a look at the connections to frontends.
func (p *Proxy) expect(stale Ruleset) {
	if len(stale) == 0 {
		return
	}
	p.mu.Lock()
	if p.stale == nil {
		p.stale = Ruleset{}
	}
	maps.Copy(p.stale, stale)
	p.mu.Unlock()
	nudge(p.sweeps)
}

// untold makes a revision that could not be programmed be told later.
func (p *Proxy) untold(told bool, err error) error {
	p.mu.Lock()
	p.told = p.told || told
	p.mu.Unlock()
	return err
}

// report tells what is programmed, beside the loop: a slow server must not
// delay the next change.
func (p *Proxy) report(ctx context.Context) {
	for {
		var revision int64
		select {
		case <-ctx.Done():
			return
		case revision = <-p.applied:
		}
		if p.cfg.Applied == nil {
			continue
		}
		for err := p.cfg.Applied(ctx, revision); err != nil && ctx.Err() == nil; err = p.cfg.Applied(ctx, revision) {
			p.log.Debug("cannot tell what is programmed, trying again", "revision", revision, "error", err)
			select {
			case <-ctx.Done():
				return
			case revision = <-p.applied: // newer
			case <-time.After(retryAfter):
			}
		}
	}
}

// sweep forgets stale connections, beside the loop and not all the time: the
// kernel's table may be long.
func (p *Proxy) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.sweeps:
		}
		if !sleep(ctx, sweepPause) {
			return
		}
		p.mu.Lock()
		stale := p.stale
		p.stale = nil
		p.mu.Unlock()
		n, err := p.kernel.sweep(staleFlows(stale))
		if err != nil {
			p.log.Warn("cannot forget connections to pods that are gone", "error", err)
		}
		if n > 0 {
			p.log.Debug("forgot connections to pods that are gone", "count", n)
		}
		if !sleep(ctx, sweepPause) {
			return
		}
	}
}

// sleep reports whether d has passed before ctx was done.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (p *Proxy) watchTable(ctx context.Context, touched chan struct{}) {
	for ctx.Err() == nil {
		err := p.touched(ctx, func() { nudge(touched) })
		if ctx.Err() != nil {
			return
		}
		p.log.Warn("cannot watch for changes of the rules by others, trying again", "error", err)
		sleep(ctx, retryAfter)
	}
}
