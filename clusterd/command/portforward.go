package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// forwarding is one local port and the port of a pod behind it.
type forwarding struct{ local, remote int }

func (c *cli) portForward() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "port-forward pod/<name> | app/<name> | service/<name> [local:]<port>…",
		Short: "Reach ports of a pod from this machine, through the control plane",
		Long: `Listens on this machine and passes each connection on to a port of a pod. Of
an app, each connection goes to a pod that serves then, so it outlives rollouts.
A service's port is the one its clients use.
Local port 0 takes a free one.`,
		Example: `  clusterd port-forward app/web 8080:80
  clusterd port-forward pod/db-0-7 5432`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: c.complete(api.Apps, api.Pods, api.Services),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []forwarding
			for _, word := range args[1:] {
				f, err := parseForwarding(word)
				if err != nil {
					return err
				}
				all = append(all, f)
			}
			target, err := c.behind(cmd.Context(), args[0], all)
			if err != nil {
				return err
			}
			return c.forward(cmd.Context(), target, address, all)
		},
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1", "address of this machine to listen on")
	return cmd
}

// behind returns the app of a service, and makes the service's ports the app's.
// What is no service stays as it is.
func (c *cli) behind(ctx context.Context, target string, all []forwarding) (string, error) {
	k, name, err := find([]string{target})
	if err != nil || k.Info().Name != api.Services.Name || name == "" {
		return target, err
	}
	cl, err := c.to.client()
	if err != nil {
		return "", err
	}
	defer cl.Close()
	svc, err := client.Of(cl, api.Services).Get(ctx, c.to.ns(), name)
	if err != nil {
		return "", err
	}
	app, err := client.Of(cl, api.Apps).Get(ctx, c.to.ns(), svc.Spec.App)
	if err != nil {
		return "", err
	}
	for i, f := range all {
		if all[i].remote, err = targetOf(svc, app, f.remote); err != nil {
			return "", err
		}
	}
	return "app/" + app.Meta.Name, nil
}

// targetOf returns the pods' port behind a port of a service.
func targetOf(svc *api.Service, app *api.App, port int) (int, error) {
	ports := map[string]api.Port{}
	for _, c := range app.Effective.Template().Containers() {
		maps.Copy(ports, c.Ports)
	}
	var has []string
	for _, name := range slices.Sorted(maps.Keys(svc.Effective.Ports)) {
		if svc.Effective.Ports[name].Port == port {
			return svc.Effective.TargetPort(name, ports)
		}
		has = append(has, strconv.Itoa(svc.Effective.Ports[name].Port))
	}
	return 0, fmt.Errorf("service %s has no port %d; it has %s", svc.Meta.Name, port, strings.Join(has, ", "))
}

func parseForwarding(word string) (f forwarding, err error) {
	local, remote, both := strings.Cut(word, ":")
	if !both {
		remote = local
	}
	for _, p := range []struct {
		text  string
		into  *int
		least int
	}{{local, &f.local, 0}, {remote, &f.remote, 1}} {
		n, err := strconv.Atoi(p.text)
		if err != nil || n < p.least || n > 65535 {
			return f, fmt.Errorf("%q is no port: want local:port or port, such as 8080:80", word)
		}
		*p.into = n
	}
	return f, nil
}

// askAgain is how often a forwarding that nobody uses asks whether it still may be.
const askAgain = 5 * time.Second

// forward serves the local ports until ctx ends, or the right to connect does.
func (c *cli) forward(ctx context.Context, target, address string, all []forwarding) error {
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	pod, err := c.podOf(ctx, target)
	if err != nil {
		return err
	}
	if err := c.ask(ctx, cl, pod, "connect"); isRefusal(err) || api.Is(err, api.NotFound) {
		return err // what is only not ready may be so when somebody connects
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	for _, f := range all {
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(f.local)))
		if err != nil {
			return fmt.Errorf("listen for port %d: %w", f.remote, err)
		}
		fmt.Fprintf(c.out, "%s -> %s port %d\n", l.Addr(), target, f.remote)
		defer l.Close() // before the wait: what accepts ends with it
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer conn.Close()
					switch err := c.connect(ctx, cl, target, f.remote, conn); {
					case err == nil || ctx.Err() != nil:
					case isRefusal(err): // as are all that come
						end(err)
					default:
						fmt.Fprintln(plain{c.err}, "Error:", message(err))
					}
				})
			}
		})
	}
	wg.Go(func() { // while nobody connects, nothing else tells
		for tick := time.NewTicker(askAgain); ctx.Err() == nil; {
			select {
			case <-ctx.Done():
				tick.Stop()
			case <-tick.C:
				if err := c.ask(ctx, cl, pod, "connect"); isRefusal(err) {
					end(err)
				}
			}
		}
	})
	<-ctx.Done()
	if why := context.Cause(ctx); isRefusal(why) {
		return why
	}
	return nil
}

// connect passes one connection on, until both sides have said all.
func (c *cli) connect(ctx context.Context, cl *client.Client, target string, port int, local net.Conn) error {
	pod, err := c.podOf(ctx, target)
	if err != nil {
		return err
	}
	conn, err := c.stream(ctx, cl, pod, "connect", url.Values{"port": {strconv.Itoa(port)}})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close(); local.Close() })()
	frames := tunnel.NewFrames(conn)
	go func() {
		if _, err := io.Copy(frames.Writer(tunnel.FrameStdin), local); err != nil {
			conn.Close() // this side broke off: so does the other
			return
		}
		frames.Write(tunnel.FrameCloseStdin, nil)
	}()
	err = c.show(ctx, cl, frames, pod, "connect", local)
	if _, code := errors.AsType[exitCode](err); code {
		return nil // show has said why
	}
	return err
}
