package daemon

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func until(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestFirstErrorStopsAllAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slowEnd := false
		err := Run(t.Context(),
			Func(until),
			Named("gossip", Func(func(context.Context) error { time.Sleep(time.Second); return errors.New("port taken") })),
			Func(func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Minute)
				slowEnd = true
				return errors.New("later")
			}),
			Func(func(context.Context) error { return nil }), // done early: no reason to stop
		)
		if err == nil || err.Error() != "gossip: port taken" {
			t.Errorf("got %v", err)
		}
		if !slowEnd {
			t.Error("did not wait for a slow part")
		}
	})
}

func TestCancelIsNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Named("a", Func(until)), Func(until)); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestSignalsCancel(t *testing.T) {
	ctx, stop := Signals(t.Context())
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

func TestLogConfig(t *testing.T) {
	var c LogConfig
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	c.Register(fs)
	if err := fs.Parse([]string{"-log-level", "debug", "-log-format", "json"}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log, err := c.New("clusterd", &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("plan", "ref", "app/shop/web")
	if !strings.Contains(out.String(), `"ref":"app/shop/web"`) {
		t.Errorf("logged %s", &out)
	}
	for _, bad := range []LogConfig{{Level: "loud"}, {Format: "xml"}} {
		if _, err := bad.New("", &out); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	MetricsHandler(NewMetrics()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"go_goroutines", "process_resident_memory_bytes", `clusterd_build_info{version="`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
}
