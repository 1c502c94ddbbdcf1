// Package apiserver is the only way to read or change the cluster's state: one
// table-driven router for all kinds over one store.
//
// Invariants:
//   - Reads are linearizable: an answer has every write that was acknowledged
//     before the request, on whichever server.
//   - A write is one transaction on everything its decision was based on: what
//     was validated is what is written, or nothing is.
//   - The spec is kept verbatim; effective is fixed when the spec is written;
//     a status write cannot change either, nor the other way round.
//   - A watch never skips: it ends with the error gone instead.
//   - Nothing is answered without authentication but health and join.
//
// A write goes this way: router.go finds its row of the table of routes, and
// identity.go who asks; write.go reads it strictly, validates it and fixes what
// it means; txn.go commits what it changes on condition of what it read, and
// plans anew when that has changed meanwhile. The store's watch brings it back
// into cache.go, which answers reads, and hub.go tells whoever watches.
package apiserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// EtcdConfig says how this server's member of the store runs.
type EtcdConfig = store.EtcdConfig

// ExternalConfig says where an etcd is that the operator runs.
type ExternalConfig = store.ExternalConfig

// Networks of a cluster that says nothing else.
const (
	DefaultPods     = "10.244.0.0/16"
	DefaultServices = "10.96.0.0/16"
)

// Config says how a Server keeps its state and whom it trusts.
type Config struct {
	Name string // of this server
	// Version is what it runs, and Level up to which level of the cluster that
	// knows what servers write; by default api.Level.
	Version string
	Level   int
	// Etcd or External keeps the state; with neither it is in memory, for tests.
	Etcd     *EtcdConfig
	External *ExternalConfig
	shared   store.Store // what is in memory is of several servers
	// Founded says that the cluster exists: a store without one is the wrong one.
	Founded bool

	PodsCIDR     string // by default DefaultPods
	ServicesCIDR string // by default DefaultServices

	// Peer says who is at the other end of a TLS connection: role server or
	// node, and its name; false without a verified certificate.
	Peer func(*tls.ConnectionState) (role, name string, ok bool)
	// Dead says that a server, which joined then, does not answer the others; nil:
	// none ever is.
	Dead    func(server string, joined time.Time) bool
	Issuer  Issuer  // nil: machines cannot join
	Tunnels Tunnels // nil: no logs, exec and image loads
	// Keys are what a new cluster begins with; of one that exists, only their root
	// matters. By default they live as long as the server.
	Keys *keys.Set
	// Alone forgets all servers that are registered: the store was restored, or
	// recovered, and has no member but this server.
	Alone    bool
	SpoolDir string        // where image uploads wait on disk; by default the system's
	Planner  Planner       // nil: a plan does not say whether pods would find nodes
	Registry Registry      // nil: digests are known of images that were loaded by hand
	Lease    time.Duration // how long a node's run lease lasts; by default LeaseDefault
	// Metrics answers GET /metrics, for whoever has a token; nil: nothing does.
	Metrics http.Handler
	Meter   Meter   // nil: nobody measures
	Audit   Auditor // nil: nobody keeps what was done

	Log hclog.Logger
}

// Server serves the API. It must Run.
type Server struct {
	cfg            Config
	log            hclog.Logger
	store          store.Store
	kinds          map[string]*kind
	pods, services netip.Prefix
	cache          *cache
	opened         atomic.Pointer[opened] // the keys read last
	handler        http.Handler
	openapi        func() ([]byte, error)
	ended          chan struct{} // closed when Run returns
	common, admins *turns        // that requests take
	leads          *store.Office
	streams        streams
	silent         atomic.Pointer[time.Time] // when the log last said that the store is
	rings          rings
	applied        applied
	room           storeRoom
	usages         usages
	leases         Leases
	plans          atomic.Int64  // that were kept
	archives       chan struct{} // one for each image on its way from node to node
}

// Open opens the store and makes sure that it has what a cluster needs.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	s := &Server{cfg: cfg, log: cfg.Log.Named("api"), kinds: kindTable(), ended: make(chan struct{}), archives: make(chan struct{}, archives)}
	var err error
	if s.pods, err = network("pods", cfg.PodsCIDR, DefaultPods); err != nil {
		return nil, err
	}
	if s.services, err = network("services", cfg.ServicesCIDR, DefaultServices); err != nil {
		return nil, err
	}
	if s.pods.Overlaps(s.services) {
		return nil, fmt.Errorf("the pod range %s and the service range %s overlap: choose others", s.pods, s.services)
	}
	if s.store, err = cfg.openStore(ctx); errors.Is(err, store.ErrRemoved) {
		return nil, &RemovedError{}
	} else if err != nil {
		return nil, err
	}
	if err := s.init(ctx); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	return s, nil
}

