package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Target is what to check of a pod over its network: with neither HTTP nor
// GRPC, a connection that opens is enough.
type Target struct {
	Container string // id of the run
	IP        string
	Port      int
	HTTP      string  // path
	GRPC      *string // service
	Timeout   time.Duration
}

func (t Target) address() string { return net.JoinHostPort(t.IP, strconv.Itoa(t.Port)) }

func (t Target) String() string {
	switch {
	case t.HTTP != "":
		return "GET http://" + t.address() + t.HTTP
	case t.GRPC != nil && *t.GRPC != "":
		return "gRPC health of " + *t.GRPC + " at " + t.address()
	case t.GRPC != nil:
		return "gRPC health of " + t.address()
	}
	return "connect to " + t.address()
}

// Prober performs health checks. Its errors say what was tried and what came.
type Prober interface {
	Probe(ctx context.Context, t Target) error
}

// Dialer is the Prober of real pods: it asks from the node.
type Dialer struct{}

// Probe checks the target once.
func (Dialer) Probe(ctx context.Context, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	var err error
	switch {
	case t.HTTP != "":
		err = get(ctx, t)
	case t.GRPC != nil:
		err = serving(ctx, t)
	default:
		err = dial(ctx, t)
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no answer within %s", t.Timeout)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	return nil
}

func dial(ctx context.Context, t Target) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.address())
	if err != nil {
		return plain(err)
	}
	return conn.Close()
}

// get counts 200 to 399 as healthy. It follows no redirect, which may lead
// anywhere, and opens a connection per check, as a new client would.
func get(ctx context.Context, t Target) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.address()+t.HTTP, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "clusterd-health")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 4<<10)
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// serving asks by the gRPC health protocol, over a connection of its own.
func serving(ctx context.Context, t Target) error {
	conn, err := grpc.NewClient("passthrough:///"+t.address(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithUserAgent("clusterd-health"))
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: *t.GRPC})
	switch {
	case status.Code(err) == codes.NotFound:
		return fmt.Errorf("the server knows no service %q", *t.GRPC)
	case status.Code(err) == codes.Unimplemented:
		return errors.New("the server does not speak the gRPC health protocol")
	case err != nil:
		return errors.New(status.Convert(err).Message())
	case resp.Status != healthpb.HealthCheckResponse_SERVING:
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// plain drops the addresses, which the target has already.
func plain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}
