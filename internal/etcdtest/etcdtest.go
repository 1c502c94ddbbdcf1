// Package etcdtest runs an etcd for a test, on loopback, as an operator would
// run one that clusterd is to use: a single member in the test's process, or
// several in processes of their own, which can be killed.
//
// Invariants: it takes transactions as large as clusterd writes; a token of one
// that asks for passwords lives for a second; nothing of it is left after the
// test.
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
	cfg := config(t.TempDir())
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

// config is that of an etcd of one member, at ports that are free.
func config(dir string) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.UnsafeNoFsync = dir, true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.MaxTxnOps, cfg.MaxRequestBytes = 1024, 16<<20
	cfg.AuthTokenTTL, cfg.BcryptCost = 1, 4 // as little as can be
	cfg.ListenPeerUrls, cfg.ListenClientUrls = loopback("127.0.0.1:0"), loopback("127.0.0.1:0")
	return cfg
}

func loopback(addr string) []url.URL { return []url.URL{{Scheme: "http", Host: addr}} }
