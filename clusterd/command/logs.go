package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// logQuery is what to read of each log.
type logQuery struct {
	container  string
	follow     bool
	tail       int
	since      time.Duration
	previous   bool
	timestamps bool
}

func (c *cli) logs() *cobra.Command {
	var q logQuery
	cmd := &cobra.Command{
		Use:   "logs app/<name> | job/<name> | pod/<name>",
		Short: "Print what the containers of an app, a job or a pod wrote",
		Example: `  clusterd logs app/web --tail 20
  clusterd logs -f app/web
  clusterd logs job/migrate
  clusterd logs pod/web-x7k2pa-1 -c sidecar --since 10m
  clusterd logs pod/web-x7k2pa-1 --previous`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(api.Apps, api.Jobs, api.Pods),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, name, err := find(args)
			if err != nil {
				return err
			}
			kind := k.Info().Name
			if kind != api.Pods.Name && kind != api.Apps.Name && kind != api.Jobs.Name || name == "" {
				return fmt.Errorf("%s has no log: want app/<name>, job/<name> or pod/<name>", args[0])
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			l := &logPrinter{c: cl, ns: c.to.ns(), q: q, out: c.out, err: c.err, seen: map[string]bool{}, said: map[string]bool{}}
			switch kind {
			case api.Pods.Name:
				return l.pod(cmd.Context(), name, "")
			case api.Jobs.Name:
				return l.job(cmd.Context(), name)
			}
			return l.app(cmd.Context(), name)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.container, "container", "c", "", "the container; the main one when unset")
	f.BoolVarP(&q.follow, "follow", "f", false, "go on printing what is written")
	f.IntVar(&q.tail, "tail", -1, "only so many last lines of each log; all when unset")
	f.DurationVar(&q.since, "since", 0, "only lines since this long ago, such as 10m")
	f.BoolVarP(&q.previous, "previous", "p", false, "the log of the container's run before this one")
	f.BoolVar(&q.timestamps, "timestamps", false, "with the time each line was written")
	return cmd
}

// logPrinter prints logs, whole lines at a time.
type logPrinter struct {
	c        *client.Client
	ns       string
	q        logQuery
	out, err io.Writer

	mu   sync.Mutex // for what is below, and for writing
	seen map[string]bool
	said map[string]bool // errors that were told
}

// app prints the logs of all pods of an app.
func (l *logPrinter) app(ctx context.Context, name string) error {
	if _, err := client.Of(l.c, api.Apps).Get(ctx, l.ns, name); err != nil {
		return err
	}
	return l.pods(ctx, client.By("app", name), func(*api.Pod) bool { return true })
}

// job prints the logs of the pods of a job's newest run; with follow, also of
// the runs to come.
func (l *logPrinter) job(ctx context.Context, name string) error {
	job, err := client.Of(l.c, api.Jobs).Get(ctx, l.ns, name)
	if err != nil {
		return err
	}
	earlier := map[string]bool{}
	newest := true
	for _, run := range job.Status.Runs {
		if run.Phase != api.RunSkipped {
			earlier[run.Name], newest = !newest, false
		}
	}
	return l.pods(ctx, client.By("job", name), func(p *api.Pod) bool { return !earlier[p.Spec.Run] })
}

// pods prints the logs of all pods that filter finds and want wants; with
// follow, also of pods to come.
func (l *logPrinter) pods(ctx context.Context, filter client.Filter, want func(*api.Pod) bool) error {
	pods, rev, err := client.Of(l.c, api.Pods).List(ctx, l.ns, filter)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	failed := 0
	start := func(pod *api.Pod) {
		l.mu.Lock()
		skip := l.seen[pod.Meta.Name] || !hasLog(pod) || !want(pod)
		l.seen[pod.Meta.Name] = l.seen[pod.Meta.Name] || !skip
		l.mu.Unlock()
		if skip {
			return
		}
		wg.Go(func() {
			switch err := l.pod(ctx, pod.Meta.Name, "["+pod.Meta.Name+"] "); {
			case err == nil || ctx.Err() != nil:
			case isRefusal(err): // as of all the others
				end(err)
			default: // one pod that cannot answer must not hide the others
				l.mu.Lock()
				defer l.mu.Unlock()
				failed++
				l.tell(err)
			}
		})
	}
	for _, p := range pods {
		start(p)
	}
	for l.q.follow && ctx.Err() == nil {
		for ev, err := range client.Of(l.c, api.Pods).Watch(ctx, l.ns, filter, rev) {
			if isRefusal(err) {
				end(err)
			}
			if err != nil {
				break
			}
			rev = ev.Revision
			if ev.Type == api.EventPut {
				start(ev.Object)
			}
		}
		select { // the stream broke: go on after a moment, from where it was
		case <-ctx.Done():
		case <-time.After(time.Second):
			if now, at, err := client.Of(l.c, api.Pods).List(ctx, l.ns, filter); err == nil {
				rev = at
				for _, p := range now {
					start(p)
				}
			}
		}
	}
	wg.Wait()
	switch why := context.Cause(ctx); {
	case isRefusal(why):
		return why
	case len(pods) > 0 && failed == len(pods):
		return errors.New("none of its pods could answer")
	}
	return nil
}

// tell prints an error, once if it is the same for several pods.
func (l *logPrinter) tell(err error) {
	text := message(err)
	if !l.said[text] {
		l.said[text] = true
		fmt.Fprintln(plain{l.err}, "Error:", text)
	}
}

// hasLog reports whether the pod has begun to run, on a node that can be asked.
func hasLog(p *api.Pod) bool {
	switch p.Status.Phase {
	case api.PhaseRunning, api.PhaseStopping, api.PhaseSucceeded, api.PhaseFailed:
		return true
	}
	return p.Status.Restarts() > 0
}

// pod prints the log of one pod, each line after prefix. With follow, a stream
// that breaks, as when a server restarts, goes on after the last line.
func (l *logPrinter) pod(ctx context.Context, name, prefix string) error {
	params := url.Values{"timestamps": {"true"}}
	set := func(key, value string, when bool) {
		if when {
			params.Set(key, value)
		}
	}
	set("container", l.q.container, l.q.container != "")
	set("follow", "true", l.q.follow)
	set("tail", strconv.Itoa(l.q.tail), l.q.tail >= 0)
	set("previous", "true", l.q.previous)
	set("since", l.q.since.String(), l.q.since > 0)
	for began := false; ; {
		last, answered, err := l.stream(ctx, name, prefix, params)
		switch began = began || answered; {
		case ctx.Err() != nil || err == nil:
			return nil
		case !l.q.follow || !began || !api.Is(err, api.Unready):
			return err
		}
		if !last.IsZero() {
			params.Set("since", last.Add(1).Format(time.RFC3339Nano))
			params.Del("tail")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// stream prints one answer to its end, and returns when its last line was written,
// and whether there was an answer at all.
func (l *logPrinter) stream(ctx context.Context, name, prefix string, params url.Values) (last time.Time, answered bool, err error) {
	resp, err := l.c.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(api.Pods.Info(), l.ns, name) + "/logs", Query: params})
	if err != nil {
		return last, false, err
	}
	defer resp.Body.Close()
	r := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := r.ReadString('\n')
		if stamp, text, ok := strings.Cut(line, " "); ok {
			at, perr := time.Parse(time.RFC3339Nano, stamp)
			if perr == nil {
				last = at
			}
			if perr != nil || l.q.timestamps {
				text = line
			}
			if err := l.print(prefix, text); err != nil {
				return last, true, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return last, true, nil
		case err != nil:
			return last, true, api.Errorf(api.Unready, "log of pod %s: the stream broke: %s", name, err)
		}
	}
}

// print writes a whole line: another pod's must not follow on it.
func (l *logPrinter) print(prefix, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := io.WriteString(l.out, prefix+strings.TrimSuffix(text, "\n")+"\n")
	return err
}
