package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// session is one command that runs in a container.
type session struct {
	pod, container string
	command        []string
	stdin, tty     bool
}

func (c *cli) exec() *cobra.Command {
	var s session
	cmd := &cobra.Command{
		Use:   "exec pod/<name> | app/<name> [flags] -- <command> [argument…]",
		Short: "Run a command in a container of a pod, or of an app's first ready pod",
		Example: `  clusterd exec pod/web-x7k2pa-1 -- nginx -v
  clusterd exec -it pod/web-x7k2pa-1 -- bash
  clusterd exec app/web -n shop -c log -- ls /var/log
  tar c . | clusterd exec -i pod/web-x7k2pa-1 -- tar x -C /tmp`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: c.complete(api.Pods, api.Apps),
		RunE: func(cmd *cobra.Command, args []string) error {
			// Flags stand behind the name too: no command begins with a dash.
			if err := cmd.ParseFlags(args[1:]); err != nil {
				return err
			}
			if s.command = cmd.Flags().Args(); len(s.command) == 0 {
				return fmt.Errorf("what to run? want: clusterd exec %s -- <command>", args[0])
			}
			pod, err := c.podOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			s.pod = pod
			return c.run(cmd.Context(), s)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&s.container, "container", "c", "", "the container; the main one when unset")
	f.BoolVarP(&s.stdin, "stdin", "i", false, "pass this program's input on")
	f.BoolVarP(&s.tty, "tty", "t", false, "give the command a terminal")
	return cmd
}

// podOf reads pod/<name>, or app/<name> for the first of its pods that serves.
func (c *cli) podOf(ctx context.Context, word string) (string, error) {
	if !strings.Contains(word, "/") {
		return "", fmt.Errorf("%q could be a pod or an app: want pod/%s or app/%s", word, word, word)
	}
	k, name, err := find([]string{word})
	if err != nil {
		return "", err
	}
	switch kind := k.Info().Name; {
	case name != "" && kind == api.Pods.Name:
		return name, nil
	case name != "" && kind == api.Apps.Name:
		return c.readyPod(ctx, name)
	}
	return "", fmt.Errorf("%s is no pod: want pod/<name> or app/<name>", word)
}

// readyPod names the first pod of an app that serves.
func (c *cli) readyPod(ctx context.Context, app string) (string, error) {
	cl, err := c.to.client()
	if err != nil {
		return "", err
	}
	defer cl.Close()
	if _, err := client.Of(cl, api.Apps).Get(ctx, c.to.ns(), app); err != nil {
		return "", err
	}
	pods, _, err := client.Of(cl, api.Pods).List(ctx, c.to.ns(), client.By("app", app))
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if p.Status.Ready {
			return p.Meta.Name, nil
		}
	}
	return "", fmt.Errorf("app %s has no ready pod; to see why: clusterd describe app %s", app, app)
}

// run opens the session and returns when the command has ended.
func (c *cli) run(ctx context.Context, s session) error {
	cl, err := c.to.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	q := url.Values{"command": s.command, "tty": {strconv.FormatBool(s.tty)}, "stdin": {strconv.FormatBool(s.stdin)}}
	if s.container != "" {
		q.Set("container", s.container)
	}
	conn, err := c.stream(ctx, cl, s.pod, "exec", q)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	frames := tunnel.NewFrames(conn)
	if restore, err := c.terminal(ctx, s, frames); err != nil {
		return err
	} else if restore != nil {
		defer restore()
	}
	go func() {
		if s.stdin {
			io.Copy(frames.Writer(tunnel.FrameStdin), c.in)
		}
		frames.Write(tunnel.FrameCloseStdin, nil)
	}()
	return c.show(ctx, cl, frames, s.pod, "exec", c.out)
}

// stream opens a connection of frames to what of a pod.
func (c *cli) stream(ctx context.Context, cl *client.Client, pod, what string, q url.Values) (net.Conn, error) {
	// Who cannot be reached is found out where it is tried again, and said well.
	if _, err := client.Of(cl, api.Pods).Get(ctx, c.to.ns(), pod); err != nil {
		return nil, err
	}
	if c.to.socket != "" {
		return nil, errors.New("not over --socket: make a token there, clusterd token create --role admin, and go on with that")
	}
	tok, err := c.to.token()
	if err != nil {
		return nil, err
	}
	conf, err := c.to.tls()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host(cl)+client.Path(api.Pods.Info(), c.to.ns(), pod)+"/"+what+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	req.Header.Set("User-Agent", daemon.UserAgent("clusterd"))
	conn, err := tunnel.Dial(ctx, host(cl), conf, req, tunnel.ExecProtocol)
	if no, ok := errors.AsType[*tunnel.StatusError](err); ok {
		e := &api.Error{}
		if json.Unmarshal(no.Body, e) != nil || e.Message == "" {
			e.Message = no.Error()
		}
		e.Code = api.Code(no.Status)
		return nil, e
	}
	if err != nil {
		return nil, fmt.Errorf("%s in pod %s: %w", what, pod, err)
	}
	return conn, nil
}

// ask returns why this user cannot have a connection to what of a pod now.
func (c *cli) ask(ctx context.Context, cl *client.Client, pod, what string) error {
	path := client.Path(api.Pods.Info(), c.to.ns(), pod) + "/" + what
	return cl.Call(ctx, http.MethodPost, path, url.Values{"dry_run": {"true"}}, nil, nil)
}

// isRefusal reports whether err says that the user may not, or is nobody here (any
// more): it stays so, however often it is tried.
func isRefusal(err error) bool { return api.Is(err, api.Denied) || api.Is(err, api.Unauthenticated) }

// show prints to out what comes from the connection to what of a pod, to the end of
// what is there; its exit code is the result.
func (c *cli) show(ctx context.Context, cl *client.Client, frames *tunnel.Frames, pod, what string, out io.Writer) error {
	for {
		kind, data, err := frames.Read()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if no := c.ask(ctx, cl, pod, what); isRefusal(no) {
				return no // it ended with the right to it
			}
			return fmt.Errorf("%s in pod %s: the connection broke off: %w", what, pod, err)
		}
		switch kind {
		case tunnel.FrameStdout:
			_, err = out.Write(data)
		case tunnel.FrameStderr:
			_, err = c.err.Write(data)
		case tunnel.FrameExit:
			var e tunnel.Exit
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("%s in pod %s: %w", what, pod, err)
			}
			if e.Error != "" {
				fmt.Fprintf(c.err, "Error: %s in pod %s: %s\n", what, pod, e.Error)
			}
			if e.Code != 0 {
				return exitCode(e.Code)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sizePoll is how often a change of the window's size is looked for: asking
// works everywhere, while the signal for it does not.
const sizePoll = 250 * time.Millisecond

// terminal hands this terminal over to the command: raw, and its size as it
// changes. restore is nil if there is nothing to restore.
func (c *cli) terminal(ctx context.Context, s session, frames *tunnel.Frames) (restore func(), err error) {
	in, ok := c.in.(*os.File)
	if !s.tty || !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, nil
	}
	if s.stdin {
		state, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return nil, fmt.Errorf("make the terminal raw: %w", err)
		}
		restore = func() { term.Restore(int(in.Fd()), state) }
	}
	go func() {
		var last tunnel.Size
		for {
			if w, h, err := term.GetSize(int(in.Fd())); err == nil {
				if now := (tunnel.Size{Cols: uint16(w), Rows: uint16(h)}); now != last {
					if last = now; frames.WriteJSON(tunnel.FrameResize, now) != nil {
						return
					}
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(sizePoll):
			}
		}
	}()
	return restore, nil
}
