package command

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/settings"
)

func (c *cli) server() *cobra.Command {
	var cfg server.Config
	var log daemon.LogConfig
	var pods, services, tokenFile string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane: API, store, scheduler, controllers",
		Example: `  clusterd server --data-dir /var/lib/clusterd/server --advertise 10.0.0.1
  clusterd server --advertise 10.0.0.2 --join 10.0.0.1 --token-file /etc/clusterd/join-token
  clusterd server --config /etc/clusterd/server.hcl

The first start in a data directory founds a cluster, and leaves there what its
users need: admin.token (a secret) and ca.crt. With --join it becomes one more
server of a cluster that is there, has no admin.token, and takes over when others
fail; its join token is made with: clusterd token create --role server

The servers keep the state themselves. With --etcd-endpoints it is in an etcd that
you run: the servers share it, and --join only gets them the cluster's keys.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Log, err = log.New("clusterd", c.err); err != nil {
				return err
			}
			if cfg.Pods, err = network("--pods", pods); err != nil {
				return err
			}
			if cfg.Services, err = network("--services", services); err != nil {
				return err
			}
			if len(cfg.Join) > 0 {
				if cfg.JoinToken, err = joinToken(tokenFile); err != nil {
					return err
				}
			}
			s, err := server.Open(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return s.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", defaultDataDir, "directory that keeps the cluster's state")
	f.StringVar(&cfg.Name, "name", "", "name of this server; the machine's host name when unset")
	f.StringVar(&cfg.Listen, "listen", "", "host:port of the API; port "+server.DefaultPort+" of all addresses when unset")
	f.StringVar(&cfg.Advertise, "advertise", "", "address others reach this server by; the machine's first when unset")
	f.StringVar(&cfg.Gossip, "gossip", "", "host:port of the gossip, UDP and TCP; port "+server.DefaultGossipPort+" of all addresses when unset")
	f.StringVar(&cfg.Peer, "peer", "", "port, or host:port, that the other servers reach its store by; port "+server.DefaultPeerPort+" when unset")
	f.StringSliceVar(&cfg.Join, "join", nil, "host or host:port of a server whose cluster to join; may be repeated; only for the first start")
	f.StringVar(&tokenFile, "token-file", "", "file with the token to join with (CLUSTERD_JOIN_TOKEN)")
	f.StringSliceVar(&cfg.Etcd.Endpoints, "etcd-endpoints", nil, "https://host:port of an etcd that you run, and that is to have the state; may be repeated")
	f.StringVar(&cfg.Etcd.Prefix, "etcd-prefix", server.DefaultEtcdPrefix, "what all keys in that etcd begin with; nothing else may use it")
	f.StringVar(&cfg.Etcd.CAFile, "etcd-ca-file", "", "PEM file of the authorities to verify that etcd with; those of the machine when unset")
	f.StringVar(&cfg.Etcd.CertFile, "etcd-cert-file", "", "PEM file of the certificate to show to that etcd")
	f.StringVar(&cfg.Etcd.KeyFile, "etcd-key-file", "", "PEM file of the key of that certificate")
	f.StringVar(&cfg.Etcd.Username, "etcd-username", "", "user of that etcd, if it has authentication enabled; its role needs readwrite on the prefix, and nothing else")
	f.StringVar(&cfg.Etcd.PasswordFile, "etcd-password-file", "", "file with the password of that user, which others cannot read; a password that is changed is taken up")
	f.StringSliceVar(&cfg.Hosts, "host", nil, "one more name or address for the server's certificate; may be repeated")
	f.StringVar(&pods, "pods", server.DefaultPods, "network of the pods, of which each node gets a /24; only for the first start")
	f.StringVar(&services, "services", server.DefaultServices, "network of the services' virtual addresses; only for the first start")
	f.DurationVar(&cfg.Lease, "lease", 20*time.Second, "how long a node that is cut off goes on with stateful pods, before it stops them and they may run elsewhere")
	f.StringVar(&cfg.AuditLog, "audit-log", "", "file that tells who did what, a line of JSON each; audit.log in the data directory when unset, "+server.AuditOff+" for none")
	log.Register(f)
	settings.Attach(cmd)
	return cmd
}

// joinToken is the token in the file, else that of the environment. A server
// that has joined needs none any more, so the file may be gone.
func joinToken(file string) (string, error) {
	if file == "" {
		return os.Getenv("CLUSTERD_JOIN_TOKEN"), nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return string(b), nil
}

func network(flag, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p != p.Masked() {
		return p, fmt.Errorf("%s %q: want an IPv4 network such as 10.244.0.0/16", flag, s)
	}
	return p, nil
}
