// Package server is the control plane put together: credentials, the API over
// its store, the tunnels of the nodes, gossip, and under leadership the
// scheduler and the controllers.
//
// Invariants:
//   - The parts know each other only through interfaces that are handed in
//     here; controllers and scheduler use the same API as everybody.
//   - Nothing is served but over TLS.
//   - What only a leader may do runs between two changes of leadership, and
//     every write of it carries the term's fence.
//   - The API and its store outlive everything that writes through them.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// Server is a member of the control plane. It must Run.
type Server struct {
	cfg      Config
	log      hclog.Logger
	creds    *credentials
	listener net.Listener
	addr     string // host:port others reach the API by
	peer     string // host:port the other servers reach its store by; "" if it has none
	api      *apiserver.Server
	hub      *tunnel.Hub
	gossip   *gossip.Gossip
	witness  *witness
	system   *client.Client // this process's own way in
	planner  *planner
	metrics  *metrics
	audit    *auditLog // nil: none is kept
	ready    chan struct{}
}

// Open takes the server's addresses and opens its state. The first start in a
// data directory founds a cluster.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, ready: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		s.close()
		return nil, s.removed(err)
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if err := s.checkRemoved(); err != nil {
		return err
	}
	founded, err := s.checkPlace(ctx)
	if err != nil {
		return err
	}
	if s.listener, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	host, err := s.locate(s.listener.Addr().String())
	if err != nil {
		return err
	}
	_, gossipPort, err := net.SplitHostPort(s.cfg.Gossip)
	if err != nil {
		return err
	}
	joined, err := s.join(ctx, net.JoinHostPort(host, gossipPort))
	if err != nil {
		return err
	}
	if s.creds, err = openCredentials(s.cfg.DataDir, s.cfg.Name, s.cfg.hosts(host), joined.keys); err != nil {
		return err
	}
	// Gossip first: the API asks it which servers are dead.
	s.gossip, err = gossip.Open(gossip.Config{
		Name: pki.ID{Role: pki.Server, Name: s.cfg.Name}.String(), Bind: s.cfg.Gossip, Advertise: ipOf(host),
		Keys: s.creds.now.Load().set.GossipKeys(), Seeds: s.seeds, Log: s.log.Named("gossip"),
	})
	if err != nil {
		return err
	}
	s.hub = tunnel.NewHub(s.log.Named("tunnel"))
	s.witness = newWitness(s.gossip, s.hub)
	s.planner = newPlanner(func() *client.Client { return s.system }, s.log)
	s.audit = openAudit(s.cfg.AuditLog, s.cfg.Name, s.log.Named("audit"))
	reg := daemon.NewMetrics()
	s.metrics = newMetrics(reg)
	images := s.cfg.Registry
	if images == nil {
		if images, err = newRegistries(); err != nil {
			return err
		}
	}
	conf := apiserver.Config{
		Name: s.cfg.Name, PodsCIDR: s.cfg.Pods.String(), ServicesCIDR: s.cfg.Services.String(),
		Version: daemon.Version(), Level: s.cfg.Level,
		Lease: s.cfg.Lease, Dead: s.witness.dead,
		Peer: peer, Issuer: issuer{s.creds}, Tunnels: tunnels{s.hub}, Planner: s.planner, Registry: images,
		Keys:     s.creds.now.Load().set,
		SpoolDir: filepath.Join(s.cfg.DataDir, spoolDir), Log: s.log,
		Metrics: daemon.MetricsHandler(reg), Meter: s.metrics,
	}
	if s.audit != nil {
		conf.Audit = s.audit
	}
	conf.External, conf.Founded = s.external(), founded
	if conf.External == nil && !s.cfg.InMemory {
		conf.Etcd = s.storeConfig(joined.members)
	}
	marker := filepath.Join(s.cfg.DataDir, aloneFile)
	_, missing := os.Stat(marker)
	conf.Alone = missing == nil
	if s.api, err = apiserver.Open(ctx, conf); err != nil {
		if _, sure := errors.AsType[*apiserver.RemovedError](err); joined.members != nil && !sure {
			err = fmt.Errorf("%w; should this server have been removed from the cluster meanwhile: empty %s, and join with a new token", err, s.cfg.DataDir)
		}
		return err
	}
	if err := s.admit(nil); err != nil {
		return err
	}
	if err := s.keepPlace(); err != nil {
		return err
	}
	s.metrics.vitals = s.api.Vitals
	if conf.Alone {
		if err := os.Remove(marker); err != nil {
			return err
		}
	}
	s.system = client.InProcess(s.api.InProcess(apiserver.Identity{Role: apiserver.RoleSystem, Name: s.cfg.Name}))
	return nil
}

// locate finds by which addresses others reach this server that listens on
// bound, and returns the host of them.
func (s *Server) locate(bound string) (host string, err error) {
	if s.addr, host, err = s.cfg.advertised(bound); err != nil {
		return "", err
	}
	if len(s.cfg.Etcd.Endpoints) == 0 {
		s.peer, err = s.cfg.peer(host)
	}
	return host, err
}

