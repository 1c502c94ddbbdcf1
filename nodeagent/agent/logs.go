package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// logQuery is what a reader of logs wants.
type logQuery struct {
	container                    string
	follow, previous, timestamps bool
	tail                         int // -1: all
	since                        time.Time
}

func parseLogQuery(r *http.Request) (q logQuery, err error) {
	q = logQuery{container: containerOf(r), tail: -1}
	v := r.URL.Query()
	for name, flag := range map[string]*bool{"follow": &q.follow, "previous": &q.previous, "timestamps": &q.timestamps} {
		if s := v.Get(name); s != "" {
			if *flag, err = strconv.ParseBool(s); err != nil {
				return q, badQuery(name, s, "true or false")
			}
		}
	}
	if s := v.Get("tail"); s != "" {
		if q.tail, err = strconv.Atoi(s); err != nil || q.tail < 0 {
			return q, badQuery("tail", s, "a number of lines")
		}
	}
	if s := v.Get("since"); s != "" {
		if d, err := time.ParseDuration(s); err == nil {
			q.since = time.Now().Add(-d)
		} else if q.since, err = time.Parse(time.RFC3339, s); err != nil {
			return q, badQuery("since", s, "a duration such as 5m, or a time such as 2026-01-02T15:04:05Z")
		}
	}
	return q, nil
}

// serveLogs streams the lines of a container, as text. Following goes on into
// the next runs of the container, until the pod has ended.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) error {
	q, err := parseLogQuery(r)
	if err != nil {
		return err
	}
	uid := r.PathValue("uid")
	if a.cfg.Logs == "" {
		return api.Errorf(api.NotFound, "node %s keeps no logs", a.cfg.Name)
	}
	if api.CheckName(q.container) != nil || !filepath.IsLocal(uid) || filepath.Base(uid) != uid {
		return a.noContainer(uid, q.container) // they become a path
	}
	attempts := a.attempts(uid, q.container)
	view, here, _ := a.workers.View(uid)
	_, named := view.Containers[q.container]
	switch {
	case here && !named:
		return a.noContainer(uid, q.container)
	case len(attempts) == 0 && !here:
		return a.noContainer(uid, q.container)
	case q.previous && len(attempts) < 2:
		return api.Errorf(api.NotFound, "container %s has had one run only: leave previous out", q.container)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out := &lineWriter{w: w, flush: http.NewResponseController(w), stamps: q.timestamps}
	attempt := 0
	if len(attempts) > 0 {
		attempt = attempts[len(attempts)-1]
	}
	if q.previous {
		attempt, q.follow = attempts[len(attempts)-2], false
	}
	query := logfile.Query{Tail: max(q.tail, 0), Since: q.since, Follow: q.follow}
	if q.tail == 0 {
		query.Tail = -1
	}
	for {
		ctx, cancel := context.WithCancel(r.Context())
		over := make(chan struct{})
		next := make(chan bool, 1)
		go func() { // lives as long as this run is read
			next <- a.awaitNext(ctx, uid, q.container, attempt)
			close(over)
		}()
		query.Done = over
		err := out.copy(ctx, pod.LogPath(a.cfg.Logs, uid, q.container, attempt), query)
		if err != nil || !q.follow || r.Context().Err() != nil {
			cancel()
			<-next
			return nil // the status is sent: an end of the stream is all that is left to say
		}
		more := <-next
		cancel()
		if !more {
			return nil
		}
		attempt++
		query.Tail = 0
	}
}

// awaitNext blocks until the container's run after attempt has begun, or the
// pod has ended or ctx has, which is false.
func (a *Agent) awaitNext(ctx context.Context, uid, container string, attempt int) bool {
	for {
		v, ok, changed := a.workers.View(uid)
		run := v.Containers[container]
		switch {
		case run.Attempt > attempt && run.Running:
			return true
		case !ok || v.Phase.Ended() || run.Done:
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// attempts lists the runs of a container whose logs are here, oldest first.
func (a *Agent) attempts(uid, container string) []int {
	if uid != filepath.Base(uid) || container != filepath.Base(container) {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(a.cfg.Logs, uid, container))
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			if n, err := strconv.Atoi(name); err == nil {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// lineWriter sends lines as they come.
type lineWriter struct {
	w      http.ResponseWriter
	flush  *http.ResponseController
	stamps bool
	within bool // what was sent last is not the end of its line
}

func (l *lineWriter) copy(ctx context.Context, path string, q logfile.Query) error {
	_ = l.flush.Flush() // the reader sees at once that it is connected
	for line, err := range logfile.Read(ctx, path, q) {
		if err != nil {
			return err
		}
		text := line.Text
		if !line.Partial {
			text += "\n"
		}
		if l.stamps && !l.within {
			text = line.At.Format(time.RFC3339Nano) + " " + text
		}
		l.within = line.Partial
		if _, err := fmt.Fprint(l.w, text); err != nil {
			return err
		}
		if q.Follow {
			_ = l.flush.Flush()
		}
	}
	return nil
}

const (
	keepLogs  = time.Hour // after the pod is gone
	logsSweep = 10 * time.Minute
)

// sweepLogs removes the logs of pods that are long gone from the node.
func (a *Agent) sweepLogs(ctx context.Context) {
	tick := time.NewTicker(logsSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		here := a.workers.Views()
		entries, _ := os.ReadDir(a.cfg.Logs)
		for _, e := range entries {
			if _, ok := here[e.Name()]; ok || !a.quiet(e.Name()) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(a.cfg.Logs, e.Name())); err != nil {
				a.log.Warn("old logs stay", "uid", e.Name(), "error", err)
			}
		}
	}
}

// quiet reports whether nothing was logged for a pod for long.
func (a *Agent) quiet(uid string) bool {
	files, _ := filepath.Glob(filepath.Join(a.cfg.Logs, uid, "*", "*"))
	return !slices.ContainsFunc(files, func(path string) bool {
		fi, err := os.Stat(path)
		return err == nil && time.Since(fi.ModTime()) < keepLogs
	})
}
