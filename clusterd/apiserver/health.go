package apiserver

import (
	"context"
	"net/http"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// serveHealth answers GET /healthz: the process serves.
func (s *Server) serveHealth(w http.ResponseWriter, _ *request) error {
	w.Write([]byte("ok\n"))
	return nil
}

// readyTimeout bounds what asks for readiness waits for: less than who asks does.
const readyTimeout = 2 * time.Second

// serveReady answers GET /readyz: reads and writes are possible.
func (s *Server) serveReady(w http.ResponseWriter, r *request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if _, err := s.cache.latest(ctx); err != nil {
		return api.Errorf(api.Unready, "the store does not answer yet")
	}
	w.Write([]byte("ok\n"))
	return nil
}

// alwaysTimeout bounds how long what is always answered waits for what is newest:
// the numbers themselves ask the store once more.
const alwaysTimeout = time.Second

// serveMetrics answers GET /metrics.
func (s *Server) serveMetrics(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, ask{verb: api.VerbRead, kind: s.kinds["servers"]}); err != nil {
		return err
	}
	if s.cfg.Metrics == nil {
		return api.Errorf(api.NotFound, "this server keeps no metrics")
	}
	s.cfg.Metrics.ServeHTTP(w, r.Request)
	return nil
}