// storeConfig is how the server's member of the store runs.
func (s *Server) storeConfig(members map[string]string) *apiserver.EtcdConfig {
	cert, key, ca := pki.Files(filepath.Join(s.cfg.DataDir, identityDir))
	listen := s.peer
	if _, port, err := net.SplitHostPort(s.peer); err == nil && !s.cfg.peerIsLocal() {
		listen = net.JoinHostPort("0.0.0.0", port)
	}
	return &apiserver.EtcdConfig{
		Dir: filepath.Join(s.cfg.DataDir, storeDir), Name: s.cfg.Name, Members: members, Join: members != nil,
		PeerAddress: s.peer, PeerListen: listen,
		PeerCert: cert, PeerKey: key, PeerCA: ca, PeerName: pki.ServerName, NoSync: s.cfg.NoSync,
	}
}

// close releases what open took, as far as it came.
func (s *Server) close() error {
	var errs []error
	if s.listener != nil {
		s.listener.Close()
	}
	if s.gossip != nil {
		errs = append(errs, s.gossip.Close())
	}
	if s.hub != nil {
		s.hub.Close()
	}
	if s.api != nil {
		errs = append(errs, s.api.Close())
	}
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	return errors.Join(errs...)
}

// Addr is host:port that others reach the API by.
func (s *Server) Addr() string { return s.addr }

// GossipAddr is host:port that others reach the server's gossip by.
func (s *Server) GossipAddr() string { return s.gossip.Addr() }

// Ready is closed once the server has registered itself and the credentials
// for its users are on disk.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	var apiErr error
	apiEnded := make(chan struct{})
	go func() { defer close(apiEnded); apiErr = s.api.Run(behind) }()
	s.log.Info("server starts", "name", s.cfg.Name, "address", s.addr, "gossip", s.gossip.Addr(), "version", daemon.Version())
	err := daemon.Run(ctx,
		daemon.Func(func(ctx context.Context) error { // nothing goes on without it
			select {
			case <-apiEnded:
				return apiErr
			case <-ctx.Done():
				return nil
			}
		}),
		daemon.Named("serve the API", daemon.Func(s.serve)),
		daemon.Named("serve the local socket", daemon.Func(s.serveLocal)),
		daemon.Named("gossip", s.gossip),
		s.witness,
		daemon.Named("forecast", s.planner),
		daemon.Named("register", daemon.Func(s.register)),
		daemon.Named("lead", daemon.Func(s.lead)),
		daemon.Named("keys", daemon.Func(s.followKeys)),
		daemon.Func(s.renew),
	)
	s.yield()
	stop()
	if <-apiEnded; err == nil {
		err = apiErr
	}
	err = errors.Join(s.removed(err), s.close())
	s.log.Info("server ends")
	return err
}

// yield hands leadership over before the store stops: the others need not miss
// this server first.
func (s *Server) yield() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.api.Yield(ctx); err != nil {
		s.log.Warn("leadership is not handed over", "error", err)
	}
}

// grace is how long requests under way may still take when the server stops.
const grace = 500 * time.Millisecond

func (s *Server) serve(ctx context.Context) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	h := &http.Server{
		Handler:           s.api,
		TLSConfig:         s.creds.identity.ServerTLS(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return requests },
		// A stranger's failed handshake is not our failure.
		ErrorLog: s.log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		wait, cancel := context.WithTimeout(requests, grace)
		defer cancel()
		if h.Shutdown(wait) != nil { // watches never end by themselves
			cut()
			h.Close()
		}
		s.hub.Close()
	})()
	if err := h.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

// seeds are the gossip addresses of the other servers and of the nodes: a
// server that starts anew looks for them, as they look for it.
func (s *Server) seeds() []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	servers, _, err := client.Of(s.system, api.Servers).List(ctx, "", nil)
	if err != nil {
		return nil
	}
	nodes, _, err := client.Of(s.system, api.Nodes).List(ctx, "", nil)
	if err != nil {
		return nil
	}
	_, port, err := net.SplitHostPort(s.gossip.Addr())
	if err != nil {
		return nil
	}
	var out []string
	for _, other := range servers {
		if other.Meta.Name != s.cfg.Name {
			out = append(out, other.Spec.Gossip)
		}
	}
	for _, n := range nodes {
		if n.Status.Address != "" {
			out = append(out, net.JoinHostPort(n.Status.Address, port))
		}
	}
	return out
}

// ipOf is host if it is an address: gossip does not speak names.
func ipOf(host string) string {
	if net.ParseIP(host) == nil {
		return ""
	}
	return host
}

// peer tells the API who is at the other end.
func peer(cs *tls.ConnectionState) (role, name string, ok bool) {
	r, name, ok := pki.Peer(cs)
	return string(r), name, ok
}

// tunnels is the hub as the API wants it.
type tunnels struct{ *tunnel.Hub }

func (t tunnels) Connected() []string { return slices.Sorted(maps.Keys(t.Hub.Connected())) }
