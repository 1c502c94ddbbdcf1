package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ExternalConfig says where an etcd is that somebody else runs, and who we are
// to it.
type ExternalConfig struct {
	Endpoints []string // https://host:port of its members; http on loopback only
	// Prefix is the place of the cluster in it, such as /clusterd; nobody else
	// writes below.
	Prefix string
	// CAFile verifies the etcd, by default what the machine trusts; CertFile and
	// KeyFile prove who we are, and are read anew with every connection.
	CAFile, CertFile, KeyFile string
	// Username is who we are to it besides, if it asks its clients for a password.
	// Password is called whenever it wants to know, so that one that is changed is
	// taken up.
	Username string
	Password func() (string, error)

	Name string // of this server, in the election
	Log  hclog.Logger
}

// client translates c.
func (c ExternalConfig) client() (clientv3.Config, error) {
	conf := clientv3.Config{
		Endpoints: c.Endpoints, Logger: zap.NewNop(), DialTimeout: dialTimeout,
		// A member that is cut off is given up for another.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		MaxCallSendMsgSize: maxRequest + 1<<20, BackoffWaitBetween: 50 * time.Millisecond,
	}
	if len(c.Endpoints) == 0 {
		return conf, errors.New("the etcd has no endpoints")
	}
	if !strings.HasPrefix(c.Prefix, "/") || len(c.Prefix) < 2 || strings.HasSuffix(c.Prefix, "/") {
		return conf, fmt.Errorf("the prefix %q of the cluster's keys in the etcd: want it to begin with a slash, and not to end with one, such as /clusterd", c.Prefix)
	}
	if c.Username != "" {
		conf.Username, conf.Password = c.Username, unknown
		conf.DialOptions = append(conf.DialOptions, grpc.WithChainUnaryInterceptor(c.authenticate))
	}
	secure := 0
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil || u.Hostname() == "" || u.Port() == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "":
			return conf, fmt.Errorf("the endpoint %q of the etcd: want https://host:port", e)
		case u.Scheme == "https":
			secure++
		case !loopback(u.Hostname()):
			return conf, fmt.Errorf("the endpoint %s of the etcd: without TLS only one on this machine is used: want https", e)
		}
	}
	if secure == 0 {
		return conf, nil
	}
	if secure < len(c.Endpoints) {
		return conf, errors.New("the endpoints of the etcd: want all of them with https, or all on this machine without")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return conf, errors.New("a certificate for the etcd needs its key, and a key its certificate: want both files, or none")
	}
	info := transport.TLSInfo{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile}
	var err error
	if conf.TLS, err = info.ClientConfig(); err != nil {
		return conf, fmt.Errorf("the files for TLS with the etcd: %w", err)
	}
	return conf, nil
}

// unknown stands for the password where the client would keep it.
const unknown = "-"

// authenticate puts the password into the one call that has it. The client asks
// for a token with each stream that it opens, and when one has run out.
func (c ExternalConfig) authenticate(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if asked, ok := req.(*etcdserverpb.AuthenticateRequest); ok {
		password, err := c.Password()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		req = &etcdserverpb.AuthenticateRequest{Name: asked.Name, Password: password}
	}
	return call(ctx, method, req, reply, conn, opts...)
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// reach succeeds once one of the endpoints speaks to us. The client itself would
// try forever, and not say why.
func reach(ctx context.Context, conf clientv3.Config) error {
	var all []error
	for _, endpoint := range conf.Endpoints {
		err := greet(ctx, endpoint, conf.TLS)
		if err == nil {
			return nil
		}
		all = append(all, fmt.Errorf("reach the etcd at %s: %w", endpoint, err))
	}
	return errors.Join(all...)
}

// preface is how a client of HTTP/2 begins: the server answers with its settings.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// greet waits for the first byte of an answer: a server that wants another
// certificate of us says so only then.
func greet(ctx context.Context, endpoint string, secure *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	var dial interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	} = &net.Dialer{}
	if secure != nil {
		secure = secure.Clone()
		secure.NextProtos = []string{"h2"}
		dial = &tls.Dialer{Config: secure}
	}
	conn, err := dial.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	until, _ := ctx.Deadline()
	if err := conn.SetDeadline(until); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(preface)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
