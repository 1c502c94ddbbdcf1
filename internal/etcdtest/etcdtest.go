// Package etcdtest runs an etcd for a test, on loopback and in its process, as
// an operator would run one that clusterd is to use.
//
// Invariants: it takes transactions as large as clusterd writes; nothing of it
// is left after the test.
package etcdtest

import (
	"net/url"
	"sync"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Start starts an etcd, configured by change if that is not nil, and returns
// its endpoint.
func Start(t testing.TB, change func(*embed.Config)) (endpoint string) {
	t.Helper()
	endpoint, _ = Run(t, change)
	return endpoint
}

// Run does the same; stop ends the etcd before the test does.
func Run(t testing.TB, change func(*embed.Config)) (endpoint string, stop func()) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.UnsafeNoFsync = t.TempDir(), true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.MaxTxnOps, cfg.MaxRequestBytes = 1024, 16<<20
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = []url.URL{local}, []url.URL{local}
	if change != nil {
		change(cfg)
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(e.Close)
	t.Cleanup(stop)
	select {
	case <-e.Server.ReadyNotify():
	case <-t.Context().Done():
		t.Fatal("etcd does not start")
	}
	return cfg.ListenClientUrls[0].Scheme + "://" + e.Clients[0].Addr().String(), stop
}
