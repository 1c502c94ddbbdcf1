package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// route is one row of the table that mux and OpenAPI are made from.
type route struct {
	method, path string
	kind         *kind    // nil: not about one kind
	verb         string   // for its meter; empty: it is not measured
	act          api.Verb // what it does, for who may and who did
	routine      bool     // nodes do it all the time
	open         bool     // answered without authentication
	always       bool     // answered to whoever was known last, when the store is silent
	doc          doc
	serve        func(s *Server, w http.ResponseWriter, r *request) error
}

// request is an authenticated request.
type request struct {
	*http.Request
	route
	by      caller
	with    string // whose credential it shows, where that is not who it is
	deeds   []deed // empty: what its route and path say
	audited bool
	rise    func() // gives its seat back; nil: it takes none
}

// ref names the object of the path.
func (r *request) ref() api.Ref { return r.kind.ref(r.PathValue("namespace"), r.PathValue("name")) }

// key returns the object's key. A name that cannot be one has no object.
func (r *request) key() (string, error) {
	ns, name := r.PathValue("namespace"), r.PathValue("name")
	if r.kind.namespaced() && !plausible(ns) || !plausible(name) {
		return "", notFound(r.ref())
	}
	return r.kind.key(ns, name), nil
}

// plausible keeps path values from reaching other keys.
func plausible(name string) bool {
	return name != "" && len(name) <= 253 && name[0] != '.' && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f })
}

// mux builds the handler of all routes.
func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			began, code := time.Now(), api.Code(http.StatusOK)
			req := &request{Request: r, route: rt}
			err := s.enter(w, req)
			if err != nil {
				code = s.refuse(w, r, err)
			}
			s.audit(req, code, err)
			s.measure(rt, r, int(code), time.Since(began))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.refuse(w, r, s.lost(mux, w, r)) })
	return mux
}

// enter authenticates and serves.
func (s *Server) enter(w http.ResponseWriter, r *request) error {
	if !r.open {
		if outlived(r.TLS) {
			w.Header().Set("Connection", "close") // the next one shows the renewed certificate
		}
		by, err := s.identify(r.Request, r.always)
		if err != nil {
			r.with = by.Identity.String()
			return err
		}
		s.stamp(w)
		r.by = by
		r.by.program, r.by.requestID = r.UserAgent(), r.Header.Get(api.HeaderRequestID)
		if len(r.by.requestID) > 128 {
			return api.Errorf(api.BadRequest, "%s is longer than 128 bytes", api.HeaderRequestID)
		}
		if f := r.Header.Get(api.HeaderFence); f != "" {
			if r.by.fence, err = strconv.ParseInt(f, 10, 64); err != nil || r.by.fence <= 0 {
				return api.Errorf(api.BadRequest, "%s: want the revision of the fence", api.HeaderFence)
			}
		}
	}
	if !r.open {
		if err := s.seat(r); err != nil {
			return err
		}
		defer r.stand()
	}
	err := r.serve(s, w, r)
	if err != nil && !r.open {
		s.stamp(w) // the cache may have been empty before
	}
	return err
}

// stamp says what an answer is as of: this server has seen everything up to
// there. Who reads from a snapshot, or writes, says it more exactly.
func (s *Server) stamp(w http.ResponseWriter) {
	if now := s.cache.now.Load(); now != nil {
		w.Header().Set(api.HeaderRevision, strconv.FormatInt(now.revision, 10))
	}
}

// lost says why no route matched.
func (s *Server) lost(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) error {
	if _, err := s.identify(r, false); err != nil {
		return err
	}
	s.stamp(w)
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = m
		if _, pattern := mux.Handler(other); pattern != "/" {
			allowed = append(allowed, m)
		}
	}
	if allowed != nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &api.Error{Code: http.StatusMethodNotAllowed, Message: fmt.Sprintf("%s is not possible here: %s is", r.Method, strings.Join(allowed, ", "))}
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) > 1 && parts[0] == "v1" {
		word := parts[1]
		if word == "namespaces" && len(parts) > 3 {
			word = parts[3]
		}
		var known []string
		for plural := range s.kinds {
			known = append(known, plural)
		}
		if !slices.Contains(known, word) {
			return api.Errorf(api.NotFound, "there is no kind %q%s", word, didYouMean(word, known))
		}
	}
	return api.Errorf(api.NotFound, "nothing is served at %s: see /v1/openapi.json", r.URL.Path)
}

// ServeHTTP serves the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			s.refuse(w, r, api.Errorf(api.Internal, "internal error: the server's log says more"))
		}
	}()
	s.handler.ServeHTTP(w, r)
}

// InProcess returns the API as identity sees it, for clients in this process.
func (s *Server) InProcess(id Identity) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

// snapshot returns what a read is answered from: with ?stale=true what this
// server has, else the newest.
func (s *Server) snapshot(r *request) (*snapshot, error) {
	if r.flag("stale") {
		return s.cache.any(r.Context())
	}
	return s.latest(r)
}

// latest returns a snapshot that has every write acknowledged before r came, if
// whoever asks still belongs here by it: members are admitted by what the cache
// has, which may not know of their deletion yet.
func (s *Server) latest(r *request) (*snapshot, error) {
	snap, err := s.cache.latest(r.Context())
	if err == nil && r.by.still != nil {
		_, err = r.by.still(snap)
	}
	return snap, err
}

// flag reads a boolean query parameter.
func (r *request) flag(name string) bool {
	v, _ := strconv.ParseBool(r.URL.Query().Get(name))
	return v
}

// answer writes one object, or any other JSON.
func answer(w http.ResponseWriter, code int, revision int64, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set(api.HeaderRevision, strconv.FormatInt(revision, 10))
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(code)
	w.Write(append(body[:len(body):len(body)], '\n'))
}
