// Package registry asks the registries of images: the nodes that fetch from
// them, and the servers that want to know an image's digest, ask in the same way.
//
// Invariants: credentials go to the image's registry and to no other host, and
// into no error; that nobody answers is known within seconds; only a registry
// on this machine may do without TLS.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
)

// Credentials are for one registry; the zero value is nobody's.
type Credentials struct{ Username, Password string }

// Client asks registries. Use New.
type Client struct{ http *http.Client }

// New returns a client that keeps its connections.
func New() (*Client, error) {
	// The library has a log of its own, of what callers are told by errors anyway.
	if err := log.SetLevel("fatal"); err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 5 * time.Second
	t.ResponseHeaderTimeout = 30 * time.Second
	return &Client{&http.Client{Transport: t}}, nil
}

// Resolver finds images as whoever the credentials say.
func (c *Client) Resolver(as Credentials) remotes.Resolver {
	opts := []docker.RegistryOpt{docker.WithClient(c.http), docker.WithPlainHTTP(docker.MatchLocalhost)}
	if as != (Credentials{}) {
		opts = append(opts, docker.WithAuthorizer(docker.NewDockerAuthorizer(
			docker.WithAuthClient(c.http),
			docker.WithAuthCreds(func(string) (string, string, error) { return as.Username, as.Password, nil }),
		)))
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(opts...)})
}

// Digest asks an image's registry for the digest it has now. The error is a *Trouble.
func (c *Client) Digest(ctx context.Context, name string, as Credentials) (string, error) {
	ref, err := Normalize(name)
	if err != nil {
		return "", &Trouble{Message: err.Error()}
	}
	_, desc, err := c.Resolver(as).Resolve(ctx, ref.String())
	if err != nil {
		return "", Explain(err)
	}
	return desc.Digest.String(), nil
}

// Normalize names an image in full: nginx is docker.io/library/nginx:latest. A
// digest makes a tag mean nothing.
func Normalize(name string) (reference.Named, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", name, err)
	}
	return ref, nil
}

// Trouble is why a registry did not give what it was asked for.
type Trouble struct {
	Refused bool // it gives the image to others only
	Silent  bool // it did not answer: no other image of it is to be had either
	Message string
}

func (t *Trouble) Error() string { return t.Message }

// Explain says what an error of a Resolver means.
func Explain(err error) *Trouble {
	if t, ok := errors.AsType[*Trouble](err); ok {
		return t
	}
	status, unexpected := errors.AsType[remoteerrors.ErrUnexpectedStatus](err)
	dns, unnamed := errors.AsType[*net.DNSError](err)
	op, silent := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization), unexpected && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return &Trouble{Refused: true, Message: "it is not for everybody, or the credentials are wrong"}
	case errdefs.IsNotFound(err):
		return &Trouble{Message: "the registry has no such image"}
	case unnamed:
		return &Trouble{Silent: true, Message: dns.Error()}
	case silent:
		return &Trouble{Silent: true, Message: op.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &Trouble{Silent: true, Message: "the registry does not answer in time"}
	}
	return &Trouble{Message: err.Error()}
}
