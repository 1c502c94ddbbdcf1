package store

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// EtcdConfig says how a member of the cluster's store runs.
type EtcdConfig struct {
	Dir  string // where it keeps its data; made 0700
	Name string // of this member, unique in the cluster

	// PeerAddress is the host:port other members reach it at; by default one on
	// loopback. PeerListen is the ip:port it listens on, by default the same.
	PeerAddress, PeerListen string
	// PeerCert, PeerKey and PeerCA are PEM files. Peers speak mTLS only; a new
	// certificate in the files is used from the next handshake on.
	PeerCert, PeerKey, PeerCA string
	// PeerName is a DNS name that the certificate of every peer has: the CA
	// also signs for machines that are none. Empty takes any of the CA's.
	PeerName string

	// Members are the first members by name, with their PeerAddress; empty for a
	// cluster of one. Ignored once Dir has data.
	Members map[string]string
	// Join says that the cluster exists already and knows this member: any of
	// Members tells who is one now.
	Join bool

	alone bool // forget all other members, see Recover

	Quota int64 // most bytes of data; by default 8 GiB
	// NoSync trades durability for speed. Only for tests.
	NoSync bool
	Log    hclog.Logger
}

// maxRequest is the most bytes one transaction may have.
const maxRequest = 16 << 20

// embed translates c; socket is the path of the client's unix socket.
func (c EtcdConfig) embed() (cfg *embed.Config, socket string, err error) {
	if c.Dir == "" || c.PeerCert == "" || c.PeerKey == "" || c.PeerCA == "" {
		return nil, "", errors.New("a data directory and the peer certificate, key and CA files are required")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, "", err
	}
	cfg = embed.NewConfig()
	cfg.Dir = c.Dir
	if c.Name != "" {
		cfg.Name = c.Name
	}
	advertise := c.PeerAddress
	if advertise == "" {
		advertise = "127.0.0.1:0"
	}
	listen := c.PeerListen
	if listen == "" {
		listen = advertise
	}
	if socket, err = socketPath(c.Dir); err != nil {
		return nil, "", err
	}
	client := []url.URL{{Scheme: "unix", Path: socket}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ListenPeerUrls = []url.URL{{Scheme: "https", Host: listen}}
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "https", Host: advertise}}
	cfg.PeerTLSInfo = c.peerTLS()
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	if len(c.Members) > 0 {
		cfg.InitialCluster = initialCluster(c.Members)
	}
	cfg.ForceNewCluster = c.alone
	if c.Join {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}

	cfg.QuotaBackendBytes = c.Quota
	if c.Quota == 0 {
		cfg.QuotaBackendBytes = 8 << 30
	}
	cfg.MaxTxnOps, cfg.MaxRequestBytes = MaxOps, maxRequest
	// With batched transactions the defaults would hold a gigabyte of log in memory.
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 1000, 200
	// History serves lists that go on and watches that resume: minutes, not hours.
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
	cfg.EnableGRPCGateway = false
	cfg.UnsafeNoFsync = c.NoSync
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(logCore{log: c.logger()}))
	return cfg, socket, nil
}

// peerTLS is how members speak to each other.
func (c EtcdConfig) peerTLS() transport.TLSInfo {
	info := transport.TLSInfo{CertFile: c.PeerCert, KeyFile: c.PeerKey, TrustedCAFile: c.PeerCA, ClientCertAuth: true}
	if c.PeerName != "" {
		info.AllowedHostnames = []string{c.PeerName}
	}
	return info
}

func (c EtcdConfig) logger() hclog.Logger {
	if c.Log == nil {
		return hclog.NewNullLogger()
	}
	return c.Log
}

// maxSocketPath is what sun_path holds, less its NUL.
const maxSocketPath = 107

// socketPath returns a path in a directory that only this user can enter: below
// dir, or in a new temporary one when dir is too long for a socket's name.
func socketPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	own := filepath.Join(abs, "client")
	if len(own)+len("/sock") > maxSocketPath {
		if own, err = os.MkdirTemp("", socketTemp); err != nil {
			return "", err
		}
	} else if err := os.MkdirAll(own, 0o700); err != nil {
		return "", err
	}
	if err := os.Chmod(own, 0o700); err != nil { // it may have been there with other rights
		return "", fmt.Errorf("protect the client socket: %w", err)
	}
	return filepath.Join(own, "sock"), nil
}

const socketTemp = "clusterd-store-"

// removeSocketDir removes the directory of socket if it is a temporary one.
func removeSocketDir(socket string) {
	if dir := filepath.Dir(socket); strings.HasPrefix(filepath.Base(dir), socketTemp) {
		os.RemoveAll(dir)
	}
}
