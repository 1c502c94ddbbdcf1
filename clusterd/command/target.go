package command

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// target is the cluster and namespace a command speaks of: flags, else the
// environment.
type target struct {
	addr, cacert, namespace, socket string
}

func (t *target) register(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&t.addr, "addr", "", "address of the API, https://host:port; several with commas (CLUSTERD_ADDR)")
	f.StringVar(&t.socket, "socket", "", "local socket of a server, instead of address and token: admin.sock in its data directory, for root of that machine")
	f.StringVar(&t.cacert, "cacert", "", "file with the cluster's CA certificate (CLUSTERD_CACERT)")
	f.StringVarP(&t.namespace, "namespace", "n", "", "namespace; \"default\" when unset (CLUSTERD_NAMESPACE)")
}

// ns is the namespace to use.
func (t *target) ns() string {
	return cmp.Or(t.namespace, os.Getenv("CLUSTERD_NAMESPACE"), api.DefaultNamespace)
}

func (t *target) addresses() ([]string, error) {
	addr := cmp.Or(t.addr, os.Getenv("CLUSTERD_ADDR"))
	if addr == "" {
		return nil, errors.New("no CLUSTERD_ADDR, so no cluster to talk to: for a local one run " + devEnvHint)
	}
	return strings.Split(addr, ","), nil
}

// token is a secret, so it is never a flag: those can be seen by everybody.
func (t *target) token() (string, error) {
	tok := os.Getenv("CLUSTERD_TOKEN")
	if tok == "" {
		return "", errors.New("no CLUSTERD_TOKEN, which proves who you are: for a local cluster run " + devEnvHint)
	}
	if _, err := pki.ParseUserToken(tok); err != nil {
		return "", fmt.Errorf("CLUSTERD_TOKEN: %w", err)
	}
	return strings.TrimSpace(tok), nil
}

// ca is the cluster's CA certificate in PEM, as it was given or in the file
// that was; empty if none was.
func (t *target) ca() ([]byte, error) {
	ca := cmp.Or(t.cacert, os.Getenv("CLUSTERD_CACERT"))
	if ca == "" || strings.Contains(ca, "-----BEGIN") {
		return []byte(ca), nil
	}
	b, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("CLUSTERD_CACERT: read the CA certificate: %w", err)
	}
	return b, nil
}

// tls verifies servers by the CA given, else by the system's.
func (t *target) tls() (*tls.Config, error) {
	ca, err := t.ca()
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if len(ca) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("CLUSTERD_CACERT: there is no certificate in it: want the ca.crt of a server's data directory")
		}
	}
	return conf, nil
}

// client returns a client of the cluster. It does not connect.
func (t *target) client() (*client.Client, error) {
	if t.socket != "" {
		return client.New(client.Config{Socket: t.socket, UserAgent: daemon.UserAgent("clusterd")})
	}
	addrs, err := t.addresses()
	if err != nil {
		return nil, err
	}
	tok, err := t.token()
	if err != nil {
		return nil, err
	}
	conf, err := t.tls()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Addresses: addrs, Token: tok, TLS: conf, UserAgent: daemon.UserAgent("clusterd")})
}

// host is host:port of the server c talks to.
func host(c *client.Client) string {
	u, err := url.Parse(c.Address())
	if err != nil {
		return ""
	}
	if u.Port() == "" {
		return u.Host + ":443"
	}
	return u.Host
}

// list returns all objects of a kind: of the target's namespace if it has one.
func list[O api.Any](ctx context.Context, t *target, k *api.Kind[O]) ([]O, error) {
	c, err := t.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ns := ""
	if k.Scope == api.Namespaced {
		ns = t.ns()
	}
	items, _, err := client.Of(c, k).List(ctx, ns, nil)
	return items, err
}

// find reads "kind/name", or a kind and a name as two words. An image may be
// called what pods call it.
func find(args []string) (api.AnyKind, string, error) {
	word, name, ok := strings.Cut(args[0], "/")
	switch {
	case ok && len(args) > 1:
		return nil, "", fmt.Errorf("%q names an object, so %q is too much", args[0], args[1])
	case !ok && len(args) > 1:
		name = args[1]
	}
	k, err := api.Lookup(word)
	if err != nil {
		return nil, "", err
	}
	if ok && name == "" {
		return nil, "", fmt.Errorf("%q lacks the name: want %s/<name>", args[0], word)
	}
	if k.Info().Name == api.Images.Name && api.CheckName(name) != nil {
		if ref, err := api.ParseImage(name); err == nil {
			name = api.ImageName(ref.String())
		}
	}
	return k, name, nil
}