func (c Config) openStore(ctx context.Context) (store.Store, error) {
	switch {
	case c.Etcd != nil:
		etcd := *c.Etcd
		etcd.Log = c.Log.Named("etcd")
		return store.OpenEtcd(ctx, etcd)
	case c.External != nil:
		etcd := *c.External
		etcd.Log = c.Log.Named("etcd")
		return store.OpenExternal(ctx, etcd)
	case c.shared != nil:
		return c.shared, nil
	}
	return store.NewMemory(), nil
}

func network(what, cidr, byDefault string) (netip.Prefix, error) {
	if cidr == "" {
		cidr = byDefault
	}
	p, err := netip.ParsePrefix(cidr)
	if err != nil || !p.Addr().Is4() || p != p.Masked() || p.Bits() > subnetBits {
		return p, fmt.Errorf("the %s range %q: want an IPv4 network of /%d or larger, such as %s", what, cidr, subnetBits, byDefault)
	}
	return p, nil
}

// init prepares a Server over a store.
func (s *Server) init(ctx context.Context) error {
	s.cache = &cache{store: s.store, decode: s.decode, log: s.log.Named("cache"), advanced: make(chan struct{})}
	s.cache.hub.keep, s.cache.hub.most = keepChanges, maxPending
	s.leads = store.NewOffice()
	s.applied.init()
	s.leases.table.Length, s.leases.table.Margin = cmp.Or(s.cfg.Lease, LeaseDefault), LeaseMargin
	s.rings.init()
	s.common, s.admins = newTurns(commonSeats, commonShare, commonLine), newTurns(adminSeats, adminShare, adminLine)
	s.handler = s.mux()
	s.cleanSpool()
	s.openapi = sync.OnceValues(OpenAPI)
	if s.cfg.Level == 0 {
		s.cfg.Level = api.Level
	}
	steps := []func(context.Context) error{s.checkLevel, s.checkRemoved, s.foundKeys, s.bootstrap}
	if s.cfg.Alone {
		steps = []func(context.Context) error{s.checkLevel, s.foundKeys, s.forgetServers, s.bootstrap}
	}
	for _, step := range steps {
		if err := s.patiently(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// patiently takes a step that needs a majority of the servers as soon as there
// is one: a server that starts while another dies would end with it otherwise.
func (s *Server) patiently(ctx context.Context, step func(context.Context) error) error {
	for {
		err := step(ctx)
		if !errors.Is(err, store.ErrNoLeader) || ctx.Err() != nil {
			return err
		}
		s.log.Warn("waits for a majority of the servers", "error", err)
		pause(ctx, time.Second)
	}
}

// bootstrap creates the default namespace, and says at which level the cluster
// begins. Only a store that has never had the namespace gets them: it cannot be
// deleted.
func (s *Server) bootstrap(ctx context.Context) error {
	t := s.newTxn(newSnapshot(0), caller{Identity: Identity{RoleSystem, "bootstrap"}})
	in, err := openSpec(s.kinds["namespaces"], "", api.DefaultNamespace, []byte(`{"spec":{"description":"For what has no namespace of its own."}}`))
	if err != nil {
		return err
	}
	if _, _, err := t.putSpec(in, precondition{}); err != nil {
		return err
	}
	t.read(levelKey)
	t.set(levelKey, marshal(levelRecord{s.cfg.Level, s.cfg.Name, s.cfg.Version}))
	_, err = s.store.Commit(ctx, t.store())
	if _, exists := errors.AsType[*store.ConflictError](err); exists {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", api.DefaultNamespace, err)
	}
	return nil
}

// Run keeps the server going until ctx ends, or the store does. Requests wait
// for it.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The cache outlives the parts that write through it.
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	var cache, parts sync.WaitGroup
	cache.Go(func() { s.cache.run(behind) })
	parts.Go(func() { s.followLeader(ctx) })
	parts.Go(func() { s.flushRings(ctx) })
	parts.Go(func() { s.makeRounds(ctx) })
	parts.Go(func() { s.tendMembers(ctx) })
	parts.Go(func() { s.tendKeys(ctx) })
	parts.Go(func() { s.watchSpace(ctx) })
	parts.Go(func() { s.forgetDone(ctx) })
	misfit := make(chan error, 1)
	parts.Go(func() {
		if err := s.tendLevel(ctx); err != nil {
			misfit <- err
		}
	})
	var err error
	select {
	case <-ctx.Done():
	case err = <-misfit:
	case <-s.store.Stopped():
		err = s.stopped()
	}
	cancel()
	parts.Wait()
	stop()
	cache.Wait()
	return err
}

// Close closes the store. Call it after Run has returned.
func (s *Server) Close() error { return s.store.Close() }
