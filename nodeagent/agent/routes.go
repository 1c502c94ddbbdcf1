package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

func (a *Agent) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				a.refuse(w, r, err)
			}
		})
	}
	handle("GET /v1/pods/{uid}/logs", a.serveLogs)
	handle("POST /v1/pods/{uid}/exec", a.serveExec)
	handle("POST /v1/pods/{uid}/connect", a.serveConnect)
	handle("GET /v1/usage", a.serveUsage)
	handle("GET /v1/images", a.serveImages)
	handle("GET /v1/images/archive", a.serveArchive)
	handle("PUT /v1/images", a.serveImport)
	handle("DELETE /v1/images", a.serveRemoveImage)
	if a.cfg.Metrics != nil {
		mux.Handle("GET /metrics", a.cfg.Metrics)
	}
	return mux
}

// refuse answers with a problem, as the API does.
func (a *Agent) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*api.Error](err)
	switch {
	case ok:
	case errors.Is(err, runtime.ErrNotFound):
		e = api.Errorf(api.NotFound, "%s", err)
	case errors.Is(err, runtime.ErrNotRunning):
		e = api.Errorf(api.Conflict, "%s", err)
	case errors.Is(err, runtime.ErrCannotStart):
		e = api.Errorf(api.Invalid, "%s", err)
	default:
		e = api.Errorf(api.Internal, "%s", err)
	}
	if r.Context().Err() == nil {
		a.log.Debug("request refused", "path", r.URL.Path, "error", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(int(e.Code))
	_ = json.NewEncoder(w).Encode(e)
}

// containerOf returns the container a request is about; the main one unless it says.
func containerOf(r *http.Request) string {
	if c := r.URL.Query().Get("container"); c != "" {
		return c
	}
	return api.MainContainer
}

// noContainer says which containers of a pod there are, when name is none of them.
func (a *Agent) noContainer(uid, name string) error {
	view, here, _ := a.workers.View(uid)
	has := slices.Sorted(maps.Keys(view.Containers))
	if !here && filepath.IsLocal(uid) && filepath.Base(uid) == uid { // what is gone has left its logs
		entries, _ := os.ReadDir(filepath.Join(a.cfg.Logs, uid))
		for _, e := range entries {
			has = append(has, e.Name())
		}
	}
	if len(has) == 0 {
		return api.Errorf(api.NotFound, "the pod has no container %q that ever ran here", name)
	}
	return api.Errorf(api.NotFound, "the pod has no container %q that ever ran here: it has %s", name, strings.Join(has, ", "))
}

func badQuery(name, value, want string) error {
	return api.Errorf(api.BadRequest, "%s=%s: want %s", name, fmt.Sprintf("%.40q", value), want)
}
