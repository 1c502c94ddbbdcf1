package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// insufficientStorage is the class of a write the store has no room for.
const insufficientStorage api.Code = http.StatusInsufficientStorage

// problem maps any error to the one that crosses the wire. An error without a
// class is ours: it is logged, and its text stays here.
func (s *Server) problem(r *http.Request, err error) *api.Error {
	e, ok := errors.AsType[*api.Error](err)
	switch {
	case errors.Is(err, errSilent), errors.Is(err, store.ErrNoLeader) && s.cfg.External != nil:
		e = s.silence()
	case ok:
		copied := *e
		e = &copied
	case errors.Is(err, store.ErrFull) && s.cfg.External != nil:
		e = api.Errorf(insufficientStorage, "the etcd is full, and takes no deletes either: let it compact and defragment, or raise its quota, and disarm its alarm with etcdctl alarm disarm")
	case errors.Is(err, store.ErrFull):
		e = api.Errorf(insufficientStorage, "%s", store.ErrFull)
	case errors.Is(err, store.ErrCompacted):
		e = api.Errorf(api.Gone, "that revision is no longer kept: list again")
	case errors.Is(err, store.ErrNoLeader):
		e = api.Errorf(api.Unready, "the servers have no leader at the moment: try again")
	case errors.Is(err, store.ErrRefused): // as while a password is changed
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = api.Errorf(api.Unready, "%s: the server's log says why", store.ErrRefused)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = api.Errorf(api.Unready, "the request took too long: try again")
	default:
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = api.Errorf(api.Internal, "internal error: the server's log says more")
	}
	if e.Title == "" {
		e.Title = http.StatusText(int(e.Code))
	}
	return e
}

// refuse answers with the problem err is, and returns its class.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) api.Code {
	e := s.problem(r, err)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if h.Get(api.HeaderRevision) != "" { // not for strangers
		s.stamp(w)
	}
	switch e.Code {
	case api.Unauthenticated:
		h.Set("WWW-Authenticate", `Bearer realm="clusterd"`)
	case api.Unready, api.TooMany:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(int(e.Code))
	json.NewEncoder(w).Encode(e)
	return e.Code
}

// silenceEvery is how often the log says that the store is silent, while requests
// find it so.
const silenceEvery = time.Minute

// silence says whose silence it is, and has it in the log.
func (s *Server) silence() *api.Error {
	said := *errSilent
	if c := s.cfg.External; c != nil {
		said = *api.Errorf(api.Unready, "the etcd at %s does not answer: what runs goes on, and nothing changes until it is back", strings.Join(c.Endpoints, ", "))
	}
	now := time.Now()
	if last := s.silent.Load(); last == nil || now.Sub(*last) > silenceEvery {
		s.silent.Store(&now)
		s.log.Warn("the store is silent", "error", said.Message)
	}
	return &said
}

// invalid makes the error of a body that breaks rules.
func invalid(ref api.Ref, fields api.Errors) *api.Error {
	msg := "the object is not valid"
	if len(fields) == 1 {
		msg = "one field is not valid"
	}
	e := &api.Error{Code: api.Invalid, Message: msg, Fields: fields}
	if ref.Name != "" {
		e.Ref = &ref
	}
	return e
}

// notFound says that ref does not exist.
func notFound(ref api.Ref) *api.Error {
	return &api.Error{Code: api.NotFound, Message: "not found", Ref: &ref}
}

// conflict makes an error about ref of class code.
func conflict(code api.Code, ref api.Ref, format string, args ...any) *api.Error {
	e := api.Errorf(code, format, args...)
	e.Ref = &ref
	return e
}
